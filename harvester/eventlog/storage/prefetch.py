"""Run work in other threads, a few steps before its results are needed.

Reading, hashing and decompressing a log's bytes release the GIL, so threads do it in parallel with each other and with
the fold.
"""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    Item = TypeVar("Item")
    Result = TypeVar("Result")


def workers(cores: int | None) -> int:
    """Threads for a machine: one per core, at most four; one when the count of cores is not known."""
    return min(cores or 1, 4)


WORKERS = workers(os.cpu_count())
STEPS_AHEAD = 2 * WORKERS  # most results that wait; limits memory


def prefetch(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Like `map`, computed up to `STEPS_AHEAD` items ahead; an exception of `work` is raised at its result."""
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(WORKERS, thread_name_prefix="log") as threads:
        try:
            for item in items:
                waiting.append(threads.submit(work, item))
                if len(waiting) > STEPS_AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
