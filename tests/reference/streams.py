"""Random event streams with every fault of a gateway, from one seed."""

from __future__ import annotations

import random
from typing import Any

from harvester.events.kinds import Kind

SECOND = 1_000_000_000
STREAMS = ("l1", "depth", "smart_depth", "last", "all_last", "bid_ask", "mid_point", "bars_5s")
PRICES = (9.98, 9.99, 10.0, 10.01, 10.02, 10.03)
ODD = (None, -1.0, 0.0, 1.7976931348623157e308, 2147483647.0, 2.0**63, -(2.0**63), 2.0**127)
SIZES = (100.0, 200.0, 300.0, 1.0, 700.0)
CON_IDS = (30, 7, 11)
NOTICES = (317, 317, 317, 316, 1100, 1101, 1102, -2, 354, 2104, -7, -8, 10197, -4, -4, 154)
CONDITIONS = (None, None, None, "", "   I", " F I", " F", " 4")


class Stream:
    """Draws events one after the other; `events` is the list of (kind, row) without seq."""

    def __init__(self, seed: int, start_ns: int, updaters: float) -> None:
        self.chance = random.Random(seed)
        self.now = start_ns
        self.clock_due = (start_ns // SECOND + 1) * SECOND
        self.events: list[tuple[Kind, dict[str, Any]]] = []
        self.epoch, self.req = 1, 0
        self.asked: list[tuple[int, int, int, str]] = []  # con_id, epoch, request id, stream
        self.updaters = updaters  # share of the venues that hardly ever send anything but updates
        self.update_only: set[tuple[int, int]] = set()  # epoch, request id
        self.calm = self.chance.random() < 0.6  # few impossible depth rows and notices, so that books remain good
        self.count: dict[tuple[int, int, int], int] = {}  # rows a calm book should have
        self.run_start()

    def add(self, kind: Kind, **row: Any) -> None:
        self.events.append((kind, {"ts_recv": self.now, "epoch": self.epoch, **row}))

    def run_start(self) -> None:
        self.epoch, self.req, self.asked = 1, 0, []
        self.add(Kind.REQUEST, action="run_start", stream="run", params="{}", epoch=0)
        self.add(Kind.NOTICE, code=-1)
        for _ in range(self.chance.randint(1, 6)):
            self.subscribe()

    def subscribe(self, con_id: int = 0, stream: str = "") -> None:
        self.req += 1
        con_id, stream = con_id or self.chance.choice(CON_IDS), stream or self.chance.choice(STREAMS)
        params = {
            "depth": f'{{"rows":{self.chance.choice((5, 17)) if self.calm else self.chance.randint(1, 4)}}}',
            "smart_depth": '{"rows":7,"smart":true}',
            "l1": self.chance.choice(['{"generic":"233"}', '{"generic":"233,375"}', "{}"]),
        }.get(stream, "{}")
        self.asked.append((con_id, self.epoch, self.req, stream))
        self.update_only.discard((self.epoch, self.req))
        if self.chance.random() < self.updaters:
            self.update_only.add((self.epoch, self.req))
        self.add(
            Kind.REQUEST,
            action="subscribe",
            stream=stream,
            symbol=f"S{con_id}",
            con_id=con_id,
            req_id=self.req,
            params=params,
        )

    def pass_time(self) -> None:
        self.now += self.chance.choice((0, 0, 1, 1_000_003, 300_000_007, 400_000_000, SECOND, 2_700_000_000))
        late = self.chance.choice((0, 0, 200_000_000))
        while self.clock_due + late <= self.now and self.chance.random() < 0.9:
            late_ts = max(self.clock_due + late, self.events[-1][1]["ts_recv"])
            self.events.append(
                (Kind.CLOCK, {"ts_recv": late_ts, "wall_ns": late_ts, "mono_ns": 0, "epoch": self.epoch})
            )
            self.clock_due += SECOND
        self.now = max(self.now, self.events[-1][1]["ts_recv"])

    def number(self, good: tuple[float, ...]) -> float | None:
        return self.chance.choice(good) if self.chance.random() < 0.93 else self.chance.choice(ODD)

    def hot(self) -> None:
        if not self.asked or self.chance.random() < 0.03:
            con_id, epoch, req, stream = 7, self.epoch, 999, self.chance.choice(STREAMS)
        else:
            con_id, epoch, req, stream = self.chance.choice(self.asked)
        key = {"con_id": con_id, "epoch": epoch, "req_id": req}
        if self.chance.random() < 0.02:
            stream = self.chance.choice(STREAMS)  # a row of a kind that does not fit its request id
        getattr(self, f"row_{stream}")(key)

    def row_l1(self, key: dict[str, int]) -> None:
        if self.chance.random() < 0.06:
            value = self.chance.choice((0.0, 0.0, 1.0, 2.0, -1.0, None, 0.5))
            self.add(Kind.TICK, msg=45, field=self.chance.choice((49, 49, 90)), value=value, **key)
            return
        field = self.chance.choice((1, 2, 0, 3, 1, 2, 0, 3, 4, 8, 48, 77, 66, 67, 69, 70, 21))
        if field in (48, 77):
            text = f"{self.chance.choice(PRICES)};{self.chance.choice(SIZES)};1759752000123;9000;10.0;true"
            self.add(
                Kind.TICK, msg=46, field=field, text=self.chance.choice((text, text, text, ";;", "x;y;", None)), **key
            )
        elif field in (1, 2, 66, 67, 4):
            size = None if self.chance.random() < 0.1 else self.number(SIZES)
            self.add(Kind.TICK, msg=1, field=field, price=self.number(PRICES), size=size, **key)
        else:
            self.add(Kind.TICK, msg=2, field=field, size=self.number(SIZES), **key)

    def calm_depth(self, key: dict[str, int]) -> None:
        side = self.chance.choice((0, 1))
        at = (key["epoch"], key["req_id"], side)
        rows = self.count.get(at, 0)
        operation = self.chance.choice((0, 0, 1, 2)) if rows else 0
        self.count[at] = min(rows + (1, 0, -1)[operation], 4)
        position = self.chance.randint(0, min(rows - (operation > 0), 0 if rows == 4 else 3))
        price, size = self.chance.choice(PRICES), self.chance.choice((*SIZES, 0.0))
        if side == 0:
            price = round(price + 0.04, 2)
        self.add(
            Kind.DEPTH, msg=12, position=position, operation=operation, side=side, price=price, size=size,
            market_maker=self.chance.choice((None, "ARCA", "NSDQ")), **key,
        )  # fmt: skip

    def updated_depth(self, key: dict[str, int]) -> None:
        side = self.chance.choice((0, 1))
        price, size = self.chance.choice(PRICES), self.chance.choice((*SIZES, 0.0))
        self.add(
            Kind.DEPTH, msg=12, position=self.chance.choice((0, 0, 1, 1, 2, 3)),
            operation=1 if self.chance.random() < 0.95 else self.chance.choice((0, 2)), side=side,
            price=price if side else round(price + 0.04, 2), size=size,
            market_maker=self.chance.choice((None, "ARCA")), **key,
        )  # fmt: skip

    def reset(self) -> None:
        """A 317; the calm venue sends its book again, sometimes with late rows of the old book."""
        depths = [asked for asked in self.asked if asked[1] == self.epoch and "depth" in asked[3]]
        if not depths:
            return
        con_id, epoch, req, _ = self.chance.choice(depths[-3:])
        self.add(Kind.NOTICE, msg=4, code=317, text="", req_id=req, epoch=epoch)
        self.count |= {(epoch, req, side): 0 for side in (0, 1)}
        for _ in range(self.chance.choice((0, 1, 2, 3))):
            self.add(
                Kind.DEPTH, msg=12, position=self.chance.choice((0, 1, 3)), operation=self.chance.choice((1, 2)),
                side=self.chance.choice((0, 1)), price=self.chance.choice(PRICES), size=100.0,
                con_id=con_id, epoch=epoch, req_id=req,
            )  # fmt: skip

    def row_depth(self, key: dict[str, int]) -> None:
        if (key["epoch"], key["req_id"]) in self.update_only and self.chance.random() < 0.98:
            self.updated_depth(key)
            return
        if self.calm and self.chance.random() < 0.998:
            self.calm_depth(key)
            return
        mostly = self.chance.random() < 0.95
        self.add(
            Kind.DEPTH,
            msg=12,
            position=self.chance.choice((0, 0, 1, 2) if mostly else (-1, 4, 9, None, 2**31 - 1)),
            operation=self.chance.choice((0, 0, 1, 2) if mostly else (3, -5, None, 0)),
            side=self.chance.choice((0, 1) if mostly else (2, -1, None, 1)),
            price=self.number(PRICES),
            size=self.number((*SIZES, 0.0)),
            market_maker=self.chance.choice((None, "", "ARCA", "NSDQ")),
            **key,
        )

    row_smart_depth = row_depth

    def row_last(self, key: dict[str, int]) -> None:
        past, unreported = self.chance.choice(((False, False),) * 3 + ((True, False), (False, True), (None, None)))
        self.add(
            Kind.TRADE, stream=2, price=self.number((*PRICES, 10.005)), size=self.number(SIZES),
            past_limit=past, unreported=unreported, conditions=self.chance.choice(CONDITIONS), **key,
        )  # fmt: skip

    row_all_last = row_last

    def row_bid_ask(self, key: dict[str, int]) -> None:
        bid, ask = self.number(PRICES), self.number(PRICES)
        if bid is not None and ask is not None and self.chance.random() < 0.8:
            bid, ask = min(bid, ask), max(bid, ask)
        self.add(
            Kind.QUOTE, stream=self.chance.choice((3, 3, 3, 3, 4)), bid=bid, ask=ask,
            bid_size=self.number(SIZES), ask_size=self.number(SIZES), **key,
        )  # fmt: skip

    def row_mid_point(self, key: dict[str, int]) -> None:
        self.add(Kind.QUOTE, stream=4, mid=self.number(PRICES), **key)

    def row_bars_5s(self, key: dict[str, int]) -> None:
        self.add(Kind.BAR, msg=50, open=10.0, high=10.0, low=10.0, close=10.0, **key)

    def doubt(self) -> None:
        """A quoting stream is found silent or cancelled; it, or its successor, may say the same again."""
        quoting = [a for a in self.asked[-6:] if a[1] == self.epoch and a[3] in ("l1", "bid_ask", "smart_depth")]
        if not quoting:
            return
        con_id, epoch, req, stream = self.chance.choice(quoting)
        if self.chance.random() < 0.7:
            self.add(Kind.NOTICE, code=-4, con_id=con_id, req_id=req, epoch=epoch, text="")
        old = req
        if self.chance.random() < 0.6:
            params = self.chance.choice(("{}", '{"renewed":true}', '{"renewed":true}'))
            self.add(
                Kind.REQUEST, action="cancel", stream=stream, con_id=con_id, req_id=req, epoch=epoch, params=params
            )
            self.subscribe(con_id, stream)
            req = self.req
        if self.chance.random() < 0.8:
            said = [
                (kind, row)
                for kind, row in self.events
                if kind in (Kind.TICK, Kind.QUOTE, Kind.DEPTH) and (row["epoch"], row.get("req_id")) == (epoch, old)
            ]
            for kind, row in said[-2:]:
                self.events.append((kind, row | {"ts_recv": self.now, "req_id": req}))

    def control(self) -> None:
        what = self.chance.random()
        if what < 0.4:
            self.subscribe()
        elif what < 0.55 and self.asked:
            con_id, epoch, req, stream = self.chance.choice(self.asked)
            params = self.chance.choice(("{}", '{"renewed":true}'))
            self.add(
                Kind.REQUEST, action="cancel", stream=stream, con_id=con_id, req_id=req, epoch=epoch, params=params
            )
            if self.chance.random() < 0.5:
                self.subscribe(con_id, stream)
        elif what < (0.65 if self.calm else 0.9):
            _, epoch, req, _ = self.chance.choice(self.asked) if self.asked else (0, 1, 1, "")
            code = self.chance.choice(NOTICES)
            detail = self.chance.choice((None, '{"cause":"silence"}')) if code == -7 else None
            self.add(
                Kind.NOTICE, msg=4 if code > 0 else None, code=code, text="", req_id=req, epoch=epoch, detail=detail
            )
        elif self.calm and what < 0.8:
            self.reset()
        elif self.calm and what < 0.92:
            self.hot()
        elif what < 0.94:
            self.epoch += 1
            self.subscribe()
        elif what < 0.97:
            self.add(Kind.NOTICE, msg=58, value=self.chance.choice((1, 3)), req_id=self.req)
            self.add(Kind.RAW, msg=81, fields="81\x001", reason="untyped")
            step = self.chance.choice((0.01, 0.005, 0.0001, None, 0.0, 1e300))
            self.add(
                Kind.CONTRACT,
                msg=self.chance.choice((10, 10, 18)),
                con_id=self.chance.choice((7, 30, 0)),
                min_tick=step,
            )
        else:
            if self.chance.random() < 0.5:
                self.add(Kind.REQUEST, action="run_end", stream="run", params="{}")
            self.now += self.chance.choice((1, SECOND, 40 * SECOND))
            self.clock_due = (self.now // SECOND + 1) * SECOND
            self.run_start()


def stream(seed: int, length: int, start_ns: int, updaters: float = 0.3) -> list[tuple[Kind, dict[str, Any]]]:
    """At least `length` events as (kind, row), numbered from seq 1; `updaters` is the share of update-only venues."""
    made = Stream(seed, start_ns, updaters)
    while len(made.events) < length:
        made.pass_time()
        if made.chance.random() < 0.06:
            made.control()
        if made.chance.random() < 0.04:
            made.doubt()
        for _ in range(made.chance.randint(1, 6)):
            made.hot()
    for seq, (_, row) in enumerate(made.events, 1):
        row["seq"] = seq
    return made.events
