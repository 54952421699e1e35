"""One-second buckets: built by the kernels, handed out at the clock that closes them. Columns: `BUCKETS`."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from harvester.projections.base import Projection, chained
from harvester.projections.market.state_arrays import bucket_table, joined
from harvester.projections.step import NOTHING_DERIVED, Derived

if TYPE_CHECKING:
    import pyarrow as pa

    from harvester.projections.market.market import Market
    from harvester.projections.market.state_arrays import Array
    from harvester.projections.step import Step

_HASH_ROWS = 100_000  # bucket rows that may wait for their hash


class Buckets(Projection):
    """Closed buckets as a table; the digest is a chain of hashes, so that a snapshot can continue it."""

    name = "buckets"

    def __init__(self, market: Market) -> None:
        super().__init__(market)
        self._chain = bytes(16)
        self._unhashed: list[Array] = []
        self._ready: list[Array] = []

    def fold(self, step: Step) -> Derived:
        if not len(step.closed):
            return NOTHING_DERIVED
        self._ready.append(step.closed)
        self._unhashed.append(step.closed)
        if sum(map(len, self._unhashed)) > _HASH_ROWS:
            self._hash()
        return NOTHING_DERIVED

    def _hash(self) -> None:
        for rows in self._unhashed:  # every step ends after a clock's rows: links are complete
            self._chain = chained(self._chain, rows)
        self._unhashed = []

    def take(self) -> dict[str, pa.RecordBatch]:
        if not self._ready:
            return {}
        rows = joined(self._ready)
        self._ready = []
        return {"buckets": bucket_table(rows, self._market.symbols)}

    def digest(self) -> str:
        """Chain over all rows handed out, and the symbols of their instruments."""
        self._hash()
        return hashlib.blake2b(self._chain + repr(self._market.symbols).encode(), digest_size=16).hexdigest()

    def snapshot(self) -> bytes:
        assert not self._ready, f"{len(self._ready)} finished tables were not taken before the snapshot"
        self._hash()
        return self._chain

    def restore(self, data: bytes) -> None:
        self._chain, self._unhashed, self._ready = data, [], []
