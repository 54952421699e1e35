"""`harvester.Strategy`: a strategy in ten lines. docs/strategies.md describes it with examples.

A subclass has typed fields, which are its parameters, and `on_second(self, now)`, which returns an order, changes of
the position or gate codes.
"""

from __future__ import annotations

import math
import operator
import re
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, get_origin, get_type_hints

import msgspec

from harvester.errors import BadSetting
from harvester.projections.trading.episodes import BUCKET_FIELDS
from harvester.projections.trading.message_counts import MessageCounts
from harvester.projections.trading.plan import Change, ChangeKind, EntryPlan, OrderType
from harvester.units import SECOND_NS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from harvester.projections.trading.strategy import Holding


QUANTITY_MAX = 10_000_000
_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
_CODE = re.compile(r"[A-Z0-9][A-Z0-9_]{0,39}")


class Candle(NamedTuple):
    """A completed candle of the mid: start and end ns UTC, prices USD, `samples` seconds with a mid."""

    start: int
    end: int
    open: float
    high: float
    low: float
    close: float
    samples: int


class Bar(NamedTuple):
    """A backfilled bar as IB sent it: `time` in IB's form, prices USD, volume shares; absent values None."""

    bar_size: str
    time: str | None
    open: float | None
    high: float | None
    low: float | None
    close: float | None
    volume: float | None


class Candidate(NamedTuple):
    """A row of a scanner snapshot; rank 0 = first."""

    scan_code: str
    rank: int
    symbol: str


class Now(NamedTuple):
    """What a strategy sees of one symbol at one clock. Immutable; nothing in it is used by the market or the fold.

    Prices USD, sizes shares, times ns UTC; an absent number is None. The fields of the newest closed second are those
    of `hv buckets` (docs/columns.md), except `second`: its start, and `bucket_bid`, `bucket_ask`: its last quote.

    Attributes:
        seq, ts: the clock's.
        con_id, symbol: the instrument.
        bid, ask, bid_size, ask_size: the live quote at the clock; None when there is none.
        why_not_live: then OUTAGE, HALTED or NOT_LIVE, else empty.
        opens, closes: of the exchange session; None on a date without one.
        position: own position and working orders (`Holding`), None = nothing.
        alignment: 1 every timeframe closed up, -1 down, 0 neither.
        candles: the newest completed `Candle` by timeframe, as (timeframe, candle) pairs; see `candle`.
        bars: backfilled bars of 1 hour and 1 day received so far, as `Bar`, oldest first.
        candidates: rows of the newest scanner snapshot received so far, as `Candidate`, by rank.
        flat_since: when the last trade in this symbol ended; None before.
    """

    second: int
    mark: Any
    bucket_bid: Any
    bucket_ask: Any
    spread: Any
    spread_bps: Any
    spread_twa: Any
    mid: Any
    microprice: Any
    bid_top_size: Any
    ask_top_size: Any
    ofi: Any
    tape_buy: Any
    tape_sell: Any
    tape_unknown: Any
    trade_count: int
    quote_count: int
    depth_count: int
    volatility_proxy: Any
    realised_variance: Any
    seq: int
    ts: int
    bid: Any
    ask: Any
    bid_size: Any
    ask_size: Any
    imbalance: Any
    bid_size_top_n: Any
    ask_size_top_n: Any
    quote_source: Any
    book_good: Any
    stale: Any
    halted: Any
    con_id: int
    symbol: str
    why_not_live: str
    opens: int | None
    closes: int | None
    position: Holding | None
    alignment: int
    candles: tuple[tuple[str, Candle], ...]
    bars: tuple[Bar, ...]
    candidates: tuple[Candidate, ...]
    flat_since: int | None

    @property
    def live(self) -> bool:
        """Whether a live quote is in force."""
        return not self.why_not_live

    @property
    def seconds_since_open(self) -> Any:
        """Seconds from the session's open to the clock, negative before it; None on a date without a session."""
        return None if self.opens is None else (self.ts - self.opens) / SECOND_NS

    @property
    def seconds_to_close(self) -> Any:
        """Seconds from the clock to the session's close; None on a date without a session."""
        return None if self.closes is None else (self.closes - self.ts) / SECOND_NS

    def candle(self, timeframe: str) -> Candle | None:
        """The newest completed candle of `30s`, `1m`, `5m`, `15m`, `1h` or `1D`."""
        return next((candle for name, candle in self.candles if name == timeframe), None)


