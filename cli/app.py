"""`hv`: parses, wires, shows progress. One list names the commands; each lives in a module of its own.

Command modules import only typer and the standard library at their top, and what is heavy inside the function, so that
`hv --help` starts at once (a test holds them to it).
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

# name → module; the function there (a `typer.Typer` for groups) has the command's name. Order is that of --help.
COMMANDS: tuple[tuple[str, str], ...] = (
    ("demo", "cli.cmd_demo"),
    ("gateway", "cli.cmd_gateway"),
    ("record", "cli.cmd_record"),
    ("status", "cli.cmd_status"),
    ("project", "cli.cmd_project"),
    ("buckets", "cli.cmd_buckets"),
    ("book", "cli.cmd_book"),
    ("replay", "cli.cmd_replay"),
    ("health", "cli.cmd_health"),
    ("verify", "cli.cmd_verify"),
    ("eod", "cli.cmd_eod"),
    ("log", "cli.cmd_log"),
    ("schema", "cli.cmd_schema"),
)

gc.set_threshold(100_000, 20, 20)
"""Rows and tuples come by the hundred thousand and hold no cycles: at Python's own 700 a fifth of a fold's time went
into looking for some."""

READERS = frozenset(("status", "project", "buckets", "book", "replay", "health", "verify", "log", "schema"))
"""Commands that work on what was recorded. Nothing in them needs pandas, which pyarrow imports if it can, a third of
a second, with the first column it hands to NumPy."""

INTERRUPTED = 130  # 128 + SIGINT, as shells count


class App(typer.Typer):
    """A Typer that turns a `HarvesterError` into one line on stderr and its exit code; `--debug` adds a traceback."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        debug = "--debug" in sys.argv or bool(os.environ.get("HV_DEBUG"))
        sys.argv = [word for word in sys.argv if word != "--debug"]
        if sys.argv[1:] and sys.argv[1] in READERS:
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
            # The reader of a pipe went away (`hv log show | head`): no failure. Keep Python from flushing into it.
            _hush_stdout()
            sys.exit(0)
        except SystemExit as end:
            # Typer and Rich, who meet such a pipe first, call it a failure and end the process.
            if isinstance(end.__context__, BrokenPipeError):
                _hush_stdout()
                sys.exit(0)
            raise
        except Exception as error:
            if debug:
                raise
            if isinstance(error, OSError) and error.errno in DISK_ERRNOS:
                _hush_stdout()  # it may be the one that is full
                where = f"{error.filename}: " if error.filename else ""
                _say(f"disk full or failing: {where}{error.strerror}; free space, or write elsewhere")
                sys.exit(LogWriteFailed.exit_code)
            _say(f"unexpected {type(error).__name__}: {error}; run again with --debug for the traceback")
            sys.exit(1)
        finally:
            gc.freeze()  # the process ends: no last search for cycles through all a day has left, half a second long


def _hush_stdout() -> None:
    """Let nothing more, and nothing that is still buffered, reach standard output."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say(line: str) -> None:
    plain = "".join(c if c.isprintable() else "?" for c in " ".join(line.split()))  # texts of a gateway are among it
    print("hv: " + plain, file=sys.stderr)  # noqa: T201 - the one place that talks to stderr


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"hv {__version__}")
        raise typer.Exit


def _top(
    *,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Record an Interactive Brokers trading day as a log that proves itself, and replay it through the same code.

    No order ever leaves this program. Start with `hv demo`. Add --debug to any command for a traceback.
    """


class _NoPandas(Loader):
    """Finds pandas and fails to load it, as if it were not installed."""

    @classmethod
    def find_spec(cls, name: str, *_: Any) -> ModuleSpec | None:
        return ModuleSpec(name, cls()) if name == "pandas" else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        raise ImportError(f"hv does without {spec.name} here", name=spec.name)


def build() -> App:
    """Make the command line from `COMMANDS`."""
    made = App(
        name="hv",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
        add_completion=False,
    )
    made.callback()(_top)
    for name, module in COMMANDS:
        found = getattr(importlib.import_module(module), name.replace("-", "_"))
        if isinstance(found, typer.Typer):
            made.add_typer(found, name=name)
        else:
            made.command(name)(found)
    return made


app = build()

if __name__ == "__main__":
    app()
