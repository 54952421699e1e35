"""Paths, dates, settings, clocks and batches: the foundation of everything else."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime
from pathlib import Path, PurePosixPath, PureWindowsPath
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harvester import calendar
from harvester.clock import LockstepClock, SpeedAnchor
from harvester.config import Settings
from harvester.errors import BadSetting
from harvester.events.batch import Batch
from harvester.events.kinds import COMMON, SCHEMAS, Kind
from harvester.home import Home, file_name, parse_date
from harvester.recorder.stopping import closed_until
from harvester.units import SECOND_NS

HOUR = 3600 * SECOND_NS


def ns(text: str) -> int:
    return calendar.to_ns(datetime.fromisoformat(text))


@given(st.text(min_size=1, max_size=8))
def test_any_symbol_is_one_safe_file_name(symbol: str) -> None:
    """Any symbol gives one path component on every system, not reserved, not hidden, which decodes back."""
    name = file_name(symbol)
    assert len(PurePosixPath(name).parts) == len(PureWindowsPath(name).parts) == 1
    assert name.isascii()
    assert not name.startswith(".")
    assert not name.endswith((".", " "))
    assert name == name.upper()
    assert not PureWindowsPath(name).is_reserved()
    assert unquote(name, errors="surrogatepass") == symbol


@given(st.lists(st.text(min_size=1, max_size=5), min_size=2, max_size=5, unique=True))
def test_two_symbols_never_share_a_file(symbols: list[str]) -> None:
    """Names stay different on a file system that ignores case."""
    assert len({file_name(s).casefold() for s in symbols}) == len(symbols)


@pytest.mark.parametrize("bad", ["", "x" * 200])
def test_symbols_that_cannot_be_a_name_are_refused_in_one_line(bad: str) -> None:
    """An empty or far too long symbol is a one-line error."""
    with pytest.raises(BadSetting) as error:
        file_name(bad)
    assert "\n" not in str(error.value)


ARABIC_DIGITS = "\u0662\u0660\u0662\u0665-\u0660\u0667-\u0661\u0667"


@pytest.mark.parametrize("bad", ["2025-02-30", "25-1-1", "../../etc", "2025-07-17\n", ARABIC_DIGITS, ""])
def test_a_date_is_a_date_or_an_error(bad: str) -> None:
    """Only a valid date becomes a path."""
    with pytest.raises(BadSetting, match="date 2025-02-30 does not exist" if bad == "2025-02-30" else "yyyy-MM-dd"):
        parse_date(bad)


def test_home_prepares_folders_that_ignore_themselves(tmp_path: Path) -> None:
    """temp/ and memory/ get their own .gitignore; an existing one is not changed."""
    home = Home(tmp_path).prepare()
    assert (home.temp / ".gitignore").read_text() == "*\n!.gitignore\n"
    (home.memory / ".gitignore").write_text("mine\n")
    home.prepare()
    assert (home.memory / ".gitignore").read_text() == "mine\n"


@pytest.mark.parametrize(
    ("instant", "plain", "around_the_clock"),
    [
        ("2024-03-10T04:59:59Z", "2024-03-09", "2024-03-10"),  # before the spring change, 23:59:59 EST
        ("2024-03-10T05:00:00Z", "2024-03-10", "2024-03-10"),
        ("2024-03-11T03:59:59Z", "2024-03-10", "2024-03-11"),  # 23:59:59 EDT: the day had 23 hours
        ("2024-03-11T04:00:00Z", "2024-03-11", "2024-03-11"),
        ("2024-11-04T04:59:59Z", "2024-11-03", "2024-11-04"),  # the autumn day has 25 hours
        ("2024-11-04T05:00:00Z", "2024-11-04", "2024-11-04"),
        ("2024-01-16T00:30:00Z", "2024-01-15", "2024-01-15"),  # 19:30 EST, past midnight UTC
        ("2024-01-16T01:00:00Z", "2024-01-15", "2024-01-16"),  # 20:00 EST starts the next day for such products
    ],
)
def test_the_trading_date_is_new_yorks(instant: str, plain: str, around_the_clock: str) -> None:
    """Also on both daylight-saving Sundays and after midnight UTC; products around the clock start at 20:00."""
    at = ns(instant)
    assert calendar.trading_date(at).isoformat() == plain
    assert calendar.trading_date(at, day_start="20:00").isoformat() == around_the_clock


@given(st.dates(date(2001, 1, 2), date(2034, 1, 1)), st.sampled_from(["00:00", "20:00", "17:00"]))
def test_days_tile_time(day: date, day_start: str) -> None:
    """A day's end is the next day's start, and its first and last nanosecond belong to it."""
    start, end = calendar.day_bounds(day, day_start=day_start)
    assert end - start in (23 * HOUR, 24 * HOUR, 25 * HOUR)
    assert calendar.trading_date(start, day_start=day_start) == day
    assert calendar.trading_date(end - 1, day_start=day_start) == day
    assert calendar.trading_date(end, day_start=day_start) > day


def test_sessions_know_half_days_and_holidays() -> None:
    """The day after Thanksgiving closes at 13:00 New York, New Year's Day does not open."""
    half = calendar.session(date(2024, 11, 29))
    assert half is not None
    assert half.half_day
    assert half.close_ns == ns("2024-11-29T18:00:00Z")
    assert calendar.session(date(2025, 1, 1)) is None
    full = calendar.session(date(2013, 10, 8))
    assert full is not None
    assert (full.open_ns, full.close_ns) == (ns("2013-10-08T13:30:00Z"), ns("2013-10-08T20:00:00Z"))


