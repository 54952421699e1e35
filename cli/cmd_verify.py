"""`hv verify`: compare log, live digests and files of a date in one command."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import typer

from cli.options import DateOption, HomeOption, JsonOption, date_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harvester.rebuild.exports import FilesPart
    from harvester.rebuild.verify_day import VerifyResult

_NOT_COMPARED = "-- "  # where others have ok or BAD


def verify(
    *,
    date: DateOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Verify a day: every byte of the log, live digests with replay, episode files and exports with the log.

    Of files it compares temp/episodes/ and, in exports/, the buckets, decisions, fills, health, candles and signals of
    the whole date. It does not compare the picture, nor files written by `hv project --out` or `--symbols`. Files
    written while the day was unfinished, and files a killed recorder did not finish, are listed and not counted as
    differences. If some exports of the whole date exist, a missing one is a difference; if none exist, none are
    compared.

    A live digest covers the state at its seq. Books are compared by the digests written during the recording: at the
    end every subscription is cancelled, and no book is left to compare.

    Of memory/ it checks every version against its hash, the chain to its beginning, and that each day has its dataset.

    Exit code 0: all equal. 1: the log or memory is damaged. 11: live and replay, or files and
    log, differ. 12: recorded by other code, so live and replay cannot be compared; everything else is equal.

    Example: hv verify --date 2025-07-17
    """
    import msgspec

    from cli.progress_bar import ProgressBar
    from harvester.home import Home
    from harvester.rebuild.verify_day import verify as check

    root = Home.find(home)
    day = date_of(date, root)
    with ProgressBar(f"verifying {day}", quiet=as_json) as bar:
        result = check(root.on(day), bar.step)
    typer.echo(msgspec.json.encode(result).decode() if as_json else "\n".join(_lines(result)))
    raise typer.Exit(result.exit_code)


def _lines(result: VerifyResult) -> list[str]:
    log, live = result.log, result.live
    out = [f"log      {_word(not log.problems)}  {log.events:,} events in {log.runs} runs, {log.bytes:,} bytes re-read"]
    out += [f"         identity {log.identity}"] if log.identity else []
    out += [f"         {text}" for text in (*log.problems, *log.notes)]
    out += [f"memory   BAD  {text}" for text in result.memory]
    if log.problems:
        return [*out, "live     --   not compared: the log is damaged"]
    if result.broken_off:
        out.append(f"         the last run broke off ({result.broken_off}); the next `hv record` continues from there")
    word = _word(not live.mismatches) if live.changed < live.points else "?  " if live.points else _NOT_COMPARED
    books = f", {live.books} of them with live books" if live.equal else ""
    out.append(f"live     {word}  {live.equal} of {live.points} recorded digests equal replay{books}")
    if live.untraded:
        out.append(f"         {live.untraded} of them do not cover trading: its process was late")
    if live.changed:
        out.append(f"         {live.changed} were recorded by other code and cannot be compared (exit code 12)")
    out += [f"         {run} at seq {seq}: {', '.join(names)} differ" for run, seq, names in live.mismatches]
    out += _of_files("episodes", "episode files", result.files)
    out += _of_files("exports ", "exports", result.exports)
    streams = result.streams
    within = streams.measured - len(streams.outside)
    out.append(f"streams  {within} of {streams.measured} hourly comparisons within tolerance (`hv health` shows them)")
    return out


def _of_files(title: str, what: str, part: FilesPart) -> list[str]:
    from harvester.artefacts.episode_files import WAY_OUT

    parts = [f"{part.checked} {what} compared"] if part.checked or not part.note else []
    parts += [part.note] if part.note else []
    word = _NOT_COMPARED if part.status == "not compared" else _word(not part.differences)
    lines = [f"{title} {word}  " + "; ".join(parts)]
    wrong = [f"{text}; {WAY_OUT[text.rpartition(': ')[2]]}" for text in part.differences]
    return lines + [f"         {text}" for text in (*wrong, *_folded(part.early))]


def _folded(early: Sequence[str]) -> list[str]:
    """Files that need no action, one line per reason; after a projection of an unfinished day these are all files."""
    by_reason: dict[str, list[str]] = {}
    for text in early:
        by_reason.setdefault(re.sub(r", through seq \d+", "", text.partition(": ")[2]), []).append(text)
    return [
        texts[0] if len(texts) == 1 else f"{len(texts)} files: {reason} (--json names them)"
        for reason, texts in by_reason.items()
    ]


def _word(good: bool) -> str:
    return "ok " if good else "BAD"
