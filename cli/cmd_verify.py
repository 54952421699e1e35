"""`hv verify`: log, live against replay, and files, in one go."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.dates import DateOption, date_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harvester.recorder.exports import FilesPart
    from harvester.recorder.verify import Verified

_NOT_COMPARED = "-- "  # in the place of ok and BAD


def verify(
    *,
    date: DateOption = None,
    home: Annotated[Path | None, typer.Option("--home", help="Data root; else HV_HOME, else this folder.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON for scripts.")] = False,
) -> None:
    """Prove a day: every byte of the log, live digests against replay, episode files and exports against the log.

    Compared are the files of temp/episodes/ and, of exports/, buckets, decisions, fills and health of the whole date,
    candles and signals; the picture is not, nor what `hv project --out` or `--symbols` wrote. A file of an earlier look
    at the unfinished day is told, not counted, and so is what a killed recorder did not come to write.
    An export missing beside others of the whole date is a difference; without any, none is compared.

    A live digest is of the state at its place in the log. The books of a day are compared by the digests noted while it
    was recorded; at its end, every subscription cancelled, there is no book left to compare.

    Exit code 0: all equal. 1: the log is damaged. 11: live and replay, or files and log, differ. 12: recorded by other
    code than this, so live and replay cannot be compared (everything else is right).

    Example: hv verify --date 2025-07-17
    """
    import msgspec

    from cli.bars import Bar
    from harvester.home import Home
    from harvester.recorder.verify import verify as check

    root = Home.find(home)
    day = date_of(date, root)
    with Bar(f"verifying {day}", quiet=as_json) as bar:
        found = check(root, day, bar.step)
    typer.echo(msgspec.json.encode(found).decode() if as_json else "\n".join(_lines(found)))
    raise typer.Exit(found.exit_code)


def _lines(found: Verified) -> list[str]:
    log, live = found.log, found.live
    out = [f"log      {_word(not log.problems)}  {log.events:,} events in {log.runs} runs, {log.bytes:,} bytes re-read"]
    out += [f"         identity {log.identity}"] if log.identity else []
    out += [f"         {text}" for text in (*log.problems, *log.notes)]
    if log.problems:
        return [*out, "live     --   not compared: the log is damaged"]
    if found.broken_off:
        out.append(f"         the last run broke off ({found.broken_off}); the next `hv record` goes on from there")
    word = _word(not live.mismatches) if live.changed < live.points else "?  " if live.points else _NOT_COMPARED
    books = f", {live.books} of them of live books" if live.equal else ""
    out.append(f"live     {word}  {live.equal} of {live.points} recorded digests equal replay's{books}")
    if live.changed:
        out.append(
            f"         {live.changed} were written by other code than this and cannot be compared (exit code 12)"
        )
    out += [f"         {run} at seq {seq}: {', '.join(names)} differ" for run, seq, names in live.mismatches]
    out += _of_files("episodes", "episode files", found.files)
    out += _of_files("exports ", "exports", found.exports)
    streams = found.streams
    within = streams.measured - len(streams.outside)
    out.append(f"streams  {within} of {streams.measured} hourly comparisons within tolerance (`hv health` shows them)")
    return out


def _of_files(title: str, what: str, part: FilesPart) -> list[str]:
    from harvester.artefacts.episodes import WAY_OUT

    said = [f"{part.checked} {what} compared"] if part.checked or not part.note else []
    said += [part.note] if part.note else []
    word = _NOT_COMPARED if part.status == "not compared" else _word(not part.differences)
    lines = [f"{title} {word}  " + "; ".join(said)]
    wrong = [f"{text}; {WAY_OUT[text.rpartition(': ')[2]]}" for text in part.differences]
    return lines + [f"         {text}" for text in (*wrong, *_folded(part.early))]


def _folded(early: Sequence[str]) -> list[str]:
    """Files that need no hand, one line a reason: after a look at an unfinished day they are all of its files."""
    by_reason: dict[str, list[str]] = {}
    for text in early:
        by_reason.setdefault(re.sub(r", through seq \d+", "", text.partition(": ")[2]), []).append(text)
    return [
        texts[0] if len(texts) == 1 else f"{len(texts)} files: {reason} (--json names them)"
        for reason, texts in by_reason.items()
    ]


def _word(good: bool) -> str:
    return "ok " if good else "BAD"
