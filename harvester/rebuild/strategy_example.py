"""The example that `hv strategy new` writes."""

from __future__ import annotations

import keyword
import re
import sys
from typing import TYPE_CHECKING

from harvester.errors import BadSetting
from harvester.files import Disk

if TYPE_CHECKING:
    from pathlib import Path

EXAMPLE = '''"""{title}: a strategy for Harvester. It is an example, and no source of profit.

    hv strategy check {file}:{title} --date D      does it decide the same in every fold?
    hv project --strategy {file}:{title} --date D  trade a recorded date by it
"""

from harvester import BreakEven, Bracket, Strategy, TimeStop


class {title}(Strategy):
    # Parameters: name, type, default. Set them with --set lookback=30, or in [strategy.{name}] of a TOML file.
    lookback: int = 60
    spread_bps_max: float = 5.0
    shares: int = 100

    def exits(self):
        # Applied to every position: stop and target in percent, break-even, time stop in minutes.
        return Bracket(0.3, 0.6), BreakEven(0.3), TimeStop(120)

    def on_symbol(self, symbol):
        # Once for each symbol. Everything that must last goes into self.state.
        self.state.mids = []

    def on_second(self, now):
        # Once a second and symbol, while a live quote is in force. `now` is read-only; docs/strategies.md lists it.
        mids = self.state.mids
        mids.append(now.mid)
        del mids[: -self.lookback]
        if now.position is not None:
            return None
        if now.opens is None or now.seconds_since_open < 60 or now.seconds_to_close < 900:
            return self.refuse("SESSION")
        if now.spread_bps > self.spread_bps_max:
            return self.refuse("SPREAD")
        if len(mids) < self.lookback:
            return self.refuse("WARMUP")
        if now.mid == max(mids) > mids[0]:
            return self.buy(self.shares, valid_seconds=3, reason="NEW_HIGH")
        return None
'''


def write_example(name: str, folder: Path, disk: Disk | None = None) -> tuple[Path, str]:
    """Write `NAME.py` into a folder; returns the file and its class.

    Raises:
        BadSetting: the name is not a module name, or the file exists.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,39}", name):
        raise BadSetting(f"strategy name {name!r} is invalid; use small letters, digits and _, at most 40")
    if name in sys.stdlib_module_names or keyword.iskeyword(name) or name in {"strategy", "harvester"}:
        raise BadSetting(f"{name}.py would hide a module or word of Python; use another name, as my_{name}")
    path, title = folder / f"{name}.py", "".join(part.capitalize() for part in name.split("_"))
    if path.exists():
        raise BadSetting(f"{path} exists; use another name")
    text = EXAMPLE.replace("{title}", title).replace("{file}", path.name).replace("{name}", name)
    (disk or Disk()).write_atomic(path, text.encode())
    return path, title
