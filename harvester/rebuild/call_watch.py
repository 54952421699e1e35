"""Ends calls of users' strategies that do not return, while a date is folded.

    with CallWatch():
        engine.fold(batch)

A second thread looks at the folding thread once a second. A call of a strategy's code that has lasted `CALL_S_MAX` gets
a `NoAnswer`, which drops the strategy like any other error. Calls that return cost nothing. Code that never comes
back to Python cannot be ended so.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import FrameType

CALL_S_MAX = 30.0
LOOK_S = 1.0
_STRATEGY = "<strategy "  # how `strategy_files` names the files of strategies


class NoAnswer(TimeoutError):
    """A strategy does not answer."""

    def __str__(self) -> str:
        return "no answer within the limit for one call"


class CallWatch:
    """Watches the thread that enters the block. `call_s_max`: real seconds a call may last; None = `CALL_S_MAX`."""

    def __init__(self, call_s_max: float | None = None) -> None:
        self._call_s_max = CALL_S_MAX if call_s_max is None else call_s_max
        self._thread = threading.get_ident()
        self._over = threading.Event()
        self._watching = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._watching.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._watching.join()

    def _watch(self) -> None:
        call: FrameType | None = None
        looks = 0
        while not self._over.wait(LOOK_S):
            present = self._call()
            looks = looks + 1 if present is not None and present is call else 0
            call = present
            if looks * LOOK_S >= self._call_s_max:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._thread), ctypes.py_object(NoAnswer))
                looks = 0

    def _call(self) -> FrameType | None:
        """The outermost frame of a strategy's code that the thread is in; None when it is in none."""
        frame, found = sys._current_frames().get(self._thread), None  # noqa: SLF001 - the only way to see another thread
        while frame is not None:
            if frame.f_code.co_filename.startswith(_STRATEGY):
                found = frame
            frame = frame.f_back
        return found