NUMBER_COUNT = Now._fields.index("quote_source")
NUMBERS = Now._fields[:NUMBER_COUNT]
"""Numbers of the market; those that are absent without a book come last (see `fast.now_rows`)."""
FLAGS = Now._fields[NUMBER_COUNT : Now._fields.index("con_id")]
"""Fields of the second that are not numbers."""
assert len(NUMBERS) + len(FLAGS) == len(BUCKET_FIELDS) + 6, "a bucket field is missing in Now"


class GateRefusal(NamedTuple):
    """Gate codes that say why the strategy does not trade in this second."""

    codes: tuple[str, ...]


class BadOrder(ValueError):
    """A strategy returned something that is not a valid order, change or gate code."""


class Strategy:
    """Base of a user's strategies.

    Annotated class attributes are parameters: `lookback: int = 60`. Set them with `--set lookback=30` or in
    `[strategy.NAME]` of the settings file. `on_second` decides. Keep what must last from second to second in
    `self.state`, a namespace for each symbol; every other attribute is read-only.

    Attributes:
        name: name of the strategy in logs and episodes; by default the class name in snake case.
        live_only: call `on_second` only while the symbol has a live quote and the second a mid (the default); other
            seconds are refused with OUTAGE, HALTED or NOT_LIVE.
        parameters: all parameters by name, canonical.
        state: namespace of the current symbol; plain values, lists, tuples, dictionaries, sets and deques.
    """

    name: ClassVar[str] = ""
    live_only: ClassVar[bool] = True
    state: Any
    parameters: dict[str, Any]

    def __init__(self, settings: Mapping[str, Any] | None = None) -> None:
        """Set the parameters.

        Raises:
            BadSetting: unknown parameter, missing value or value of another type.
        """
        struct = parameters_of(type(self))
        given = dict(settings or {})
        if wrong := wrong_parameters(struct, given):
            raise BadSetting(f"strategy {name_of(type(self))}: {wrong}")
        values = msgspec.convert(given, struct, strict=False)
        self.__dict__["parameters"] = msgspec.to_builtins(values)
        for name in struct.__struct_fields__:
            self.__dict__[name] = getattr(values, name)
        self.__dict__["state"] = SimpleNamespace()
        self.__dict__["_counts"] = MessageCounts()

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"self.{name} is read-only; keep it in self.state.{name}")

    def on_symbol(self, symbol: str) -> None:
        """Prepare `self.state` of a symbol; called once, before its first second."""

    def on_second(self, now: Now) -> Any:
        """Decide: return None, an order, changes, gate codes, or a list of these."""
        raise NotImplementedError(f"{type(self).__name__} has no on_second(self, now)")

    def exits(self) -> Sequence[Any]:
        """Overlays that protect every position; see `harvester.projections.trading.overlays`."""
        return ()

    def buy(self, quantity: int, **order: Any) -> EntryPlan:
        """Open a long position; keywords are the fields of `EntryPlan` but `long` and `quantity`."""
        return self._order(_plan(True, quantity, order))

    def sell(self, quantity: int, **order: Any) -> EntryPlan:
        """Open a short position; see `buy`."""
        return self._order(_plan(False, quantity, order))

    def refuse(self, *codes: str) -> GateRefusal:
        """Do nothing, for these reasons: capital letters, digits and underscores."""
        return GateRefusal(codes)

    def exit(self, reason: str = "EXIT") -> Change:
        """Close the position at the market and cancel the rest of its entry."""
        return self._change(Change(ChangeKind.EXIT, reason=reason))

    def move_stop(self, price: float) -> Change:
        """Move or place the protective stop, USD."""
        return self._change(Change(ChangeKind.STOP, price))

    def move_target(self, price: float) -> Change:
        """Move or place the target, USD."""
        return self._change(Change(ChangeKind.TARGET, price))

    def move_entry(self, price: float) -> Change:
        """Move the working entry's limit or trigger price, USD."""
        return self._change(Change(ChangeKind.ENTRY, price))

    def cancel(self) -> Change:
        """Cancel the rest of the entry."""
        return self._change(Change(ChangeKind.CANCEL))

    def _order(self, plan: EntryPlan) -> EntryPlan:
        self.__dict__["_counts"].orders += 1
        return plan

    def _change(self, change: Change) -> Change:
        self.__dict__["_counts"].changes += 1
        return change


def name_of(kind: type[Strategy]) -> str:
    """The strategy's name.

    Raises:
        BadSetting: it has capital letters, spaces or is too long.
    """
    name = kind.__dict__.get("name") or re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", kind.__name__).lower().strip("_")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise BadSetting(f"strategy name {name!r} is invalid; use small letters, digits and _, at most 40")
    return name


