"""`hv`: parses, wires, shows progress. One list names the commands; each lives in a module of its own.

At module level, command modules import only typer, the standard library and `cli.options`; heavy libraries are imported
inside the function, so that `hv --help` starts at once (a test checks it).
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
import traceback
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Annotated, Any

import typer

from harvester.errors import DISK_ERRNOS, HarvesterError, LogWriteFailed
from harvester.version import __version__

# name → module; the function there (a `typer.Typer` for groups) has the command's name. The order is that of --help.
COMMANDS: tuple[tuple[str, str], ...] = (
    ("demo", "cli.cmd_demo"),
    ("gateway", "cli.cmd_gateway"),
    ("record", "cli.cmd_record"),
    ("status", "cli.cmd_status"),
    ("project", "cli.cmd_project"),
    ("buckets", "cli.cmd_buckets"),
    ("book", "cli.cmd_book"),
    ("replay", "cli.cmd_replay"),
    ("episodes", "cli.cmd_episodes"),
    ("explain", "cli.cmd_explain"),
    ("health", "cli.cmd_health"),
    ("verify", "cli.cmd_verify"),
    ("eod", "cli.cmd_eod"),
    ("memory", "cli.cmd_memory"),
    ("log", "cli.cmd_log"),
    ("strategy", "cli.cmd_strategy"),
    ("schema", "cli.cmd_schema"),
)

gc.set_threshold(100_000, 20, 20)
"""A fold makes hundreds of thousands of rows and tuples without cycles: at Python's default threshold of 700 the search
for cycles took a fifth of its time."""

READERS = frozenset((
    "status", "project", "buckets", "book", "replay", "episodes", "explain", "health", "verify", "log", "schema",
))  # fmt: skip
"""Commands that read recorded data. They do not need pandas, but pyarrow imports it, a third of a second, the first
time it converts from or to Python or NumPy. docs/decisions/0015 says why an import hook prevents that."""

INTERRUPTED = 130  # 128 + SIGINT, as shells count


class App(typer.Typer):
    """A Typer that turns a `HarvesterError` into one line on stderr and its exit code; `--debug` adds a traceback."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        debug = "--debug" in sys.argv or bool(os.environ.get("HV_DEBUG"))
        sys.argv = [word for word in sys.argv if word != "--debug"]
        own_strategy = any(word.split("=")[0] == "--strategy" for word in sys.argv)  # it may use pandas
        if sys.argv[1:] and sys.argv[1] in READERS and not own_strategy:
            sys.meta_path.insert(0, _NoPandas)
        try:
            return super().__call__(*args, **kwargs)
        except HarvesterError as error:
            if debug:
                traceback.print_exc()
            _say(str(error))
            sys.exit(error.exit_code)
        except KeyboardInterrupt:
            _say("interrupted")
            sys.exit(INTERRUPTED)
        except BrokenPipeError:
            # The reader of the pipe has ended (`hv log show | head`): not a failure. Do not flush into the pipe.
            _hush_stdout()
            sys.exit(0)
        except SystemExit as end:
            # Typer and Rich notice a broken pipe first, treat it as a failure and end the process.
            if isinstance(end.__context__, BrokenPipeError):
                _hush_stdout()
                sys.exit(0)
            raise
        except Exception as error:
            if debug:
                raise
            if isinstance(error, OSError) and error.errno in DISK_ERRNOS:
                _hush_stdout()  # stdout itself may be on the full disk
                where = f"{error.filename}: " if error.filename else ""
                _say(f"disk full or failing: {where}{error.strerror}; free space, or write elsewhere")
                sys.exit(LogWriteFailed.exit_code)
            _say(f"unexpected {type(error).__name__}: {error}; run again with --debug for the traceback")
            sys.exit(1)
        finally:
            gc.freeze()  # skip the last search for cycles at exit: half a second after a whole day


def _hush_stdout() -> None:
    """Discard what is buffered for standard output, and everything written to it from now on."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say(line: str) -> None:
    plain = "".join(c if c.isprintable() else "?" for c in " ".join(line.split()))  # it may contain text from a gateway
    print("hv: " + plain, file=sys.stderr)  # noqa: T201 - the one place that prints errors


def _show_version(given: bool) -> None:
    if given:
        typer.echo(f"hv {__version__}")
        raise typer.Exit


def _top(
    *,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Record an Interactive Brokers trading day as a verifiable log, and replay it through the same code.

    This program never sends an order. Start with `hv demo`. Add --debug to any command for a traceback.
    """


class _NoPandas(Loader):
    """Makes `import pandas` fail as if pandas were not installed."""

    @classmethod
    def find_spec(cls, name: str, *_: Any) -> ModuleSpec | None:
        return ModuleSpec(name, cls()) if name == "pandas" else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        raise ImportError(f"hv does not use {spec.name} here", name=spec.name)


def build() -> App:
    """Build the command line from `COMMANDS`."""
    top = App(
        name="hv",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
        add_completion=False,
    )
    top.callback()(_top)
    for name, module in COMMANDS:
        command = getattr(importlib.import_module(module), name.replace("-", "_"))
        if isinstance(command, typer.Typer):
            top.add_typer(command, name=name)
        else:
            top.command(name)(command)
    return top


app = build()

if __name__ == "__main__":
    app()
