"""Where a date's data come from: the kinds of its connections, from the notices `Own.SOURCE`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from harvester.events.kinds import Action, Own, SourceKind, Stream

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

KINDS = tuple(SourceKind)
"""`Occurrence.value` of a `SOURCE` is an index of it."""
_NO_MARKET = frozenset((Stream.RUN.value, Stream.CONTRACT.value, Stream.OTHER.value, ""))


class Provenance:
    """The kinds of a date so far, from its requests and notices in seq order.

    A run that subscribes to a stream before any notice says where the data come from counts as `unknown`: so does every
    run recorded by 0.1.
    """

    def __init__(self, kinds: Sequence[str] = (), *, stated: bool = False) -> None:
        self.kinds = [SourceKind(kind) for kind in kinds]
        self.stated = stated  # in the run under way

    @property
    def kind(self) -> SourceKind:
        """The kind of the date: `unknown` before the first connection, `mixed` of two kinds."""
        if len(self.kinds) > 1:
            return SourceKind.MIXED
        return self.kinds[0] if self.kinds else SourceKind.UNKNOWN

    def look(self, row: Mapping[str, Any]) -> bool:
        """Take in a `request` or `notice` row; whether the kind of the date has changed."""
        before = self.kind
        if row.get("code") == Own.SOURCE and row.get("msg") is None:
            self.stated = True
            self._add(_kind_in(row.get("detail")))
        elif row.get("action") == Action.RUN_START:
            self.stated = False
        elif row.get("action") == Action.SUBSCRIBE and not self.stated and row.get("stream") not in _NO_MARKET:
            self.stated = True
            self._add(SourceKind.UNKNOWN)
        return self.kind != before

    def _add(self, kind: SourceKind) -> None:
        if kind not in self.kinds:
            self.kinds = sorted((*self.kinds, kind), key=KINDS.index)


def _kind_in(detail: str | None) -> SourceKind:
    """The kind in the detail of a `SOURCE` notice; unknown when it names none that this version knows."""
    try:
        found = SourceKind(msgspec.json.decode(detail or "", type=dict[str, str])["kind"])
    except (msgspec.MsgspecError, ValueError, KeyError):
        return SourceKind.UNKNOWN
    return SourceKind.UNKNOWN if found == SourceKind.MIXED else found
