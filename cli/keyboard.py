"""Read single keys from a terminal, on POSIX and on Windows."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from types import TracebackType

_POLL_S = 0.02
_ESCAPE_S = 0.05  # an escape followed by more within this time is an arrow key
_ARROWS = {"\x1b[D": "left", "\x1b[C": "right", "\x1bOD": "left", "\x1bOC": "right"}
_WINDOWS_ARROWS = {"K": "left", "M": "right"}


class Keys:
    """Reads keys as they are pressed, without Enter; restores the terminal on exit."""

    def __init__(self) -> None:
        self._before: Any = None

    def __enter__(self) -> Self:
        if sys.platform != "win32":
            import termios
            import tty

            self._before = termios.tcgetattr(sys.stdin)
            tty.setcbreak(sys.stdin)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if sys.platform != "win32":
            import termios

            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._before)

    def get(self, seconds: float | None) -> str:
        """The next character, or `left` and `right` for arrows; empty after `seconds` without one (None = no limit)."""
        return self._windows(seconds) if sys.platform == "win32" else self._posix(seconds)

    def _posix(self, seconds: float | None) -> str:
        first = self._byte(seconds)
        if first != "\x1b":
            return first
        text = first + self._byte(_ESCAPE_S)
        return _ARROWS.get(text + self._byte(_ESCAPE_S), "\x1b") if len(text) > 1 else first

    @staticmethod
    def _byte(seconds: float | None) -> str:
        import os
        import select

        handle = sys.stdin.fileno()
        if not select.select([handle], [], [], seconds)[0]:
            return ""
        return os.read(handle, 1).decode("ascii", "replace") or "q"  # the terminal was closed: quit

    @staticmethod
    def _windows(seconds: float | None) -> str:
        import importlib

        console: Any = importlib.import_module("msvcrt")
        left = seconds
        while not console.kbhit():
            if left is not None and left <= 0:
                return ""
            time.sleep(_POLL_S)
            left = None if left is None else left - _POLL_S
        char = str(console.getwch())
        return _WINDOWS_ARROWS.get(str(console.getwch()), "") if char in ("\x00", "\xe0") else char
