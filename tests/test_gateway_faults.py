"""The fault script: how it is read, and what each line does to a client."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest
from gateway_support import ACME, Client, running, small_market

from harvester.errors import BadSetting
from harvester.simgateway.fault_actions import IMPOSSIBLE
from harvester.simgateway.fault_script import ACTIONS, TEXTS, FaultScript
from harvester.simgateway.ib_time_text import ib_time, market_time
from harvester.simgateway.limits import Limits

OPEN = 1_752_759_000 * 10**9  # 2025-07-17 09:30 in New York


def test_reading():
    """A script is parsed with comments, quotes, every form of `at` and every form of `who`."""
    script = FaultScript.parse(
        """
        # at                  who          action   arguments
        +60                   *            error    2103 "farm is broken: usfarm"   # why
        9:45:30.5             ACME         error    317
        2025-07-17T14:00:00Z  BRK B:depth  drop
        +1:00:00              client=7     drop
    """.replace("BRK B:depth", '"BRK B:depth"')
    )
    assert [f.at_ns(OPEN) - OPEN for f in script.faults] == [60 * 10**9, 930_500_000_000, 1800 * 10**9, 3600 * 10**9]
    first, second, third, fourth = script.faults
    assert (first.line, first.args) == (3, ("2103", "farm is broken: usfarm"))
    assert (second.symbol, second.stream) == ("ACME", None)
    assert (third.symbol, third.stream) == ("BRK B", "depth")
    assert (fourth.client_id, fourth.symbol) == (7, None)


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("+60 *", "at least three fields"),
        ("+60 * explode", "unknown action 'explode'"),
        ("soon * drop", "soon"),
        ("25:00 * drop", "not a time of day"),
        ("2025-07-17T14:00:00 * drop", "no time zone"),
        ("+60 * error", "0 arguments"),
        ("+60 * error many", "'many' is not an error code"),
        ("+60 * error 12345", "no default text"),
        ("+60 client=x drop", "is not a client"),
        ("+60 * closed soon", "'soon' is not a time"),
        ("+60 * split few", "'few' is not a count"),
        ("+60 client=1 unset", "give a symbol"),
        ("+60 * history bad", "markers, text, short, good"),
        ("+60 ACME history short", "give \\*"),
        ("+60 * packets two", "one or any"),
        ("+60 * garbage more", "length, zero, text, noise"),
        ("+60 ACME depth 1 2 3", "3 arguments"),
        ("+60 * refuse 354:many", "'many' is not a count"),
        ("+60 * error 354:2", "error takes no count"),
        ("+60 * advise during 10089", "before or after, not 'during'"),
        ("+60 * advise after 12345", "no default text"),
        ("+60 * swallow all", "'all' is not a count"),
        ("+60 * port 70000", "not a port"),
        ('+60 * error 317 "unclosed', "No closing quotation"),
    ],
)
def test_bad_lines(line, what):
    """An invalid line is one clear error that names the file, the line and the word."""
    with pytest.raises(BadSetting, match=what) as caught:
        FaultScript.parse(f"# one\n{line}\n", "faults.txt")
    assert str(caught.value).startswith("faults.txt, line 2: ")


def test_missing_file(tmp_path):
    """A missing script is one clear error."""
    with pytest.raises(BadSetting, match=r"nothing\.txt cannot be read"):
        FaultScript.read(tmp_path / "nothing.txt")


def test_times():
    """A time of day is New York's, on both sides of a change to daylight saving."""
    for day, utc in ((1_741_356_000, "14:30"), (1_741_615_200, "13:30")):  # 2025-03-07, 2025-03-10
        assert ib_time(market_time("9:30", day * 10**9), "UTC").split()[1] == f"{utc}:00"


def troubled(script, story, rate=2000, client=None, **settings):
    """Run a scenario with a client that has all streams of ACME; returns the report."""

    async def run():
        faults = FaultScript.parse(script)
        chosen = {"speed": 60, "limits": Limits(messages_per_s=0), "faults": faults, **settings}
        async with running(small_market(rate), **chosen) as gateway:
            one = await Client.connect(gateway.port)
            one.send(1, 11, 1, *ACME, 0, "233", 0, 0, "")
            one.send(97, 2, *ACME, "AllLast", 0, 0)
            one.send(97, 3, *ACME, "BidAsk", 0, 0)
            one.send(10, 5, 4, *ACME, 10, 1, "")
            one.send(50, 3, 5, *ACME, 5, "TRADES", 0, "")
            async with asyncio.timeout(20):
                await story(one, gateway)
            await one.close()
        return gateway.final

    return asyncio.run(run())


