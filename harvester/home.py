"""All paths below the data root.

Only this module turns symbols and dates into file names: no input can point outside the root, and every name is valid
on Windows, macOS and Linux.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from harvester.errors import BadSetting

if TYPE_CHECKING:
    from harvester.files import Disk

_PLAIN = re.compile(r"[A-Za-z0-9_-]")
_RESERVED = re.compile(r"^(CON|PRN|AUX|NUL|COM[0-9]|LPT[0-9])$", re.IGNORECASE)
_NAME_LENGTH_MAX = 80


def file_name(symbol: str) -> str:
    """Encode a symbol as one safe path component; different symbols never share a name.

    Upper-case ASCII letters, digits, `_` and `-` stay; every other character becomes `%` and the hex of its UTF-8
    bytes, as in a URL. Lower-case letters are encoded because file names on Windows and macOS ignore case. The first
    letter of a name that Windows reserves (`CON`) is encoded.

    Raises:
        BadSetting: `symbol` is empty or too long for a file name.
    """
    if not symbol:
        raise BadSetting("empty symbol; give at least one character")
    safe = "".join(c if _PLAIN.fullmatch(c) and not c.islower() else _percent(c) for c in symbol)
    if _RESERVED.match(safe):
        safe = f"%{ord(safe[0]):02X}{safe[1:]}"
    if len(safe) > _NAME_LENGTH_MAX:
        raise BadSetting(
            f"{symbol[:20]!r}… is too long: {len(safe)} characters as a file name, the limit is {_NAME_LENGTH_MAX}"
        )
    return safe


def _percent(text: str) -> str:
    return "".join(f"%{byte:02X}" for byte in text.encode("utf-8", "surrogatepass"))


def parse_date(text: str) -> date:
    """Read `yyyy-MM-dd`.

    Raises:
        BadSetting: `text` has another form, or there is no such date.
    """
    if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
        try:
            return date.fromisoformat(text)
        except ValueError as error:
            raise BadSetting(f"date {text} does not exist ({error})") from None
    raise BadSetting(f"date {text!r} does not have the form yyyy-MM-dd, for example 2025-07-17")


@dataclass(frozen=True)
class Home:
    """The data root and every path below it."""

    root: Path

    def on(self, trading_date: date) -> DatePaths:
        """Return the paths of one trading date."""
        return DatePaths(self, trading_date)

    @classmethod
    def find(cls, given: str | os.PathLike[str] | None = None) -> Home:
        """Take `--home`, else `HV_HOME`, else the working folder."""
        return cls(Path(given or os.environ.get("HV_HOME") or ".").expanduser().resolve())

    @property
    def temp(self) -> Path:
        return self.root / "temp"

    @property
    def events(self) -> Path:
        return self.temp / "events"

    @property
    def cache(self) -> Path:
        """Snapshots and other files that may be deleted at any time."""
        return self.temp / "cache"

    def exports(self, folder: str = "exports") -> Path:
        return self.root / folder

    @property
    def memory(self) -> Path:
        return self.root / "memory"

    @property
    def memory_latest(self) -> Path:
        return self.memory / "memory_latest.json"

    @property
    def memory_versions(self) -> Path:
        return self.memory / "versions"

    @property
    def strategies(self) -> Path:
        """Copies of users' strategies, one folder per digest inside."""
        return self.memory / "strategies"

    @property
    def journal(self) -> Path:
        return self.memory / "journal"

    @property
    def gateway_file(self) -> Path:
        """Written by `hv gateway`: host, port, pid and the market clock that `hv record` follows."""
        return self.root / "gateway.json"

    def prepare(self, disk: Disk | None = None) -> Home:
        """Make `temp/` and `memory/` through `disk`, durably, each ignoring itself in git."""
        from harvester.files import Disk

        disk = disk or Disk()
        for folder in (self.temp, self.memory):
            disk.make_folders(folder)
            ignore = folder / ".gitignore"
            if not ignore.exists():
                disk.write_atomic(ignore, b"*\n!.gitignore\n")
        return self


@dataclass(frozen=True)
class DatePaths:
    """The paths of one trading date below a data root."""

    home: Home
    trading_date: date

    @property
    def log(self) -> Path:
        """`temp/events/<trading-date>/`, one folder per run inside."""
        return self.home.events / self.trading_date.isoformat()

    @property
    def lock(self) -> Path:
        """The file the date's one writer holds locked."""
        return self.home.temp / "locks" / f"{self.trading_date.isoformat()}.lock"

    @property
    def snapshots(self) -> Path:
        """States of the engine at places of the date."""
        return self.home.cache / "snapshots" / self.trading_date.isoformat()

    @property
    def episodes(self) -> Path:
        """One folder per symbol inside."""
        return self.home.temp / "episodes" / self.trading_date.isoformat()

    def episodes_of(self, symbol: str) -> Path:
        return self.episodes / file_name(symbol)

    @property
    def replay_inputs(self) -> Path:
        return self.home.temp / "replay_inputs" / self.trading_date.isoformat()

    @property
    def dataset(self) -> Path:
        """What is kept of the date once it is folded."""
        return self.home.memory / "datasets" / self.trading_date.isoformat()

    @property
    def archive(self) -> Path:
        """The date's log as Parquet, one folder per run inside."""
        return self.home.memory / "archive" / self.trading_date.isoformat()
