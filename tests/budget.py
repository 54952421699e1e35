"""Size of a test: short in `make test`, full in `make test-long` (HARVESTER_TEST_LONG=1); see docs/testing.md."""

from __future__ import annotations

import os
from typing import TypeVar

T = TypeVar("T")
LONG = os.environ.get("HARVESTER_TEST_LONG", "") not in {"", "0"}


def budget(short: T, full: T) -> T:
    """The size of a test: `full` in the long run, else `short`. Both prove the same claim."""
    return full if LONG else short
