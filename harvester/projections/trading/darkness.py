"""Why a symbol is unseen: a trade held meanwhile rests on less than the market."""

from __future__ import annotations

from enum import IntFlag


class Dark(IntFlag):
    """Why a symbol is unseen."""

    OUTAGE = 1
    HALT = 2
    LOST = 4  # its quote is unknown since an outage, a run start or the death of its stream