def test_times_without_a_zone_are_refused() -> None:
    """Refused, not guessed."""
    with pytest.raises(BadSetting, match="no zone"):
        calendar.to_ns(datetime(2024, 1, 1))
    assert calendar.iso(calendar.to_ns(datetime(2024, 1, 1, 0, 0, 0, 120_000, tzinfo=UTC))) == "2024-01-01T00:00:00.12Z"


def test_settings_say_where_they_come_from(tmp_path: Path) -> None:
    """Precedence is flag, environment, file, default; each value has its origin."""
    file = tmp_path / "hv.toml"
    file.write_text('port = 4001\naccount = "F1"\ndepth-rows = 5\n')
    settings = Settings.load({"port": 7497, "client_id": None}, {"IBKR_ACCOUNT": "E1"}, file)
    assert (settings.port, settings.origin("port")) == (7497, "flag")
    assert (settings.account, settings.origin("account")) == ("E1", "env IBKR_ACCOUNT")
    assert (settings.depth_rows, settings.origin("depth_rows")) == (5, f"file {file}")
    assert (settings.client_id, settings.origin("client_id")) == (9960, "default")


def test_what_a_run_records_of_itself_does_not_depend_on_where_and_how() -> None:
    """Port, account and commit interval change no fold, so they are not part of the data's identity; symbols are."""
    one = Settings.load({"port": 1, "account": "A", "commit_seconds": 0.5, "symbols": ["IBM"]})
    two = Settings.load({"port": 2, "account": "B", "commit_events": 7, "symbols": ["IBM"]})
    assert one.canonical() == two.canonical()
    assert one.canonical() != Settings.load({"symbols": ["BAC"]}).canonical()
    assert list(one.canonical()) == sorted(one.canonical())


@pytest.mark.parametrize(
    ("flags", "text", "said"),
    [
        ({"port": 0}, "", "--port = 0"),
        ({"port": "many"}, "", "--port = 'many'"),
        ({}, "prot = 1", "prot"),
        ({}, "port = ", "not valid TOML"),
        ({}, 'depth_rows = "x"', "depth_rows"),
        ({}, 'compression = "zip"', "compression"),
    ],
)
def test_bad_settings_are_one_clear_line(tmp_path: Path, flags: dict[str, object], text: str, said: str) -> None:
    """The line names the source, the setting and the value."""
    file = tmp_path / "hv.toml"
    file.write_text(text)
    with pytest.raises(BadSetting) as error:
        Settings.load(flags, {}, file)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_an_absent_settings_file_is_named(tmp_path: Path) -> None:
    """The error is one line with file and reason, not a traceback."""
    with pytest.raises(BadSetting, match=r"absent\.toml cannot be read"):
        Settings.load({}, {}, tmp_path / "absent.toml")


