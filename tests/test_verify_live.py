"""`hv verify` on live digests: equal, written by other code, or wrong; each has its exit code and position."""

from __future__ import annotations

import msgspec
import pytest
from trading_log import DATE, market, run_params, subscriptions
from typer.testing import CliRunner

from cli.app import app
from harvester.eventlog.reader import open_day
from harvester.eventlog.writer import LogWriter
from harvester.events.batch import Batch
from harvester.events.kinds import Kind
from harvester.home import Home
from harvester.projections.engine import Engine
from harvester.projections.market.book import NO_BOOKS
from harvester.rebuild.verify_day import verify

OTHER = {"version": "0.0.1", "digest": "0" * 32}


def recorded(home: Home, start: int, *, package: dict[str, str] | None = None, wrong: tuple[str, ...] = ()) -> int:
    """A run of two commits with live digests after each, those of `wrong` false after the second; returns its seq."""
    rows = market(DATE, seconds=60, start=start)
    params = run_params(DATE)
    params = msgspec.structs.replace(params, package=package) if package else params
    with LogWriter.open(home.on(DATE), run_start_row={"params": params.text()}) as writer:
        writer.begin(rows[0][1]["ts_recv"])
        writer.commit(Batch.of([*subscriptions(rows[0][1]["ts_recv"]), *rows[:200]], writer.next_seq))
        writer.live_digests(writer.next_seq - 1, digests(home))
        writer.commit(Batch.of(rows[200:], writer.next_seq))
        seq = writer.next_seq - 1
        writer.live_digests(seq, digests(home) | dict.fromkeys(wrong, "f" * 32))
    return seq


def digests(home: Home) -> dict[str, str]:
    """The digests of a replay of everything recorded so far."""
    engine = Engine()
    for batch in open_day(DATE, home).batches():
        engine.fold(batch)
    return engine.digests()


def hv(home: Home) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["verify", "--date", str(DATE), "--home", str(home.root)])
    return done.exit_code, done.output


def test_digests_of_other_code_are_not_compared(tmp_path):
    """Exit code 12, no mismatch: digests of other code are counted separately, those of this code are compared."""
    home = Home(tmp_path).prepare()
    recorded(home, 1800)
    recorded(home, 1900, package=OTHER, wrong=("book", "trading"))
    found = verify(home.on(DATE))
    assert (found.exit_code, found.live.points, found.live.equal, found.live.changed) == (12, 4, 2, 2)
    assert found.live.mismatches == []
    code, said = hv(home)
    assert code == 12
    assert "2 of 4 recorded digests equal replay" in said
    assert "2 were recorded by other code" in said


@pytest.mark.parametrize("package", [None, OTHER])
def test_a_wrong_live_digest_is_named(tmp_path, package):
    """Exit code 11 with run, seq and projection; changed code in another run does not hide it."""
    home = Home(tmp_path).prepare()
    recorded(home, 1800, package=package)
    seq = recorded(home, 1900, wrong=("book", "trading"))
    found = verify(home.on(DATE))
    assert (found.exit_code, found.live.mismatches) == (11, [("r002", seq, ["book", "trading"])])
    code, said = hv(home)
    assert code == 11
    assert f"r002 at seq {seq}: book, trading differ" in said


def test_a_damaged_log_is_not_compared(tmp_path):
    """Exit code 1 and no comparison: the replay of a damaged log proves nothing about the files."""
    home = Home(tmp_path).prepare()
    recorded(home, 1800)
    path = home.on(DATE).log / "r001" / "quote.arrows"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    found = verify(home.on(DATE))
    assert (found.exit_code, found.live.points, bool(found.log.problems)) == (1, 0, True)
    assert found.files.note == found.exports.note == "not compared: the log is damaged"


def test_books_are_compared_while_they_live(tmp_path):
    """Digests with live books are counted separately; after the last cancel there is no book, and project says so."""
    home = Home(tmp_path).prepare()
    rows = market(DATE, seconds=60)
    ts = rows[0][1]["ts_recv"]
    ask = {"ts_recv": ts, "con_id": 101, "epoch": 1, "req_id": 30, "symbol": "AAA", "stream": "depth", "params": "{}"}
    depth = {"ts_recv": ts, "con_id": 101, "epoch": 1, "req_id": 30, "msg": 12, "operation": 0, "position": 0}
    depth |= {"side": 1, "price": 50.0, "size": 300.0}
    begin = [*subscriptions(ts), (Kind.REQUEST, {**ask, "action": "subscribe"}), (Kind.DEPTH, depth)]
    end = (Kind.REQUEST, {**ask, "action": "cancel", "ts_recv": rows[-1][1]["ts_recv"]})
    with LogWriter.open(home.on(DATE), run_start_row={"params": run_params(DATE).text()}) as writer:
        writer.begin(ts)
        for part in ([*begin, *rows], [end]):
            writer.commit(Batch.of(part, writer.next_seq))
            writer.live_digests(writer.next_seq - 1, digests(home))
    live = verify(home.on(DATE)).live
    assert (live.points, live.equal, live.books) == (2, 2, 1)
    assert "2 of 2 recorded digests equal replay, 1 of them with live books" in hv(home)[1]
    made = CliRunner().invoke(app, ["project", "--date", str(DATE), "--home", str(home.root)]).output
    assert f"book     {NO_BOOKS}  no book is live at the end" in made
