"""Tick 8 against the tape in plain Python: every stretch is a list, evaluated when it is over."""

from __future__ import annotations

from itertools import pairwise

HOUR = 3_600_000_000_000


def alike(rise, printed):
    return rise > 0 and printed > 0 and (rise == printed or abs(100 * rise - printed) < 100)


class Stretch:
    """Values of tick 8 with the hour of each, and the prints (hour, shares) after each."""

    def __init__(self):
        self.values = []
        self.prints = []

    def tick(self, hour, value):
        self.values.append((hour, value))
        self.prints.append([])

    def printed(self, hour, size):
        if self.prints:
            self.prints[-1].append((hour, size))

    def rises(self):
        """(hour, rise, prints before it, prints after it)."""
        steps = zip(self.values, self.values[1:], self.prints, self.prints[1:], strict=False)
        return [(hour, value - old, before, after) for (_, old), (hour, value), before, after in steps]

    def by_hour(self):
        """[(hour, shares of the tape, rise in shares)], an hour as often as it likes."""
        rises = self.rises()
        between = [(before[1], sum(size for _, size in before[3]), after[1]) for before, after in pairwise(rises)]
        first = sum(alike(later, shares) for _, shares, later in between)
        leads = sum(alike(earlier, shares) for earlier, shares, _ in between)
        orders = [self.order(rises, place) for place in (2, 3)]
        if first != leads:
            return orders[leads > first][1]
        return min(orders, key=lambda order: order[0])[1]

    @staticmethod
    def order(rises, place):
        """(shares missed, rows per hour) when prints come before (2) or after (3) their tick 8."""
        total = sum(rise for _, rise, *_ in rises)
        tape = sum(size for one in rises for _, size in one[place])
        lot = 100 if tape > 50 * total > 0 else 1
        found = [(hour, 0, rise * lot) for hour, rise, *_ in rises]
        if place == 2:  # prints count at the time of their tick 8
            found += [(one[0], sum(size for _, size in one[2]), 0) for one in rises]
        else:
            found += [(hour, size, 0) for one in rises for hour, size in one[3]]
        return abs(tape - total * lot), found


def volumes(events):
    """{hour: (shares of the tape, rise of tick 8)} of one instrument with one L1 (request 1) and one tape (2) at most.

    `events` are kinds and rows. Ticks count while both are on.
    """
    stretches, on = [Stretch()], set()
    for kind, row in events:
        hour = row["ts_recv"] // HOUR
        if kind == "request" and row["action"] in ("subscribe", "cancel"):
            stretches.append(Stretch())
            on = on | {row["req_id"]} if row["action"] == "subscribe" else on - {row["req_id"]}
        elif kind == "tick" and on == {1, 2}:
            stretches[-1].tick(hour, row["size"])
        elif kind == "trade" and on == {1, 2}:
            stretches[-1].printed(hour, row["size"])
    out = {}
    for hour, tape, rise in (part for stretch in stretches for part in stretch.by_hour()):
        ours, theirs = out.get(hour, (0, 0))
        out[hour] = (ours + tape, theirs + rise)
    return out