def parameters_of(kind: type[Strategy]) -> type[msgspec.Struct]:
    """A struct with the class's parameters: its annotated attributes, in the order of the base classes.

    Raises:
        BadSetting: an annotation cannot be read.
    """
    try:
        hints = get_type_hints(kind)
    except Exception as error:  # noqa: BLE001 - annotations are the user's code
        raise BadSetting(f"strategy {kind.__name__}: annotations cannot be read: {error}") from None
    fields: list[Any] = []
    for name, hint in hints.items():
        if name in _OWN or name.startswith("_") or hint is ClassVar or get_origin(hint) is ClassVar:
            continue
        fields.append((name, hint, getattr(kind, name)) if hasattr(kind, name) else (name, hint))
    try:
        return msgspec.defstruct(
            f"{kind.__name__}Parameters", fields, frozen=True, forbid_unknown_fields=True, kw_only=True
        )
    except TypeError as error:
        raise BadSetting(f"strategy {kind.__name__}: a parameter cannot be used: {error}") from None


_OWN = frozenset(("name", "live_only", "state", "parameters"))


_KINDS: Mapping[Any, str] = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def wrong_parameters(struct: type[msgspec.Struct], given: Mapping[str, Any]) -> str:
    """What is wrong with parameters, in words; "" for good ones."""
    fields = {field.name: field for field in msgspec.structs.fields(struct)}
    if unknown := [name for name in given if name not in fields]:
        return f"it has no parameter {', '.join(map(repr, unknown))}; its parameters: {', '.join(fields) or 'none'}"
    for name, field in fields.items():
        if name not in given:
            if field.required:
                return f"{name} needs a value, such as --set {name}=..."
            continue
        try:
            msgspec.convert(given[name], field.type, strict=False)
        except msgspec.ValidationError as error:
            return f"{name} is {given[name]!r}, not {_KINDS.get(field.type) or f'valid: {error}'}"
    return ""


# ---- what on_second may return --------------------------------------------------------------------------------------


class Wanted(NamedTuple):
    """A checked answer of `on_second`."""

    codes: tuple[str, ...] = ()
    plan: EntryPlan | None = None
    changes: tuple[Change, ...] = ()


NOTHING_WANTED = Wanted()


def checked(answer: Any, now: Now) -> Wanted:
    """What a strategy wants, with plain numbers.

    Raises:
        BadOrder: a wrong type, number or side.
    """
    if answer is None:
        return NOTHING_WANTED
    codes: list[str] = []
    plans: list[EntryPlan] = []
    changes: list[Change] = []
    parts = answer if type(answer) in (list, tuple) else (answer,)
    for part in parts:
        if isinstance(part, GateRefusal):
            codes += [_code(code, "gate code") for code in part.codes]
        elif isinstance(part, EntryPlan):
            plans.append(_checked_plan(part, now))
        elif isinstance(part, Change):
            changes.append(_checked_change(part, now.position))
        elif part is not None:
            raise BadOrder(f"on_second returned {type(part).__name__}; return an order, changes, refuse(...) or None")
    if len(plans) > 1:
        raise BadOrder(f"on_second returned {len(plans)} orders; return one, a second one as its rival")
    return Wanted(tuple(codes), plans[0] if plans else None, tuple(changes))


def _plan(long: bool, quantity: int, order: dict[str, Any]) -> EntryPlan:
    try:
        return EntryPlan(long=long, quantity=quantity, **({"reason": "ENTRY"} | order))
    except TypeError as error:
        raise BadOrder(f"order: {error}") from None


def _code(code: Any, what: str) -> str:
    if not isinstance(code, str) or not _CODE.fullmatch(code):
        raise BadOrder(f"{what} {code!r} is invalid; use capital letters, digits and _, at most 40")
    return str(code)


def _number(value: Any, what: str, *, zero: bool = False) -> float:
    if isinstance(value, bool) or not hasattr(value, "__float__") or isinstance(value, str):
        raise BadOrder(f"{what} is {value!r}, not a number")
    number = float(value)
    if not math.isfinite(number) or number < 0 or (number == 0 and not zero):
        raise BadOrder(f"{what} is {number:g}; it must be finite and above 0")
    return number


