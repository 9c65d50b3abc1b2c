# SPDX-License-Identifier: Apache-2.0
"""How many rows of others an iteration may have, so that the first request keeps nearly the pace it has alone.

All rows of an iteration end together, so each row of others delays those that are there. Fused without limit, the
first of 32 requests takes several times as long as alone where arithmetic bounds a step. Here the request that found
the loop idle, or is more urgent than all that run, holds the pace: what its iterations take longer than alone is paid
from an account to which each of them adds `slack - 1` of its time alone. The account is spent where it buys most
rows a second; once the holder has ended, all others go together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from edge_nodes.language.fusion.request import Handle

NEWEST = 0.2  # weight of the newest time
MOST_LATE = 2.0  # times the known cost: what exceeds it is not the rows' doing
NEARLY_BEST = 0.9  # share of the most rows a second that will do
PROBED = 16  # iterations after which the holder runs one alone, to see what that takes now


class StepCosts:
    """Seconds of an iteration by its number of rows, from those that were run.

    Args:
        most_rows: of an iteration.
    """

    def __init__(self, most_rows: int) -> None:
        self._seconds = np.full(most_rows + 1, np.nan)
        self._rows = np.arange(most_rows + 1)

    def add(self, rows: int, seconds: float) -> None:
        """Note an iteration; the older ones fade."""
        known = self._seconds[rows]
        if np.isnan(known):
            self._seconds[rows] = seconds
        else:
            self._seconds[rows] += NEWEST * (min(seconds, MOST_LATE * known) - known)

    def known(self, rows: int) -> bool:
        """Return whether an iteration of so many rows was run."""
        return bool(self._seconds[rows] == self._seconds[rows])

    @property
    def row_s(self) -> float | None:
        """Return the seconds of one more row, None before their number has varied."""
        known = np.flatnonzero(~np.isnan(self._seconds))
        if len(known) < 2:
            return None
        grown = self._seconds[known[-1]] - self._seconds[known[0]]
        return max(0.0, float(grown) / int(known[-1] - known[0]))

    def upto(self, rows: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """Return the seconds of 0 to `rows` rows; none is cheaper than a smaller one.

        Between known numbers they grow evenly, beyond them at the mean rate so far. Without any they are 0.
        """
        known = np.flatnonzero(~np.isnan(self._seconds))
        if not len(known):
            return np.zeros(rows + 1)
        last, row_s = int(known[-1]), self.row_s
        rate = float(self._seconds[last]) / last if row_s is None else row_s
        found = np.interp(self._rows[: rows + 1], known, self._seconds[known])
        found[last + 1 :] += rate * np.arange(1, max(rows - last, 0) + 1)
        return np.asarray(np.maximum.accumulate(found))


class Pace:
    """The holder and its account.

    Args:
        slack: times its time alone that the holder may take; 0 for no limit.
        costs: of iterations.

    Attributes:
        holder: the request that keeps its pace; None if there is none.
        balance_s: what its iterations may still take longer, seconds.
    """

    def __init__(self, slack: float, costs: StepCosts) -> None:
        self.costs, self.balance_s = costs, 0.0
        self.holder: Handle | None = None
        self._share = max(slack, 1.0) - 1.0
        self._off = slack == 0.0
        self._beside = 0  # iterations in a row that others were part of

    def take(self, handle: Handle, waited_s: float) -> None:
        """Make a request the holder.

        Args:
            handle: the request.
            waited_s: how long it has been waiting; the others make up for it.
        """
        if not self._off:
            self.holder, self.balance_s = handle, -waited_s

    def release(self, handle: Handle) -> None:
        """Forget the holder if it is this request, which has ended or lost its slot."""
        if self.holder is handle:
            self.holder = None

    def spare(self, own: int, others: int) -> int:
        """Return how many rows of others go with the next `own` rows of the holder.

        Args:
            own: rows of the holder.
            others: rows that others could have.
        """
        if others <= 0 or self._beside >= PROBED or not self.costs.known(own):
            return 0
        seconds = self.costs.upto(own + others)
        longer = np.maximum(seconds[own + 1 :] - seconds[own], 1e-9)
        rows_a_second = np.arange(1, others + 1) / longer
        credit = self.balance_s + self._share * float(seconds[own])
        good = (longer <= credit) & (rows_a_second >= NEARLY_BEST * rows_a_second.max())
        return int(np.flatnonzero(good)[-1]) + 1 if good.any() else 0

    def paid(self, own: int, others: int, seconds: float) -> None:
        """Note an iteration of `own` rows of the holder and of some rows of others."""
        alone, both = self.costs.upto(own + others)[[own, own + others]]
        self.balance_s += self._share * alone
        self._beside = self._beside + 1 if others else 0
        if others:
            self.balance_s -= max(0.0, min(seconds, MOST_LATE * both) - alone)
