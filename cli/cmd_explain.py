"""`hv explain`: one simulated trade from its decision to its costs."""

from __future__ import annotations

import json as json_text
import shutil
import textwrap
from typing import Annotated, Any

import typer

from cli.cells import clock_time, price
from cli.options import DateOption, HomeOption, JsonOption, OneSymbolOption, ProjectedOption, date_of

_INDENT = 7
_WIDTHS = (60, 140)  # of the text, at least and at most


def explain(
    *,
    trade_id: Annotated[
        str | None,
        typer.Argument(
            metavar="TRADE_ID", help="Select a trade: T133427_001, or its exit time in New York; or SYMBOL/either."
        ),
    ] = None,
    date: DateOption = None,
    seq: Annotated[
        int | None, typer.Option("--seq", help="Select the decision to enter at this seq instead, filled or not.")
    ] = None,
    symbol: OneSymbolOption = None,
    strategy: ProjectedOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Explain a simulated trade: why it entered, what it saw, its orders, the events behind each fill, its result.

    The seconds shown are the last ones closed before the decision; tape is the volume bought and sold, `no book` that
    no good order book was recorded then. A fill shows the quote in force at its seq and the
    rows of the log that made it, or the print. The first call folds the day and saves snapshots in temp/cache, as
    `hv book` does. When the log is gone, what `hv eod` kept is shown, without the log's rows. With --strategy the trade
    is one of those that `hv project --strategy` wrote, as for `hv episodes`.

    Example: hv explain ACME/T133427_001 --date 2025-07-17

    Example: hv explain --seq 12986 --date 2025-07-17
    """
    from cli.progress_bar import ProgressBar
    from harvester.artefacts.json_files import times
    from harvester.errors import BadSetting
    from harvester.eventlog.symbols import symbol_named
    from harvester.explain import explained_trade as explained
    from harvester.explain.day_trades import trades_of, trades_of_strategy
    from harvester.home import Home

    if (trade_id is None) == (seq is None):
        raise BadSetting("give a TRADE_ID or --seq DECISION_SEQ, one of them; `hv episodes` lists the trades")
    root = Home.find(home)
    day = date_of(date, root)
    with ProgressBar(f"folding {day}", quiet=as_json) as bar:
        paths = root.on(day)
        trades = trades_of(paths, bar.update) if strategy is None else trades_of_strategy(paths, strategy)
        named = None if symbol is None else symbol_named(symbol, trades.symbols, day)
        entry = None if seq is None else explained.find_entry(trades, seq, named)
        row = explained.find_trade(trades, trade_id or "", named) if entry is None else None
        if entry is not None:
            row = explained.trade_of(trades, entry)
        if row is not None:
            story = explained.explain_trade(trades, root, row)
        else:
            assert entry is not None, "neither a trade nor a decision"
            story = explained.explain_entry(trades, root, entry)
    if as_json:
        typer.echo(json_text.dumps(times(story), allow_nan=False))
    else:
        typer.echo("\n".join(_lines(story)))


def _lines(story: dict[str, Any]) -> list[str]:
    parts = [("", _title(story)), *([("", story["note"])] if story["note"] else [])]
    parts += [("result", line) for line in _result(story)]
    parts += [("why", line) for line in _why(story)]
    parts += [("saw", line) for line in _saw(story)]
    parts += [("orders", line) for order in story["orders"] for line in _order(order)]
    parts += [("fills", line) for fill in story.get("fills", ()) for line in _fill(fill, story["source"] == "log")]
    if story.get("at_end"):
        parts += [("quote", line) for line in _behind(story["at_end"])]
    if "quality" in story:
        unseen = {name: value for name, value in story["quality"].items() if name not in ("learned_from", "why_not")}
        parts += [("unseen", _pairs(unseen) or "not recorded with episodes of this version")]
        parts += [("rules", _pairs(story["versions"]))]
    width, before, out = min(max(shutil.get_terminal_size((100, 24)).columns, _WIDTHS[0]), _WIDTHS[1]), "", []
    for title, text in parts:
        head = f"{title if title != before else '':<{_INDENT}}" if title else ""
        own = len(text) - len(text.lstrip())
        rest = " " * (len(head) + own + 2)
        out += textwrap.wrap(head + text, width, subsequent_indent=rest, break_on_hyphens=False) or [head]
        before = title
    return [line.rstrip() for line in out]


def _title(story: dict[str, Any]) -> str:
    what = f"{story['side']} {story['quantity']}" if story["quantity"] else f"{story['side']}, not filled"
    name = f"{_plain(story['symbol'])} {story.get('trade_id', 'entry at seq ' + str(story['decision_seq']))}"
    vetoed = "" if story.get("taken", True) else ", vetoed: in no profit or loss"
    return f"{name}  {what}, {story['trading_date']}, {_plain(story['strategy'])}{vetoed}  (times in New York)"


def _result(story: dict[str, Any]) -> list[str]:
    if "outcome" not in story:
        return []
    made, costs = story["outcome"], story["costs"]
    risk = "no R" if made["r_multiple"] is None else f"{made['r_multiple']:+.2f} R"
    enter, leave = made["entry"], made["exit"]
    return [
        (
            f"{made['pnl_usd']:+.2f} USD, {risk}, {made['win_loss']} by {_plain(made['exit_reason'])}; "
            f"{'not learned from: ' + story['left_out'] if story['left_out'] else 'learned from'}"
        ),
        (
            f"in at {price(enter['price'])} at {_at(enter)}, out at {price(leave['price'])} at {_at(leave)}, "
            f"held {_n(made['hold_seconds'])} s"
        ),
        (
            f"worst {made['mae']:.2f} USD{_when(made['worst'])}, best {made['mfe']:.2f} USD{_when(made['best'])}, "
            "before costs"
        ),
        (
            f"{made['gross_usd']:+.2f} USD before costs of {costs['commission_usd']:.2f} "
            f"({_plain(costs['cost_model'])}); slippage {costs['slippage_usd']:.2f} USD against the references, "
            "already in the prices"
        ),
    ]


def _when(moment: dict[str, Any] | None) -> str:
    return "" if moment is None else f" at {_at(moment)}"


def _why(story: dict[str, Any]) -> list[str]:
    made, risk = story["decision"], story["risk"]
    gates = "|".join(made["gate_codes"]) or "none"
    lines = [f"{_plain(made['reason'] or '')}, decided at {_at(made)} (seq {made['seq']:,}); refused by: {gates}"]
    lines += [_pairs(made["features"])] if made["features"] else []
    usd = risk.get("initial_risk_usd")
    share = f" = {_n(usd / story['quantity'])} a share x {story['quantity']}" if usd and story["quantity"] else ""
    fixed = f"risk {_n(usd)} USD{share}" if usd else "risk unknown: no stop, no reference, or no fill"
    most = f", at most {_n(risk['hold_seconds_max'])} s" if risk.get("hold_seconds_max") else ""
    lines.append(
        f"{fixed}; reference {price(made['reference_price'])}, stop {price(risk['initial_stop'])}, "
        f"target {price(risk['target'])}{most}"
    )
    if story.get("prediction"):
        lines.append(f"prediction {_pairs(story['prediction'])}")
    return lines


def _saw(story: dict[str, Any]) -> list[str]:
    rows = story["saw"]
    if not rows:
        return ["no second is kept"]
    names = ("second", "bid", "ask", "mid", "spread", "imbal", "tape", "refused, flags")
    table: list[tuple[str, ...]] = [names]
    for row in rows:
        flags = [name for name, on in (("stale", row["stale"]), ("no book", row["book_good"] is False)) if on]
        table.append((
            _at(row),
            f"{price(row['bid'])}x{_n(row['bid_top_size'])}",
            f"{price(row['ask'])}x{_n(row['ask_top_size'])}",
            price(row["mid"]),
            _n(row["spread"]),
            _n(row["imbalance"], 3),
            f"{_n(row['tape_buy'])}/{_n(row['tape_sell'])}",
            ", ".join(filter(None, ["|".join(row["gate_codes"] or []), *flags])),
        ))  # fmt: skip
    widths = [max(len(line[k]) for line in table[k == len(names) - 1 :]) for k in range(len(names))]
    return [_aligned(line, widths) for line in table]


def _aligned(line: tuple[str, ...], widths: list[int]) -> str:
    """The cells in columns: the first and the last to the left, the others to the right."""
    first, *inner, last = line
    cells = [text.rjust(width) for text, width in zip(inner, widths[1:-1], strict=True)]
    return " ".join([first.ljust(widths[0]), *cells, last]).rstrip()


def _order(order: dict[str, Any]) -> list[str]:
    at = "" if order["price"] is None else f" at {price(order['price'])}"
    reason = f" ({_plain(order['reason'])})" if order.get("reason") else ""
    kind = f" {order['order']}" if order["order"] else ""
    lines = [f"{order['role']}: {order['side'].lower()} {order['quantity']}{kind}{at}{reason}"]
    if order["sent"]:
        lines.append(f"  {_at(order['sent'])} sent at seq {order['sent']['seq']:,}")
    if order["arrived"]:
        placed = "arrived" if order["sent"] else "placed by the entry's first fill"
        lines.append(f"  {_at(order['arrived'])} {placed}")
    for change in order["changes"]:
        to = "" if change["price"] is None else f" to {price(change['price'])}"
        arrived = "" if change["arrived"] is None else f", arrived {_at(change['arrived'])}"
        lines.append(f"  {_at(change['sent'])} {change['what']}{to} sent at seq {change['sent']['seq']:,}{arrived}")
    end = order["end"]
    if end is None:
        return [*lines, "  not ended yet"]
    why = f": {_plain(end['why'])}" if end["why"] else ""
    where = "" if end["seq"] is None else f", seq {end['seq']:,}"
    filled = f" {order['filled']} of {order['quantity']}" if order["filled"] or end["what"] == "filled" else ""
    if end["what"] == "rest open":
        lines.append(f"  {_at(end)} last fill{where}; {order['filled']} of {order['quantity']} filled")
        return [*lines, "  the rest still worked when the data ended"]
    if end["what"] == "rest cancelled":
        lines.append(f"  {_at(end)} last fill{where}; {order['filled']} of {order['quantity']} filled")
        if (rest := order.get("rest")) is None:
            return [*lines, "  the rest was cancelled; an episode of this age does not hold when"]
        why = f"{rest['quantity']} cancelled: {_plain(rest['reason'])}"
        return [*lines, f"  {_at(rest)} the rest of {why}, seq {rest['seq']:,}"]
    return [*lines, f"  {_at(end)} {end['what']}{filled}{why}{where}"]


def _fill(fill: dict[str, Any], has_log: bool) -> list[str]:
    slip = ""
    if fill["slippage"] is not None:
        slip = f", slippage {_n(fill['slippage'])} USD a share against {price(fill['reference_price'])}"
    lines = [
        (
            f"{fill['role']}: {fill['side'].lower()} {fill['quantity']} at {price(fill['price'])} at {_at(fill)}, "
            f"seq {fill['seq']:,}, against the {fill['source']}; cost {_n(fill['commission'])} USD{slip}"
        )
    ]
    behind = fill["behind"]
    if behind is None:
        return [*lines, *(["  its events are not in the log any more"] if has_log else [])]
    if behind["print"]:
        lines.append(f"  print: {_row(behind['print'])}")
    return lines + [f"  {line}" for line in _behind(behind)]


def _behind(behind: dict[str, Any]) -> list[str]:
    quote = behind["quote"]
    if quote is None:
        return [f"after seq {behind['seq']:,} no quote was in force"]
    bid, ask = (f"{price(quote[side])} x {_n(quote[f'{side}_size'])}" for side in ("bid", "ask"))
    head = f"quote after seq {behind['seq']:,}: bid {bid}, ask {ask} ({quote['source']}), made by"
    return [head, *(f"  {_row(row)}" for row in behind["rows"])]


def _row(row: dict[str, Any]) -> str:
    from harvester.explain.events_behind import TICKS

    rest = {name: value for name, value in row.items() if name not in ("seq", "ts", "kind") and value not in (None, "")}
    if row["kind"] == "tick":
        field = rest.pop("field")
        name = next((name for name, fields in TICKS.items() if field in fields), "")
        rest = {f"{name.replace('_', ' ')} (field {field})": ""} | rest
    return " ".join(f"seq {row['seq']:,} {_at(row)} {row['kind']} {_pairs(rest, ' ')}".split())


def _pairs(values: dict[str, Any], between: str = ", ") -> str:
    """`name value` of each, floats short, absent values as `-`."""
    return between.join(f"{name} {_value(value)}" for name, value in values.items())


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return "|".join(map(str, value)) or "-"
    return _n(value) if value is None or isinstance(value, int | float) else _plain(str(value))


def _at(moment: dict[str, Any]) -> str:
    return clock_time(moment["ts"])


def _n(x: float | None, digits: int = 8) -> str:
    """A number in few digits; `-` for none."""
    return "-" if x is None else f"{x + 0.0:.{digits}g}"


def _plain(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)