def test_lockstep_jumps_in_order_and_waits_for_bytes() -> None:
    """Time jumps from sleeper to sleeper, in order at equal times, and never while a byte is in flight."""

    async def scenario() -> list[tuple[str, int]]:
        clock = LockstepClock(0)
        seen: list[tuple[str, int]] = []

        async def sleeper(name: str, *at: int) -> None:
            for instant in at:
                await clock.sleep_until(instant)
                seen.append((name, clock.now()))

        tasks = [asyncio.create_task(sleeper("a", 5, 10)), asyncio.create_task(sleeper("b", 5, 7))]
        await asyncio.sleep(0)
        clock.sent("wire", 3)
        runner = asyncio.create_task(clock.run())
        await asyncio.sleep(0.02)
        assert not seen, "moved while bytes were in flight"
        clock.received("wire", 3)
        await asyncio.wait_for(asyncio.gather(*tasks), 5)
        runner.cancel()
        return seen

    assert asyncio.run(scenario()) == [("a", 5), ("b", 5), ("b", 7), ("a", 10)]


def test_a_speed_anchor_is_exact() -> None:
    """Market time is the anchor plus speed times monotonic time since."""
    assert SpeedAnchor(1_000, 500, 100.0).market(507) == 1_700


def test_every_kind_starts_with_the_common_columns() -> None:
    """seq, ts_recv, con_id, req_id, epoch: in this order, never null, in every kind."""
    for kind in Kind:
        assert list(SCHEMAS[kind])[: len(COMMON)] == list(COMMON), kind
        assert not any(SCHEMAS[kind].field(i).nullable for i in range(len(COMMON)))


def events_of(count: int) -> list[tuple[Kind, dict[str, object]]]:
    kinds = (Kind.TICK, Kind.DEPTH, Kind.NOTICE)
    return [(kinds[i * i % 3], {"ts_recv": i // 2}) for i in range(count)]


@given(st.integers(1, 40), st.data())
def test_cutting_and_joining_a_batch_is_the_identity(count: int, data: st.DataObject) -> None:
    """Slices at any seqs, joined again, hold the same rows in the same order."""
    whole = Batch.of(events_of(count), first_seq=7).check()
    cut = data.draw(st.integers(6, 7 + count))
    parts = [whole.slice(0, cut), whole.slice(cut + 1, 10_000)]
    assert list(Batch.concat(parts).check().events()) == list(whole.events())
    assert sum(map(len, parts)) == len(whole) == count


def test_a_hole_in_seq_is_caught() -> None:
    """`check` asserts the invariants before writing and after reading."""
    rows = [(Kind.TICK, {"seq": 1, "ts_recv": 1}), (Kind.TICK, {"seq": 3, "ts_recv": 1})]
    with pytest.raises(AssertionError, match="holes"):
        Batch.of(rows).check()
    back = [(Kind.TICK, {"seq": 1, "ts_recv": 2}), (Kind.DEPTH, {"seq": 2, "ts_recv": 1})]
    with pytest.raises(AssertionError, match="runs back"):
        Batch.of(back).check()


@pytest.mark.parametrize(
    ("now", "opens"),
    [
        ("2025-07-18T19:59:59-04:00", ""),
        ("2025-07-18T20:00:00-04:00", "Mon 2025-07-21 04:00 New York"),
        ("2025-07-19T12:00:00-04:00", "Mon 2025-07-21 04:00 New York"),
        ("2025-07-21T03:59:59-04:00", "Mon 2025-07-21 04:00 New York"),
        ("2025-07-21T04:00:00-04:00", ""),
        ("2025-11-26T20:30:00-05:00", "Fri 2025-11-28 04:00 New York"),
        ("2025-11-28T17:00:00-05:00", "Mon 2025-12-01 04:00 New York"),
    ],
)
def test_a_closed_market_says_when_it_opens(now: str, opens: str) -> None:
    """Nights, weekends, holidays and the afternoon of a half day are closed until extended trading begins again."""
    assert closed_until(ns(now), Settings()) == opens
