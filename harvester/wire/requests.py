"""What is known of a request by its id: the instrument and the words its answers leave out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from harvester.events.kinds import Action

if TYPE_CHECKING:
    from collections.abc import Mapping

_DIRECT = 1 << 16  # ids below it are looked up in an array, the rest in a dictionary


class Facts(NamedTuple):
    """One request. `params` is the request row's JSON object."""

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


_ASKING = frozenset({Action.SUBSCRIBE, Action.BACKFILL, Action.ASK})
_NOTHING = Facts(0, "", "", {})


class RequestTable:
    """Facts by request id, learned from `request` rows in the order in which they were logged.

    A message that stands before its request in the log knows nothing of it, wherever the log is cut into batches; that
    is why `con_ids` is handed positions.
    """

    def __init__(self) -> None:
        self._facts: dict[int, Facts] = {}
        self._con_ids = np.zeros(256, np.int64)
        self._far: dict[int, int] = {}
        self._fresh: list[tuple[int, int]] = []  # (request id, position), learned in the current batch

    def begin(self) -> None:
        """Start a batch: what earlier batches taught holds from its first event on."""
        self._fresh.clear()

    def learn(self, row: Mapping[str, Any], position: int) -> None:
        """Take a `request` row that stands at `position` in the current batch."""
        req_id = int(row.get("req_id", -1))
        if req_id < 0 or row.get("action") not in _ASKING or req_id in self._facts:
            return
        params = msgspec.json.decode(row.get("params") or "{}")
        con_id = int(row.get("con_id", 0))
        self._facts[req_id] = Facts(con_id, str(row.get("stream") or ""), str(row.get("symbol") or ""), params)
        self._fresh.append((req_id, position))
        if req_id >= _DIRECT:
            self._far[req_id] = con_id
        else:
            if req_id >= len(self._con_ids):
                self._con_ids = np.concatenate([self._con_ids, np.zeros(max(req_id, len(self._con_ids)), np.int64)])
            self._con_ids[req_id] = con_id

    def get(self, req_id: int) -> Facts:
        """Facts of one request as known now; neutral ones when it is unknown."""
        return self._facts.get(req_id, _NOTHING)

    def con_id(self, req_id: int, position: int) -> int:
        """Instrument of the request a message at `position` of the current batch answers, 0 when not known there."""
        if any(fresh == req_id and position < since for fresh, since in self._fresh):
            return 0
        return self.get(req_id).con_id

    def con_ids(self, req_ids: npt.NDArray[np.int32], positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Instrument of each message, shape (n,): 0 where the request is unknown or comes only later."""
        inside = (req_ids >= 0) & (req_ids < len(self._con_ids))
        found = self._con_ids[np.where(inside, req_ids, 0)]
        if self._far:
            found[~inside] = [self._far.get(int(req_id), 0) for req_id in req_ids[~inside]]
        else:
            found[~inside] = 0
        for req_id, since in self._fresh:
            found[(req_ids == req_id) & (positions < since)] = 0
        return found
