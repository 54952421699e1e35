"""The tape against tick 8, IB's cumulative volume: the shares printed while it rose.

A stretch is a period with one L1 and one tape in use, from its first tick 8 on. Some gateways send a print before its
tick 8, some after it: then the first value already contains a print that is still to come, and the last print of the
stretch comes after its last tick 8. The order is decided once for the whole stretch, by the shares printed between two
rises: they equal the later rise (print first) or the earlier one (tick first).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

LOTS = 100.0  # some gateways count tick 8 of US stocks in round lots


class Stretch(NamedTuple):
    """One stretch of an instrument so far; the kernels update the same fields in `state_arrays.INSTRUMENT`.

    Attributes:
        rises: number of values of tick 8 after the first.
        print_first, tick_first: how often the shares printed between two rises equalled the later, the earlier one.
        volume_rise: increase of tick 8, as sent.
        tape_matched: shares printed from the first tick 8 to the last.
        tape_first: of these, before the second.
        tape_since: shares printed since the last.
    """

    rises: int
    print_first: int
    tick_first: int
    volume_rise: float
    tape_matched: float
    tape_first: float
    tape_since: float

    @staticmethod
    def of(inst: Any) -> Stretch:
        """The current stretch, from a record of `state_arrays.INSTRUMENT`."""
        return Stretch(*(inst[name].item() for name in Stretch._fields))

    @property
    def tick_leads(self) -> bool:
        """Whether a tick 8 comes before its print; if prints do not decide, the order with the smaller difference."""
        if self.print_first != self.tick_first:
            return self.tick_first > self.print_first
        missed = {leads: abs(self.printed(leads) - self.rise(leads)) for leads in (False, True)}
        return missed[True] < missed[False]

    def printed(self, tick_leads: bool) -> float:
        """Shares of the tape that belong to the rises."""
        if self.rises and tick_leads:
            return self.tape_matched - self.tape_first + self.tape_since
        return self.tape_matched

    def lot(self, tick_leads: bool) -> float:
        """The shares in one unit of tick 8: 1, or a round lot."""
        return LOTS if self.printed(tick_leads) > LOTS / 2 * self.volume_rise > 0 else 1.0

    def rise(self, tick_leads: bool) -> float:
        """The increase of tick 8, in shares."""
        return self.volume_rise * self.lot(tick_leads)


NOTHING = Stretch(0, 0, 0, 0.0, 0.0, 0.0, 0.0)


def checked(stretches: Iterable[Stretch]) -> tuple[float, float]:
    """(shares of the tape, rise of tick 8 as sent) over stretches."""
    printed = rise = 0.0
    for stretch in stretches:
        printed += stretch.printed(stretch.tick_leads)
        rise += stretch.volume_rise
    return printed, rise
