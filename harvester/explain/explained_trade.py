"""One simulated trade, or one entry that was never filled, from what its strategy saw to what it cost.

Everything is read from the tables of decisions, fills, buckets and episodes, and from the log's rows. Times are int ns
UTC under the keys of `json_files.TIME_KEYS`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from harvester.calendar import of_day
from harvester.errors import BadSetting
from harvester.events.kinds import Action, Kind
from harvester.explain.events_behind import EventsBehind
from harvester.projections.run_params import RunParams
from harvester.projections.trading.position import DATA_END, RUN_END, STOP, STOP_THROUGH, TARGET
from harvester.units import MILLI_NS, SECOND_NS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harvester.explain.day_trades import DayTrades
    from harvester.home import Home

SEEN_SECONDS = 10  # before the decision
SEEN = (
    "ts", "bid", "bid_top_size", "ask", "ask_top_size", "mid", "spread", "imbalance", "tape_buy", "tape_sell",
    "trade_count", "quote_source", "book_good", "stale",
)  # fmt: skip
_LISTED_MAX = 6


def find_trade(trades: DayTrades, text: str, symbol: str | None = None) -> dict[str, Any]:
    """The episode row of a trade.

    Args:
        trades: those of the date.
        text: its id (`T133427_001`) or the New York time of its exit (`09:34:27`), alone or as `SYMBOL/…`.
        symbol: its symbol, as recorded; None = any.

    Raises:
        BadSetting: no trade, or several, are meant.
    """
    head, _, name = text.rpartition("/")
    wanted = [row for row in trades.episodes if name.upper() in (row["trade_id"], _exit_time(row))]
    named = [
        row
        for row in wanted
        if symbol in (None, row["symbol"]) and (not head or row["symbol"].casefold() == head.casefold())
    ]
    if len(named) == 1:
        return named[0]
    day = trades.trading_date
    if not named:
        lists = f"`hv episodes --date {day}{trades.option}` lists the {len(trades.episodes)}"
        which = f"there are {_some(wanted)}" if wanted else lists
        raise BadSetting(f"no trade {text!r} on {day}; {which}")
    raise BadSetting(f"{text!r} is {len(named)} trades on {day}: {_some(named)}; name one of them")


def _exit_time(row: dict[str, Any]) -> str:
    return of_day(row["exit_ts"] // SECOND_NS * SECOND_NS)


def _some(rows: Sequence[dict[str, Any]]) -> str:
    names = [f"{row['symbol']}/{row['trade_id']}" for row in rows]
    more = f" and {len(names) - _LISTED_MAX} more" if len(names) > _LISTED_MAX else ""
    return ", ".join(names[:_LISTED_MAX]) + more


def find_entry(trades: DayTrades, seq: int, symbol: str | None = None) -> dict[str, Any]:
    """The decision to enter that was taken at a seq.

    Raises:
        BadSetting: none was, or several were.
    """
    entries = [row for row in trades.decisions if row["action"] == "enter"]
    named = [row for row in entries if row["seq"] == seq and symbol in (None, row["symbol"])]
    if len(named) == 1:
        return named[0]
    day = trades.trading_date
    if named:
        who = ", ".join(f"{row['symbol']} by {row['strategy']}" for row in named)
        raise BadSetting(f"seq {seq} of {day} holds {len(named)} decisions to enter ({who}); name one with --symbol")
    near = sorted(entries, key=lambda row: abs(row["seq"] - seq))[:_LISTED_MAX]
    listed = ", ".join(f"{row['seq']} ({row['symbol']})" for row in sorted(near, key=lambda row: row["seq"]))
    raise BadSetting(f"no entry was decided at seq {seq} of {day}; the nearest decisions to enter: {listed or 'none'}")


def trade_of(trades: DayTrades, entry: dict[str, Any]) -> dict[str, Any] | None:
    """The episode row that a decision to enter led to; None when it has none."""
    side = "LONG" if entry["side"] == "BUY" else "SHORT"
    mine = [row for row in trades.episodes if _same(row, entry) and row["side"] == side]
    return next((row for row in mine if row["entry_reason"] == entry["reason"]), None)


def _same(row: dict[str, Any], entry: dict[str, Any]) -> bool:
    keys = ("symbol", "strategy", "strategy_digest", "decision_seq")
    return all(row[key] == entry[key] for key in keys)


def explain_trade(trades: DayTrades, home: Home, row: dict[str, Any]) -> dict[str, Any]:
    """A finished trade.

    Returns:
        Its identity, `decision`, `saw` (the last seconds before it), `risk`, `orders`, `fills` (each with `behind`),
        `outcome`, `costs`, `quality`, `versions` and `left_out` (why memory does not learn from it, "" when it does);
        `source` as in `DayTrades`.
    """
    document = msgspec.json.decode(row["document"])
    trace, outcome = document["decision_trace"], document["labels"]
    mine = [one for one in trades.decisions if _same(one, row)]
    entry = next(
        (one for one in mine if one["action"] == "enter" and one["reason"] == row["entry_reason"]),
        _entry_of(row, trace),
    )
    fills = _fills(trades, row, document["fills"])
    entered_ts = fills[0]["ts"]
    story = _head(trades, entry) | {"trade_id": row["trade_id"], "side": row["side"], "quantity": row["quantity"]}
    moved = outcome["pnl_usd"] + sum(fill["commission"] for fill in fills)
    slipped = [(fill["slippage"] or 0.0) * fill["quantity"] for fill in fills]
    return story | {
        "mode": row["mode"],
        "taken": row["taken"],
        "decision": _decision(entry),
        "saw": _saw(trades, entry) or _saw_kept(document),
        "risk": trace["risk"],
        "prediction": trace["prediction"],
        "orders": _orders(trades, entry, mine, fills, row=row, document=document),
        "fills": _with_events(trades, home, row["con_id"], fills),
        "outcome": outcome
        | {
            "gross_usd": round(moved, 6),
            "entry": document["entry"],
            "exit": document["exit"],
            "worst": _moment(entered_ts, outcome["time_to_mae"]),
            "best": _moment(entered_ts, outcome["time_to_mfe"]),
        },
        "costs": {
            "cost_model": document["versions"]["cost_model"],
            "commission_usd": round(sum(fill["commission"] for fill in fills), 6),
            "slippage_usd": round(sum(slipped), 6),
        },
        "quality": document.get("quality", {}),
        "left_out": trades.left_out(row),
        "versions": {"rules": 1} | document["versions"],
    }


def explain_entry(trades: DayTrades, home: Home, entry: dict[str, Any]) -> dict[str, Any]:
    """An entry without a trade: `decision`, `saw`, `risk`, `orders` and `at_end`, the quote when it ended."""
    mine = [one for one in trades.decisions if _same(one, entry) and one["side"] == entry["side"]]
    orders = [_entry_order(trades, entry, mine, [])]
    last = orders[0]["end"] or {}
    at_end = None
    if trades.day is not None and last.get("seq"):
        at_end = EventsBehind(home, trades.day).at(entry["con_id"], last["seq"])
    return _head(trades, entry) | {
        "side": "LONG" if entry["side"] == "BUY" else "SHORT",
        "quantity": 0,
        "decision": _decision(entry),
        "saw": _saw(trades, entry),
        "risk": {"initial_stop": entry["stop"], "target": entry["target"], "quantity_planned": entry["quantity"]},
        "orders": orders,
        "at_end": at_end,
    }


def _head(trades: DayTrades, entry: dict[str, Any]) -> dict[str, Any]:
    names = ("symbol", "con_id", "strategy", "strategy_digest", "decision_seq")
    about = {"trading_date": trades.trading_date.isoformat(), "source": trades.source, "note": trades.note}
    return about | {n: entry[n] for n in names}


def _entry_of(row: dict[str, Any], trace: dict[str, Any]) -> dict[str, Any]:
    """The decision to enter, from the episode alone: of a date whose decisions are not kept."""
    names = ("con_id", "symbol", "strategy", "strategy_digest", "decision_seq")
    return {name: row[name] for name in names} | {
        "seq": row["decision_seq"],
        "ts": row["decision_ts"],
        "bucket_ts": None,
        "gate_codes": "|".join(trace["gate_codes"]),
        "reason": row["entry_reason"],
        "side": "BUY" if row["side"] == "LONG" else "SELL",
        "quantity": trace["risk"]["quantity_planned"],
        "reference_price": None,
        "stop": trace["risk"]["initial_stop"],
        "target": trace["risk"]["target"],
        "features": msgspec.json.encode(trace["features"]).decode(),
    }


def _decision(entry: dict[str, Any]) -> dict[str, Any]:
    names = ("ts", "seq", "bucket_ts", "reason", "side", "quantity", "reference_price", "stop", "target")
    return {name: entry[name] for name in names} | {
        "gate_codes": [code for code in entry["gate_codes"].split("|") if code],
        "features": msgspec.json.decode(entry["features"] or "{}"),
    }


def _saw(trades: DayTrades, entry: dict[str, Any]) -> list[dict[str, Any]]:
    """The last seconds up to the bucket the decision rests on, with the gates of its strategy; none without a log."""
    if entry["bucket_ts"] is None or (seconds := trades.table("buckets")) is None:
        return []
    first, last = entry["bucket_ts"] - (SEEN_SECONDS - 1) * SECOND_NS, entry["bucket_ts"]
    buckets = _between(seconds, "ts", entry["con_id"], first, last)
    decided = trades.table("decisions")
    judged = None if decided is None else _between(decided, "bucket_ts", entry["con_id"], first, last)
    gates = {
        row["bucket_ts"]: row["gate_codes"].split("|") if row["gate_codes"] else []
        for row in ([] if judged is None else judged.to_pylist())
        if row["strategy"] == entry["strategy"] and row["action"] in ("none", "enter")
    }
    return [{name: row[name] for name in SEEN} | {"gate_codes": gates.get(row["ts"])} for row in buckets.to_pylist()]


def _between(table: pa.Table, column: str, con_id: int, first: int, last: int) -> pa.Table:
    inside = pc.and_(pc.greater_equal(table[column], first), pc.less_equal(table[column], last))
    return table.filter(pc.and_(inside, pc.equal(table["con_id"], con_id)))


def _saw_kept(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The newest of the buckets before the decision that the episode holds: 30 s before it, or none."""
    rows = document["features_pre"]["buckets"][-SEEN_SECONDS:]
    return [{name: row.get(name) for name in SEEN} | {"gate_codes": None} for row in rows]


