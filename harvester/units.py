"""Units of time, ns, and the limits of seqs and times. One home each; this module imports nothing."""

from __future__ import annotations

MILLI_NS = 1_000_000
SECOND_NS = 1_000_000_000
MINUTE_NS = 60 * SECOND_NS
HOUR_NS = 60 * MINUTE_NS
NEVER = 2**63 - 1
"""After every seq, and after every time in ns UTC."""
BEFORE_ALL = -(2**63)
"""Before every time in ns UTC, or equal to it."""
