"""Build the wheel, install it into a fresh environment and run `hv` from another folder."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent


def run(*words: str | Path, cwd: Path) -> str:
    done = subprocess.run([str(w) for w in words], cwd=cwd, check=False, capture_output=True, text=True)  # noqa: S603 - own words
    if done.returncode:
        sys.exit(f"{' '.join(map(str, words))} ended with {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        elsewhere = Path(folder)
        run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", elsewhere, cwd=PROJECT)
        wheel = next(elsewhere.glob("*.whl"))
        venv.create(elsewhere / "env", with_pip=True)
        bin_folder = elsewhere / "env" / ("Scripts" if os.name == "nt" else "bin")
        pip = (bin_folder / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        run(*pip, "--require-hashes", "-r", PROJECT / "requirements.lock", cwd=elsewhere)
        run(*pip, "--no-deps", wheel, cwd=elsewhere)
        text = run(bin_folder / "hv", "--help", cwd=elsewhere)
        for command in ("demo", "record", "gateway", "project", "eod", "verify", "log", "status"):
            if command not in text:
                sys.exit(f"the installed wheel's `hv --help` does not name {command}:\n{text}")
        run(bin_folder / "python", "-c", "import harvester; harvester.open_day", cwd=elsewhere)
        print(f"{wheel.name}: installed, `hv --help` runs from another folder")  # noqa: T201 - a script for people


if __name__ == "__main__":
    main()
