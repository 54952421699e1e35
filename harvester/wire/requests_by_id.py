"""Requests by id: the instrument, and the parameters that answers do not repeat."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from harvester.events.kinds import Action

if TYPE_CHECKING:
    from collections.abc import Mapping

_ARRAY_IDS = 1 << 16  # smaller ids are looked up in an array, the rest in a dictionary


class RequestFacts(NamedTuple):
    """One request; `params` is the decoded JSON of its `request` row."""

    con_id: int
    stream: str
    symbol: str
    params: Mapping[str, Any]

    def text(self, name: str) -> str | None:
        value = self.params.get(name)
        return None if value is None else str(value)

    def flag(self, name: str) -> bool | None:
        value = self.params.get(name)
        return None if value is None else bool(value)


OPENING = frozenset({Action.SUBSCRIBE, Action.BACKFILL, Action.ASK})
"""Actions that open a request with an id of its own."""

_NOTHING = RequestFacts(0, "", "", {})


class RequestTable:
    """Requests by id, from the `request` rows in log order.

    A message before its request in the log must not see it, however the log is split into batches: therefore lookups
    take positions.
    """

    def __init__(self) -> None:
        self._facts: dict[int, RequestFacts] = {}
        self._con_ids = np.zeros(256, np.int64)
        self._large_ids: dict[int, int] = {}
        self._new: list[tuple[int, int]] = []  # (request id, position) added in the current batch

    def begin(self) -> None:
        """Start a batch: requests of earlier batches are valid from its first event."""
        self._new.clear()

    def learn(self, row: Mapping[str, Any], position: int) -> None:
        """Add the `request` row at `position` in the current batch."""
        req_id = int(row.get("req_id", -1))
        if req_id < 0 or row.get("action") not in OPENING or req_id in self._facts:
            return
        params = msgspec.json.decode(row.get("params") or "{}")
        con_id = int(row.get("con_id", 0))
        self._facts[req_id] = RequestFacts(con_id, str(row.get("stream") or ""), str(row.get("symbol") or ""), params)
        self._new.append((req_id, position))
        if req_id >= _ARRAY_IDS:
            self._large_ids[req_id] = con_id
        else:
            if req_id >= len(self._con_ids):
                self._con_ids = np.concatenate([self._con_ids, np.zeros(max(req_id, len(self._con_ids)), np.int64)])
            self._con_ids[req_id] = con_id

    def get(self, req_id: int) -> RequestFacts:
        """The request with this id; an empty one if unknown."""
        return self._facts.get(req_id, _NOTHING)

    def con_id(self, req_id: int, position: int) -> int:
        """Instrument of a request for a message at `position` of the current batch; 0 if it is unknown there."""
        if any(new == req_id and position < since for new, since in self._new):
            return 0
        return self.get(req_id).con_id

    def con_ids(self, req_ids: npt.NDArray[np.int32], positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Instrument of each message, shape (n,); 0 where the request is unknown or comes later."""
        inside = (req_ids >= 0) & (req_ids < len(self._con_ids))
        con_ids = self._con_ids[np.where(inside, req_ids, 0)]
        if self._large_ids:
            con_ids[~inside] = [self._large_ids.get(int(req_id), 0) for req_id in req_ids[~inside]]
        else:
            con_ids[~inside] = 0
        for req_id, since in self._new:
            con_ids[(req_ids == req_id) & (positions < since)] = 0
        return con_ids
