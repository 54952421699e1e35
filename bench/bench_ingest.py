"""Messages a second over loopback: recorder with projections and disk, against plain ib_async on the same stream.

    python bench/bench_ingest.py [--messages 150000] [--repeats 3]

A server process sends the same L1, AllLast and depth messages to a fresh client process, in 4 KB packets and with one
message per packet; the rate counts from the first byte sent to the last message processed (plain: its tickers updated;
recorder: committed, synced, folded and the run ended). Prints one JSON line with medians.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import multiprocessing
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

from harvester.wire.framing import Deframer, frame  # noqa: E402 - the project is not installed in a bench

CON_ID, SYMBOL, PACKET = 4711, "ACME", 4096


def stream(messages: int, ids: dict[str, str]) -> list[bytes]:
    """The data messages: 40 % L1, 15 % prints, 45 % depth, prices on a walk."""
    rng, price, out, stamp = random.Random(1), 5000, [], int(time.time())
    rows = [(row, side) for row in range(10) for side in (0, 1)]
    prices = [f"{50 + (0.01 + row / 100) * (1 - 2 * side):.2f}" for row, side in rows]
    for (row, side), cents in zip(rows, prices, strict=True):
        out.append(frame(["12", "1", ids["depth"], str(row), "0", str(side), cents, "100"]))
    while len(out) < messages:
        price += rng.choice((-1, 0, 0, 1))
        cents, size, pick = f"{price / 100:.2f}", str(rng.randrange(1, 90) * 100), rng.random()
        if pick < 0.25:
            out.append(frame(["1", "6", ids["l1"], rng.choice("12"), cents, size, "0"]))
        elif pick < 0.4:
            out.append(frame(["2", "6", ids["l1"], rng.choice("03"), size]))
        elif pick < 0.55:
            out.append(frame(["99", ids["last"], "2", str(stamp), cents, size, "0", "ARCA", ""]))
        else:
            out.append(frame(["12", "1", ids["depth"], str(rng.randrange(10)), "1", rng.choice("01"), cents, size]))
    return out


def read_requests(client: socket.socket) -> dict[str, str]:
    """Greet, answer a contract look-up, and return the request ids once L1, AllLast and depth are subscribed."""
    client.settimeout(120)
    assert client.recv(4) == b"API\0"
    deframer, ids = Deframer(), {}
    client.sendall(frame(["178", "20250717 09:30:00 EST"]))
    while len(ids) < 3:
        for payload in deframer.feed(client.recv(65536)):
            fields = payload.decode().split("\0")
            if fields[0] == "71":
                client.sendall(frame(["15", "1", "DU1"]) + frame(["9", "1", "1"]))
            elif fields[0] == "9":
                client.sendall(contract(fields[2]) + frame(["52", "1", fields[2]]))
            elif fields[0] in {"1", "10"}:
                ids["l1" if fields[0] == "1" else "depth"] = fields[2]
            elif fields[0] == "97":
                ids["last"] = fields[1]
    return ids


def contract(req_id: str) -> bytes:
    from harvester.wire.encode_messages import contract as answer

    return frame(answer(int(req_id), {"symbol": SYMBOL, "con_id": CON_ID, "primary_exchange": "NASDAQ"}))


def serve(pipe: multiprocessing.connection.Connection, messages: int, one_per_packet: bool) -> None:
    """Serve one client: send everything, report the start time, wait until the client has finished."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        pipe.send(server.getsockname()[1])
        client, _ = server.accept()
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        frames = stream(messages, read_requests(client))
        body = b"".join(frames)
        packets = frames if one_per_packet else [body[at : at + PACKET] for at in range(0, len(body), PACKET)]
        time.sleep(1.0)
        pipe.send(time.monotonic())
        for packet in packets:
            client.sendall(packet)
        pipe.recv()


async def plain(port: int, messages: int) -> float:
    """Receive with ib_async alone, including its tickers and order book."""
    from ib_async import IB, Stock

    logging.disable(logging.CRITICAL)
    ib = IB()
    await ib.client.connectAsync("127.0.0.1", port, 9, 10)
    stock = Stock(SYMBOL, "SMART", "USD", conId=CON_ID)
    before = ib.client._numMsgRecv
    ib.reqMktData(stock, "233")
    ib.reqTickByTickData(stock, "AllLast")
    ib.reqMktDepth(stock, 10)
    while ib.client._numMsgRecv - before < messages:
        await asyncio.sleep(0.002)
    return time.monotonic()


async def recorder(port: int, messages: int) -> float:
    """Record: log, syncs, projections."""
    import structlog

    from harvester.clock import MachineClock
    from harvester.config import Settings
    from harvester.home import Home
    from harvester.recorder.record import Recorder, record

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    found: list[Recorder] = []
    stop = asyncio.Event()
    options = {"port": port, "symbols": [SYMBOL], "tick_by_tick_lines": 1, "depth_lines": 1, "five_second_bars": False}
    options |= {"compact": False}  # later work is not receiving
    with tempfile.TemporaryDirectory() as folder:
        work = asyncio.create_task(
            record(Settings.load(options), Home(Path(folder)), MachineClock(), stop=stop, watch=found.append)
        )
        while not (found and found[0].session.line.connection.client._numMsgRecv >= messages):
            await asyncio.sleep(0.002)
            if work.done():
                work.result()
        stop.set()  # the last commit does not wait for a timer
        summary = await work
        ended = time.monotonic()
        assert sum(summary.rows[kind] for kind in ("tick", "trade", "depth")) >= messages
        return ended


def peak_mb() -> float:
    """Largest resident size of this process so far."""
    import psutil

    info = psutil.Process().memory_info()
    if hasattr(info, "peak_wset"):  # Windows
        return info.peak_wset / 1e6
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def measure(client: str, messages: int, one_per_packet: bool) -> tuple[float, float]:
    """One fresh server and client process; messages per second, and the client's peak memory in MB."""
    mine, theirs = multiprocessing.Pipe()
    server = multiprocessing.Process(target=serve, args=(theirs, messages, one_per_packet))
    server.start()
    command = [sys.executable, __file__, "--client", client, "--port", str(mine.recv()), "--messages", str(messages)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        begun = mine.recv()
        out, _ = process.communicate(timeout=300)
    mine.send("done")
    server.join()
    ended, peak = map(float, out.split()[-2:])
    return messages / (ended - begun), peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=150_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--client", choices=("plain", "recorder"))
    parser.add_argument("--port", type=int)
    given = parser.parse_args()
    if given.client:
        work = plain if given.client == "plain" else recorder
        print(asyncio.run(work(given.port, given.messages)), peak_mb())
        return
    result: dict[str, object] = {"bench": "ingest", "messages": given.messages, "repeats": given.repeats}
    measure("recorder", 2_000, False)  # compiles the kernels once, outside the measurement
    for name, one in (("packets_4k", False), ("one_per_packet", True)):
        rates: dict[str, list[float]] = {"plain": [], "recorder": []}
        peaks: dict[str, list[float]] = {"plain": [], "recorder": []}
        for _ in range(given.repeats):
            for client, found in rates.items():
                rate, peak = measure(client, given.messages, one)
                found.append(rate)
                peaks[client].append(peak)
        medians = {client: statistics.median(found) for client, found in rates.items()}
        result[name] = {f"{client}_per_second": round(rate) for client, rate in medians.items()}
        result[name] |= {"ratio": round(medians["recorder"] / medians["plain"], 2)}
        result[name] |= {f"{client}_peak_mb": round(statistics.median(found)) for client, found in peaks.items()}  # type: ignore[operator]
    print(json.dumps(result))


if __name__ == "__main__":
    main()