async def _until_fault(client, gateway, n=1):
    while len(gateway.report.faults) < n:
        await asyncio.sleep(0.005)
    client.send(49, 1)
    count = len(client.of("49"))
    await client.until(lambda c: len(c.of("49")) > count)


def test_reset_sends_the_book_again():
    """317 reaches depth alone, and the whole book follows it as inserts."""

    async def story(client, gateway):
        await client.until(lambda c: 317 in c.errors())
        await _until_fault(client, gateway)
        assert [m[2] for m in client.of("4") if m[3] == "317"] == ["4"]
        at = next(i for i, m in enumerate(client.got) if m[0] == "4" and m[3] == "317")
        rows = [m for m in client.got[at:] if m[0] == "13"][:4]
        assert [(m[3], m[5]) for m in rows] == [("0", "0"), ("1", "0"), ("2", "0"), ("3", "0")]

    troubled("+5 ACME error 317", story)


@pytest.mark.parametrize("code", [354, 10197, 200, 321])
def test_errors_that_end_a_stream(code):
    """An error that means no data ends only the stream it names; 316 does the same for depth."""

    async def story(client, gateway):
        assert await client.error(3) == code
        assert await client.error(4) == 316
        assert sorted(s.req_id for s in gateway.state.registry) == [1, 2, 5]
        assert client.errors(1) == client.errors(2) == []

    troubled(f"+2 ACME:bid_ask error {code}\n+3 ACME error 316", story)


def test_delayed():
    """10167 is followed by data type 3, and the stream goes on."""

    async def story(client, gateway):
        await client.until(lambda c: c.of("58", 1) and c.of("58", 1)[-1][3] == "3")
        assert 10167 in client.errors(1)
        assert 1 in [s.req_id for s in gateway.state.registry]

    troubled("+2 ACME:l1 error 10167", story)


def test_connection_lost_and_restored():
    """After 1100 no data is sent; after 1102 all streams continue; after 1101 all subscriptions have ended."""

    async def story(client, gateway):
        await _until_fault(client, gateway, 3)
        times = {m[3]: i for i, m in enumerate(client.got) if m[0] == "4" and m[3] in {"1100", "1101", "1102"}}
        between = client.got[times["1100"] : times["1102"]]
        assert {m[0] for m in between} <= {"4", "49"}
        assert any(m[0] in {"1", "99"} for m in client.got[times["1102"] : times["1101"]])
        assert not list(gateway.state.registry)

    troubled("+20 * error 1100\n+60 * error 1102\n+120 * error 1101", story)


def test_statuses():
    """Farm notices and any other code go to each client once, with id -1."""

    async def story(client, gateway):
        await _until_fault(client, gateway, 3)
        assert [m[2:5] for m in client.of("4") if m[3] in {"2103", "2105", "999"}] == [
            ["-1", "2103", TEXTS[2103]],
            ["-1", "2105", TEXTS[2105]],
            ["-1", "999", "my own text"],
        ]

    troubled('+1 * error 2103\n+1 * error 2105\n+1 client=1 error 999 "my own text"\n+1 client=2 error 1100', story)


def test_refuse_requests():
    """From its time on a request is answered with the scripted error; code 0 ends that."""

    async def story(client, gateway):
        await _until_fault(client, gateway)
        client.send(97, 10, *ACME, "MidPoint", 0, 0)
        client.send(9, 8, 11, *ACME, 0, "", "", "")
        assert await client.error(10) == 10189
        assert await client.error(11) == 200
        await _until_fault(client, gateway, 4)
        client.send(97, 12, *ACME, "MidPoint", 0, 0)
        await client.until(lambda c: c.of("99", 12))

    troubled(
        "+1 ACME:mid_point refuse 10189 no permission\n+1 ACME:contract refuse 200\n"
        "+50 ACME:mid_point refuse 0\n+50 ACME:contract refuse 0",
        story,
    )


def test_drop_and_closed():
    """A dropped client is disconnected; a closed port refuses connections, and accepts them after it reopens."""

    async def story(client, gateway):
        await client.until(lambda c: c.closed)
        with pytest.raises(ConnectionRefusedError):
            await Client.connect(gateway.port)
        while True:
            try:
                again = await Client.connect(gateway.port)
                break
            except ConnectionRefusedError:
                await asyncio.sleep(0.02)
        assert again.of("9")
        await again.close()

    troubled("+10 * closed 60\n+10 client=1 drop", story)