def _shares(value: Any) -> int:
    if isinstance(value, bool):
        raise BadOrder(f"quantity is {value!r}, not a number of shares")
    try:
        shares = int(value) if isinstance(value, float) and value.is_integer() else operator.index(value)
    except TypeError:
        raise BadOrder(f"quantity is {value!r}; it must be a whole number of shares") from None
    if not 1 <= shares <= QUANTITY_MAX:
        raise BadOrder(f"quantity is {shares}; it must be 1 to {QUANTITY_MAX}")
    return shares


_PRICES = ("limit", "trigger", "trail", "stop", "stop_trail", "target")
_NEEDED = {
    OrderType.LIMIT: ("limit",),
    OrderType.STOP: ("trigger",),
    OrderType.STOP_LIMIT: ("limit", "trigger"),
    OrderType.TRAIL: ("trail",),
    OrderType.MARKET: (),
}


def _checked_plan(plan: EntryPlan, now: Now, *, rival: bool = False) -> EntryPlan:
    try:
        kind = OrderType(plan.type)
    except ValueError:
        known = ", ".join(one.value for one in OrderType)
        raise BadOrder(f"order type {plan.type!r} is unknown; use one of {known}") from None
    prices = {name: None if (v := getattr(plan, name)) is None else _number(v, name) for name in _PRICES}
    for name in ("limit", "trigger", "trail"):
        if (prices[name] is not None) != (name in _NEEDED[kind]):
            word = "needs" if prices[name] is None else "takes no"
            raise BadOrder(f"a {kind.value} order {word} {name}")
    times = {name: _time(plan, name) for name in ("valid_seconds", "hold_seconds_max")}
    if rival and plan.rival is not None:
        raise BadOrder("a rival cannot have a rival")
    if plan.rival is not None and not isinstance(plan.rival, EntryPlan):
        raise BadOrder(f"rival is a {type(plan.rival).__name__}, not an order")
    made = EntryPlan(
        long=bool(plan.long),
        quantity=_shares(plan.quantity),
        reason=_code(plan.reason, "reason"),
        type=kind,
        immediate=bool(plan.immediate),
        features=_features(plan.features),
        rival=None if plan.rival is None else _checked_plan(plan.rival, now, rival=True),
        **prices,
        **times,
    )
    _check_sides(made, now)
    return made


def _time(plan: EntryPlan, name: str) -> float | None:
    value = getattr(plan, name)
    number = None if value is None else _number(value, name, zero=True)
    if number is not None and number > 86_400:
        raise BadOrder(f"{name} is {number:g}; at most 86400, a day")
    return number


def _features(given: Any) -> dict[str, float | None]:
    if not isinstance(given, dict):
        raise BadOrder(f"features is a {type(given).__name__}, not a dictionary")
    features = {}
    for name, value in given.items():
        if value is not None and (not hasattr(value, "__float__") or isinstance(value, str)):
            raise BadOrder(f"feature {name!r} is {value!r}, not a number")
        number = None if value is None else float(value)
        features[str(name)] = number if number is not None and math.isfinite(number) else None
    return features


def _check_sides(plan: EntryPlan, now: Now) -> None:
    """A stop loses and a target wins, seen from the entry's price."""
    sign, side = (1, "long") if plan.long else (-1, "short")
    near = plan.limit or plan.trigger or (now.ask if plan.long else now.bid)
    for name, price, way in (("stop", plan.stop, -1), ("target", plan.target, 1)):
        if price is not None and near is not None and (price - near) * sign * way <= 0:
            raise BadOrder(f"{name} {price:g} of a {side} entry at {near:g} is on the wrong side")
    if plan.stop is not None and plan.target is not None and (plan.target - plan.stop) * sign <= 0:
        raise BadOrder(f"stop {plan.stop:g} and target {plan.target:g} of a {side} entry are on the wrong sides")


def _checked_change(change: Change, held: Holding | None) -> Change:
    kind = ChangeKind(change.kind)
    if kind is ChangeKind.EXIT:
        return Change(kind, reason=_code(change.reason, "exit reason"))
    if kind is ChangeKind.CANCEL:
        return Change(kind)
    price = _number(change.price, f"{kind.value} price")
    if held is not None:
        sign = 1 if held.long else -1
        if kind is ChangeKind.STOP and held.target is not None and (held.target - price) * sign <= 0:
            raise BadOrder(f"stop {price:g} is on the wrong side of the target {held.target:g}")
        if kind is ChangeKind.TARGET and held.stop is not None and (price - held.stop) * sign <= 0:
            raise BadOrder(f"target {price:g} is on the wrong side of the stop {held.stop:g}")
    return Change(kind, price)
