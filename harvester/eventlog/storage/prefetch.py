"""Work done by other threads, some steps before its result is asked for.

What is slow about a log's bytes (reading them, hashing, decompressing) happens outside of Python's lock, so threads do
it side by side with each other and with whoever folds.
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

WORKERS = min(os.cpu_count() or 1, 4)
STEPS_AHEAD = 2 * WORKERS  # results that wait at most: this bounds memory


def ahead(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """`map`, in order, up to `STEPS_AHEAD` items ahead; an exception of `work` is raised in its result's place."""
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