def test_silence():
    """A silent stream gives nothing for its time while others flow, and then goes on."""

    async def story(client, gateway):
        await _until_fault(client, gateway, 2)
        first, second = len(client.of("99", 3)), len(client.of("99", 2))
        await asyncio.sleep(0.5)
        assert len(client.of("99", 3)) == first
        await client.until(lambda c: len(c.of("99", 3)) > first)
        assert len(client.of("99", 2)) > second

    troubled("+5 ACME:bid_ask silence 90\n+5 * error 2103", story, rate=60_000)


@pytest.mark.parametrize("line", ["+0 * split 3", "+0 * packets one", "+0 * coalesce 4"])
def test_packets(line):
    """The same messages arrive whole for every packing of the bytes."""

    async def story(client, gateway):
        await client.until(lambda c: len(c.of("99", 3)) > 30)
        assert all(len(m) == 9 for m in client.of("99", 3))
        if "coalesce" in line:
            assert max(client.packets) >= 4096

    troubled(line, story, rate=20_000)


def test_impossible_depth():
    """Impossible operations arrive as scripted, counted like all others, and the stream goes on."""

    async def story(client, gateway):
        await _until_fault(client, gateway, 2)
        rows = [m[3:4] + m[5:9] for m in client.of("13", 4)]
        assert ["12", "1", "0", "184.05", "300"] in rows
        assert sum(float(r[3]) == 1e300 for r in rows) == 1
        count = len(rows)
        await client.until(lambda c: len(c.of("13", 4)) > count)

    report = troubled("+2 ACME impossible\n+2 ACME depth 12 1 0 184.05 300 ARCA", story)
    assert report["sent"]["depth"]["ACME"]["rows"] > len(IMPOSSIBLE)


def test_unset_and_unknown():
    """Unset values, unknown tick types and unknown message ids arrive as scripted."""

    async def story(client, gateway):
        await _until_fault(client, gateway, 3)
        prices = [m[4] for m in client.of("1", 1)]
        assert prices.count("1.7976931348623157e308") == 3
        sizes = {m[4] for m in client.of("2", 1)}
        assert sizes >= {"2147483647", "9223372036854775807", "-9223372036854775808", str(2**127 - 1)}
        assert ["1", "6", "1", "999", "1.5", "1", "0"] in client.got
        assert ["250", "1", "4", "hello"] in client.got
        assert [
            "50",
            "3",
            "5",
            "0",
            *["1.7976931348623157e308"] * 4,
            "-1",
            "1.7976931348623157e308",
            "-1",
        ] in client.got

    troubled("+2 ACME unset\n+2 ACME tick 999 1.5\n+2 ACME message 250 1 {req} hello", story)


def test_garbage():
    """Garbage frames go out as scripted: a length of 4 GB, an empty frame, text that is not UTF-8, noise."""

    async def story(client, gateway):
        await client.until(lambda c: c.task.done() or any("\udce9" in f for m in c.got for f in m))
        assert [] in client.got

    report = troubled("+2 * garbage zero\n+2 * garbage text\n+4 * garbage length\n+5 * garbage noise", story)
    assert report["raw_bytes"] > 0


def test_every_action_is_documented():
    """The table of docs/gateway.md has the actions of the fault script, and no others."""
    text = (Path(__file__).parent.parent / "docs" / "gateway.md").read_text(encoding="utf-8")
    table = text.partition("| action | effect |")[2]
    listed = [set(re.findall(r"`(\w+)", cell)) for cell in re.findall(r"^\|([^|]*)\|", table, re.MULTILINE)[1:]]
    assert all(len(names & set(ACTIONS)) == 1 for names in listed), listed
    assert set.union(*listed) & set(ACTIONS) == set(ACTIONS)