def _fills(trades: DayTrades, row: dict[str, Any], kept: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The episode's fills with their roles: as the fills table has them, else by their side and reference."""
    table = trades.table("fills")
    filled = [] if table is None else table.to_pylist()
    roles = {_key(fill): fill["role"] for fill in filled if _same(fill, row)}
    entering = "BUY" if row["side"] == "LONG" else "SELL"
    by_reference = {"stop_price": "stop", "limit_price": "target"}
    return [
        {
            "role": roles.get(_key(fill))
            or ("entry" if fill["side"] == entering else by_reference.get(fill["reference"], "exit"))
        }
        | fill
        for fill in kept
    ]


def _key(fill: dict[str, Any]) -> tuple[Any, ...]:
    return fill["seq"], fill["ts"], fill["side"], fill["price"], fill["quantity"]


def _with_events(trades: DayTrades, home: Home, con_id: int, fills: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The fills, each with the events behind it; `behind` is None when the log is gone."""
    if trades.day is None:
        return [fill | {"behind": None} for fill in fills]
    lookup = EventsBehind(home, trades.day)
    first = trades.day.first_seq
    made = []
    for fill in fills:
        behind = lookup.at(con_id, fill["seq"]) if fill["seq"] >= first else None
        if behind is not None:
            behind["print"] = lookup.print_at(con_id, fill["seq"]) if fill["source"] == "print" else None
        made.append(fill | {"behind": behind})
    return made


# orders


def _orders(
    trades: DayTrades,
    entry: dict[str, Any],
    mine: list[dict[str, Any]],
    fills: list[dict[str, Any]],
    *,
    row: dict[str, Any],
    document: dict[str, Any],
) -> list[dict[str, Any]]:
    """The orders of a trade in the order in which they were sent or placed."""
    leaving = "SELL" if row["side"] == "LONG" else "BUY"
    trace, rest = document["decision_trace"], document.get("rest")  # before schema 3 the rest was not stored
    ended_with_data = row["exit_reason"] == DATA_END and (rest is None or rest["reason"] == RUN_END)
    what = "rest open" if ended_with_data else "rest cancelled"
    entered = _entry_order(trades, entry, mine, _of(fills, "entry"), what)
    orders = [entered | {"order": trace["risk"].get("order"), "rest": rest}]
    exits = [one for one in mine if one["action"] == "exit"]
    arrivals = [_arrival(trades, one) for one in exits]
    for role, price in (("stop", trace["risk"]["initial_stop"]), ("target", trace["risk"]["target"])):
        done = _of(fills, role)
        moves = [_move(trades, one) for one in mine if one["action"] == "change" and one["reason"] == role]
        if price is None and not done and not moves:
            continue
        orders.append({
            "role": role,
            "order": "limit" if role == "target" else "trail" if price is None else "stop",
            "side": leaving,
            "price": done[0]["reference_price"] if done and not moves else price,
            "quantity": row["quantity"],
            "sent": None,
            "arrived": {"ts": fills[0]["ts"]},  # placed by the entry's first fill (rule 13)
            "changes": moves,
            "filled": _shares(done),
            "end": _protective_end(role, done, row, arrivals),
        })  # fmt: skip
    for one, arrival in zip(exits, arrivals, strict=True):
        done = _of(fills, "exit")
        orders.append({
            "role": "exit",
            "order": "market",
            "side": one["side"],
            "price": None,
            "quantity": one["quantity"],
            "reason": one["reason"],
            "reference_price": one["reference_price"],
            "sent": {"ts": one["ts"], "seq": one["seq"]},
            "arrived": arrival,
            "changes": [],
            "filled": _shares(done),
            "end": _ended("filled", done[-1]) if done else _cancelled(row["exit_reason"], row),
        })  # fmt: skip
    return orders


def _entry_order(
    trades: DayTrades,
    entry: dict[str, Any],
    mine: list[dict[str, Any]],
    done: list[dict[str, Any]],
    rest: str = "",
) -> dict[str, Any]:
    """The entry's order; its `end` is None while it works, or when the log ended before.

    `rest`: what became of a part that was not filled.
    """
    gone = next((one for one in mine if one["action"] == "unfilled"), None)
    end = None
    if done:
        end = _ended("filled" if _shares(done) == entry["quantity"] else rest, done[-1])
    elif gone is not None:
        end = {"what": "cancelled", "why": gone["reason"], "ts": gone["ts"], "seq": gone["seq"]}
    arrival = _arrival(trades, entry)
    if end is not None and arrival is not None and end["ts"] < arrival["ts"]:
        arrival = None  # its run ended first
    return {
        "role": "entry",
        "order": None,  # the table of decisions lacks it
        "side": entry["side"],
        "price": None,
        "quantity": entry["quantity"],
        "reference_price": entry["reference_price"],
        "sent": {"ts": entry["ts"], "seq": entry["seq"]},
        "arrived": arrival,
        "changes": [
            _move(trades, one) for one in mine if one["reason"] in ("entry", "cancel") and one["action"] == "change"
        ],
        "filled": _shares(done),
        "end": end,
        "rest": None,
    }


def _protective_end(
    role: str, done: list[dict[str, Any]], row: dict[str, Any], exits: list[dict[str, Any] | None]
) -> dict[str, Any]:
    """How a stop or target ended: filled, or cancelled by the other one, by an exit's arrival or by the end."""
    reason = row["exit_reason"]
    if done and reason in ((STOP, STOP_THROUGH) if role == "stop" else (TARGET,)):
        return _ended("filled", done[-1])
    arrival = exits[0] if exits else None
    if reason in (STOP, STOP_THROUGH, TARGET, DATA_END) or arrival is None:
        return _cancelled(reason, row)
    return {"what": "cancelled", "why": f"{reason} arrived", "ts": arrival["ts"], "seq": None}


def _cancelled(reason: str, row: dict[str, Any]) -> dict[str, Any]:
    what = "open" if reason == DATA_END else "cancelled"
    return {"what": what, "why": reason, "ts": row["exit_ts"], "seq": row["exit_seq"]}


def _ended(what: str, fill: dict[str, Any]) -> dict[str, Any]:
    return {"what": what, "why": None, "ts": fill["ts"], "seq": fill["seq"]}


def _of(fills: list[dict[str, Any]], role: str) -> list[dict[str, Any]]:
    return [fill for fill in fills if fill["role"] == role]


def _shares(fills: list[dict[str, Any]]) -> int:
    return sum(fill["quantity"] for fill in fills)


def _move(trades: DayTrades, one: dict[str, Any]) -> dict[str, Any]:
    return {
        "what": one["reason"],
        "price": one["reference_price"],
        "sent": {"ts": one["ts"], "seq": one["seq"]},
        "arrived": _arrival(trades, one),
    }


def _arrival(trades: DayTrades, sent: dict[str, Any]) -> dict[str, Any] | None:
    """When a message reaches the exchange: after the latency of the run it was sent in; None without a log."""
    if trades.day is None:
        return None
    latency_ms = 0.0
    for row in trades.day.table(Kind.REQUEST).to_pylist():
        if row["action"] == Action.RUN_START.value and row["seq"] <= sent["seq"]:
            params = RunParams.parse(row["params"], row["seq"])
            latency_ms = float(params.config.get("latency_ms", 0.0))
    return {"ts": sent["ts"] + round(latency_ms * MILLI_NS)}


def _moment(since: int, seconds: float | None) -> dict[str, Any] | None:
    return None if seconds is None else {"ts": since + round(seconds * SECOND_NS)}