def test_refusals_advice_and_silence_for_a_number_of_requests():
    """`refuse`, `advise` and `swallow` at +0 are in force for the first client, and end after their count."""
    script = """
        +0 ACME:last refuse 10189:1 "not now"
        +0 BOLT:l1 advise before 10089:1
        +0 BOLT:l1 advise after 10091:1
        +0 ACME:history swallow 1
        +0 ACME:contract swallow 1
        +0 * swallow 0
    """
    bolt = ("0", "BOLT", *ACME[2:])
    history = (*ACME, 0, "", "1 min", "2 D", 1, "TRADES", 2, 0, "")

    async def story(client, _gateway):
        for req_id in (20, 21):
            client.send(97, req_id, *ACME, "Last", 0, 0)
            client.send(1, 11, req_id + 10, *bolt, 0, "", 0, 0, "")
            client.send(9, 8, req_id + 20, *ACME, 0, "", "", "")
            client.send(20, req_id + 30, *history)
        await client.until(lambda c: c.of("52", 41) and c.of("17", 51) and c.of("58", 31))
        assert client.errors(20) == [10189]
        assert not client.errors(21)
        of_bolt = [m for m in client.got if m[0] in {"4", "58", "1"} and m[2] == "30"]
        assert [m[0] + ":" + m[3] for m in of_bolt[:3]] == ["4:10089", "58:1", "4:10091"]
        assert not client.errors(31)
        assert not client.of("52", 40)
        assert not client.of("17", 50)

    troubled(script, story)


def test_an_outage_swallows_look_ups_and_histories():
    """Between 1100 and 1102 contracts, bars, ticks and head timestamps get no answer, the time does; then all do."""

    def ask(client, last):
        client.send(9, 8, 40 + last, *ACME, 0, "", "", "")
        client.send(20, 50 + last, *ACME, 0, "", "1 min", "2 D", 1, "TRADES", 2, 0, "")
        client.send(96, 60 + last, *ACME, 0, "", "20990101 00:00:00 UTC", 5, "BID_ASK", 0, 0, "")
        client.send(87, 70 + last, *ACME, 0, 0, "TRADES", 2)

    async def story(client, _gateway):
        await client.until(lambda c: 1100 in c.errors())
        ask(client, 0)
        client.send(49, 1)
        await client.until(lambda c: c.of("49") and 1102 in c.errors())
        ask(client, 1)
        await client.until(lambda c: c.of("52", 41) and c.of("17", 51) and c.of("97", 61, at=1) and c.of("88", 71))
        unanswered = {"40", "50", "60", "70"}
        assert not [m for m in client.got if m[0] in {"4", "10", "17", "52", "88", "97"} and unanswered & {*m[1:3]}]

    troubled("+5 * error 1100\n+30 * error 1102", story)


def test_a_held_stream_flows_beside_its_successor_until_it_is_cancelled():
    """After 10225 the bars rest; subscribed again without a cancel both flow, and the cancelled one no more."""

    async def story(client, _gateway):
        await client.until(lambda c: c.errors(5))
        count = len(client.of("50", 5))
        client.send(50, 3, 6, *ACME, 5, "TRADES", 0, "")
        await client.until(lambda c: len(c.of("50", 6)) > 1 and len(c.of("50", 5)) > count)
        client.send(51, 1, 5)
        count = len(client.of("50", 6))
        await client.until(lambda c: len(c.of("50", 6)) > count + 2)
        assert client.of("50")[-1][2] == "6"

    troubled("+20 ACME:bars_5s error 10225", story, rate=20000)


def test_a_port_that_moves_while_it_is_closed():
    """The new port serves at once, and the end of the time for which the old one was closed changes nothing."""

    async def story(client, gateway):
        await client.until(lambda c: c.closed)
        again = await Client.connect(gateway.port)
        await _until_fault(again, gateway, 3)
        await again.close()
        assert gateway._reopening.get_name() == "move the port"
        await gateway._reopening

    troubled("+5 * closed 20\n+10 * port\n+30 * error 2103", story)


def test_a_port_that_moves():
    """1300 names the new port and the connection is closed; the old port refuses, the new one serves."""

    async def story(client, gateway):
        old = client.writer.get_extra_info("peername")[1]
        await client.until(lambda c: c.closed)
        (said,) = [m[4] for m in client.of("4") if m[3] == "1300"]
        assert said.endswith(f"new port - {gateway.port}")
        assert gateway.port != old
        with pytest.raises(ConnectionError):
            await Client.connect(old)
        again = await Client.connect(gateway.port)
        assert again.of("9")
        await again.close()

    troubled("+5 * port", story)


def test_generic_ticks_that_are_not_legal():
    """321 in IB's words, with the list of legal ones; the stream is not granted."""

    async def story(client, _gateway):
        client.send(1, 11, 20, *ACME, 0, "233,999", 0, 0, "")
        await client.until(lambda c: c.errors(20))
        said = client.of("4", 20)[0][4]
        assert "Incorrect generic tick list of 233,999." in said
        assert "233(RTVolume)" in said

    troubled("", story)
