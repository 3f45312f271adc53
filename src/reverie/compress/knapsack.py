"""The multiple-choice knapsack with one budget, solved exactly in milliseconds.

What for: the commonest allocation has uncoupled sites and one budget. For a price of the budget, every allocation's
loss is a bound that holds for all, plus the margins of its options, plus the price of the room it leaves. Few options
have margins below what the best allocation known still could gain, so few are left; over those, states (cost, loss)
are built site by site, and each is completed by the linear relaxation of the rest: as a bound, and rounded down as an
allocation.

Cost: about 10 ms for 100 sites of 200 options. Where the states are too many, as for costs with few distinct values,
None is returned and the caller solves otherwise.

Reference: Pisinger, 1995, "A minimal algorithm for the multiple-choice knapsack problem", European Journal of
Operational Research 83. Differs: the linear relaxation completes every state at once, and costs are real numbers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

__all__ = ["Relaxed", "fuzz_of", "improved", "relaxed", "solve_knapsack"]

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Indices = NDArray[np.intp]

# States kept at most; beyond, a mixed-integer program is the better way.
MOST_STATES = 300_000
# Sums of different order differ by this share; nothing within it is told apart.
ROUNDING = 1e-14


@dataclass(frozen=True, eq=False)
class Relaxed:
    """The relaxation at the best price of the budget.

    Attributes:
        loss: (sites, options), infinite where excluded.
        cost: (sites, options).
        price: Loss per unit of the budget, at least 0.
        margins: (sites, options), by how much the bound rises where an option is chosen.
        base: (sites,) options of margin 0 that meet the budget together.
        bound: No allocation has a lower loss.
    """

    loss: Floats
    cost: Floats
    price: float
    margins: Floats
    base: Indices
    bound: float


def solve_knapsack(
    losses: Sequence[Floats], costs: Sequence[Floats], possible: Sequence[Mask], limit: float
) -> tuple[list[int], float] | None:
    """The options of least total loss whose total cost is at most `limit`, and a bound within rounding of that loss.

    Args:
        losses: Per site (options,).
        costs: Per site (options,).
        possible: Per site (options,), false where an option is excluded.
        limit: Of the total cost.

    Returns:
        None where no allocation is within the limit by more than rounding, or where there are too many states.

    Example:
        >>> low, high = np.array([0.0, 1.0]), np.array([2.0, 1.0])
        >>> solve_knapsack([low, 3 * low], [high, high], [high > 0] * 2, 3.0)
        ([1, 0], 1.0)
    """
    found = relaxed(losses, costs, possible, limit)
    if found is None:
        return None
    # What is surely within the limit, however it is added up, is where the search begins.
    safe = limit - fuzz_of(found)
    inner = found if _total(found.cost, found.base) <= safe else relaxed(losses, costs, possible, safe)
    if inner is None or _total(inner.cost, inner.base) > safe:
        return None
    best = improved(inner, safe)
    value = _total(found.loss, best)
    scale = float(np.ptp(found.loss[np.isfinite(found.loss)])) * len(best)
    close = max(ROUNDING * scale, ROUNDING * abs(value))
    if value - found.bound <= close:
        return best.tolist(), min(found.bound, value)
    core = _Core(found, limit, best, close)
    if not core.search():
        return None
    value = _total(found.loss, core.best)
    return core.best.tolist(), min(value, max(found.bound, value - close))


def relaxed(
    losses: Sequence[Floats], costs: Sequence[Floats], possible: Sequence[Mask], limit: float
) -> Relaxed | None:
    """Price the budget so that the bound is as high as it gets; None where no allocation is within the limit."""
    width = max(map(len, possible))
    loss = np.full((len(possible), width), np.inf)
    cost = np.zeros((len(possible), width))
    for site, mask in enumerate(possible):
        loss[site, : len(mask)] = np.where(mask, losses[site], np.inf)
        cost[site, : len(mask)] = costs[site]
    rows = np.arange(len(loss))
    # Among equal losses the cheapest, among equal costs the best: ties must not hide an allocation within the limit.
    cheapest = np.where(np.isfinite(loss), cost, np.inf).min(axis=1)
    if cheapest.sum() > limit + ROUNDING * (abs(limit) + float(np.abs(cheapest).sum())):
        return None

    def pick(price: float) -> Indices:
        priced = loss + price * cost
        lowest = priced.min(axis=1, keepdims=True)
        return np.where(priced <= lowest, cost, np.inf).argmin(axis=1)

    base, price = pick(0.0), 0.0
    if cost[rows, base].sum() > limit:
        over, base = base, np.where(cost <= cheapest[:, None], loss, np.inf).argmin(axis=1)
        # The line through an allocation on either side of the limit: where nothing lies below it, its slope is the
        # price; else what lies below it is nearer to the limit.
        while True:
            spent, saved = _total(cost, over), _total(cost, base)
            lost, kept = _total(loss, base), _total(loss, over)
            if not spent > saved or not lost > kept:
                break
            price = (lost - kept) / (spent - saved)
            tried = pick(price)
            below = kept + price * spent - _total(loss, tried) - price * _total(cost, tried)
            if not below > 4 * ROUNDING * (abs(kept) + abs(lost) + price * (abs(spent) + abs(saved))):
                break
            if _total(cost, tried) > limit:
                over = tried
            else:
                base = tried
    priced = loss + price * cost
    lowest = priced.min(axis=1)
    return Relaxed(loss, cost, price, priced - lowest[:, None], base, float(lowest.sum() - price * limit))


def fuzz_of(found: Relaxed) -> float:
    """More than the sums of costs in different order can differ by."""
    return ROUNDING * float(np.abs(found.cost).max(axis=1).sum())


def _total(values: Floats, picked: Indices) -> float:
    return float(values[np.arange(len(picked)), picked].sum())


def improved(found: Relaxed, limit: float) -> Indices:
    """The base, with single options exchanged as long as that lowers the loss within the limit."""
    picked, rows = found.base.copy(), np.arange(len(found.base))
    for _ in range(4 * len(picked)):
        room = limit - _total(found.cost, picked)
        gain = found.loss[rows, picked][:, None] - found.loss
        gain = np.where(found.cost - found.cost[rows, picked][:, None] <= room, gain, -np.inf)
        site, option = np.unravel_index(int(gain.argmax()), gain.shape)
        if not gain[site, option] > 0:
            break
        picked[site] = option
    return picked


class _Core:
    """Breadth-first search over the options that could still be better than the best known.

    Everything is relative to the base: a state has a shift of the cost and a sum of margins; its loss is
    `floor + margin + price * (room - shift)`, where `floor` is the bound and `room` what the base leaves.
    """

    def __init__(self, found: Relaxed, limit: float, best: Indices, close: float) -> None:
        self.found, self.limit, self.best, self.close = found, limit, best, close
        self.room = limit - _total(found.cost, found.base)
        self.fuzz = fuzz_of(found)
        self.gap = _total(found.loss, best) - found.bound - close
        self.shift = found.cost - found.cost[np.arange(len(found.base)), found.base][:, None]
        self.order = self._sites()
        self.parents: list[Indices] = []
        self.options: list[Indices] = []

    def _sites(self) -> list[int]:
        """Sites with more than one option left; those whose second option is nearest first."""
        open_ = self.found.margins <= self.gap
        second = np.where(open_, self.found.margins, np.inf)
        second[np.arange(len(second)), self.found.base] = np.inf
        nearest = second.min(axis=1)
        return [int(site) for site in nearest.argsort(kind="stable") if np.isfinite(nearest[site])]

    def search(self) -> bool:
        """Find the best; false where there were too many states."""
        shifts, margins = np.zeros(1), np.zeros(1)
        steps = _Steps(self)
        for depth, site in enumerate(self.order):
            open_ = self.open(site)
            if len(shifts) * len(open_) > 4 * MOST_STATES:
                return False
            if len(open_) == 1:
                # The search itself has closed the site: what was found since leaves its base alone.
                self.parents.append(np.arange(len(shifts)))
                self.options.append(np.full(len(shifts), open_[0]))
                continue
            shifts, margins = self._extend(shifts, margins, site, open_)
            rest = steps.after(depth)
            self._round(depth, rest, shifts, margins, -self.fuzz, most=1)
            bounds = self._round(depth, rest, shifts, margins, self.fuzz, most=3)
            alive = bounds <= self.gap
            shifts, margins = shifts[alive], margins[alive]
            self.parents[-1], self.options[-1] = self.parents[-1][alive], self.options[-1][alive]
            if len(shifts) > MOST_STATES:
                return False
            if not len(shifts):
                return True
        # At the edge of the limit only exact addition tells, so every state that is left has to be asked.
        last = len(self.order) - 1
        self._round(last, steps.after(last), shifts, margins, self.fuzz, most=len(shifts))
        return True

    def _round(
        self, depth: int, rest: "_Completion", shifts: Floats, margins: Floats, slack: float, *, most: int
    ) -> Floats:
        """Take the best completion within the limit, trying `most` of them; the bounds of all states."""
        bounds, whole, places = rest.complete(shifts, margins, self.room + slack, self.found.price)
        better = np.flatnonzero(whole < self.gap)
        for at in better[whole[better].argsort(kind="stable")][:most]:
            if self._take(depth, int(at), rest.taken(int(places[at]))):
                break
        return bounds

    def open(self, site: int) -> Indices:
        """Options that could be in a better allocation, by rising cost and so by falling loss."""
        near = np.flatnonzero(self.found.margins[site] <= self.gap)
        loss = self.found.loss[site, near]
        order = np.lexsort((loss, self.shift[site, near]))
        best = np.minimum.accumulate(loss[order])
        keep = np.ones(len(near), dtype=np.bool_)
        keep[1:] = loss[order][1:] < best[:-1]
        return near[order[keep]]

    def _extend(self, shifts: Floats, margins: Floats, site: int, open_: Indices) -> tuple[Floats, Floats]:
        """All states with all options of a site, without those that another one dominates."""
        wide = (self.shift[site, open_][:, None] + shifts).ravel()
        deep = (self.found.margins[site, open_][:, None] + margins).ravel()
        parents = np.tile(np.arange(len(shifts)), len(open_))
        options = np.repeat(open_, len(shifts))
        near = np.flatnonzero(deep <= self.gap)
        loss = deep[near] - self.found.price * wide[near]
        order = near[np.lexsort((loss, wide[near]))]
        loss = deep[order] - self.found.price * wide[order]
        keep = np.ones(len(order), dtype=np.bool_)
        keep[1:] = loss[1:] < np.minimum.accumulate(loss)[:-1]
        order = order[keep]
        self.parents.append(parents[order])
        self.options.append(options[order])
        return wide[order], deep[order]

    def _take(self, depth: int, state: int, steps: Sequence[tuple[int, int]]) -> bool:
        """A better allocation, where it is within the limit: the path to a state, the base, the completion's steps."""
        picked = self.found.base.copy()
        for level in range(depth, -1, -1):
            picked[self.order[level]] = self.options[level][state]
            state = int(self.parents[level][state])
        for site, option in steps:
            picked[site] = option
        if math.fsum(self.found.cost[np.arange(len(picked)), picked]) > self.limit:
            return False
        self.best = picked
        self.gap = _total(self.found.loss, picked) - self.found.bound - self.close
        return True


def _hull(open_: Indices, shift: Floats, margin: Floats, base: int) -> list[tuple[float, float, int]]:
    """Steps along the lower hull of a site's options, away from its base: (shift, margin, option it ends at)."""
    corners = [(0.0, 0.0, base)]
    for x, y, option in zip(shift.tolist(), margin.tolist(), open_.tolist(), strict=True):
        while len(corners) > 1:
            (x1, y1, _), (x0, y0, _) = corners[-1], corners[-2]
            if (y1 - y0) * (x - x0) < (y - y0) * (x1 - x0):
                break
            corners.pop()
        if x > corners[-1][0]:
            corners.append((x, y, option))
    return [(x1 - x0, y1 - y0, option) for (x0, y0, _), (x1, y1, option) in pairwise(corners)]


class _Steps:
    """The steps of all sites' hulls to either side, the cheapest margins per shift first."""

    def __init__(self, core: _Core) -> None:
        rows: tuple[list[tuple[float, float, float, int, int, int]], ...] = ([], [])
        for rank, site in enumerate(core.order):
            open_, base = core.open(site), int(core.found.base[site])
            shift, margin = core.shift[site, open_], core.found.margins[site, open_]
            right, left = shift > 0, (shift < 0)[::-1]
            sides = (
                (open_[right], shift[right], margin[right]),
                (open_[::-1][left], -shift[::-1][left], margin[::-1][left]),
            )
            for into, side in zip(rows, sides, strict=True):
                into += [(y / x, x, y, rank, site, option) for x, y, option in _hull(*side, base)]
        # Stable, so that the steps of one site stay in their order where slopes are equal.
        self.right, self.left = (np.array(sorted(side, key=lambda one: one[0])).reshape(-1, 6) for side in rows)

    def after(self, rank: int) -> "_Completion":
        """The line of the sites that come after one."""
        right, left = (side[side[:, 3] > rank] for side in (self.right, self.left))
        shifts = np.concatenate([-left[:, 1].cumsum()[::-1], [0.0], right[:, 1].cumsum()])
        margins = np.concatenate([left[:, 2].cumsum()[::-1], [0.0], right[:, 2].cumsum()])
        return _Completion(shifts, margins, right[:, 4:].astype(np.intp), left[:, 4:].astype(np.intp))


@dataclass(frozen=True, eq=False)
class _Completion:
    """The linear relaxation of the sites that are still to come, as a convex line over the shift of their cost."""

    shifts: Floats
    margins: Floats
    right: Indices
    left: Indices

    def complete(self, shifts: Floats, margins: Floats, room: float, price: float) -> tuple[Floats, Floats, Indices]:
        """Per state: a bound on all completions, the value of the rounded one, and the place of that on the line."""
        rest = room - shifts
        beyond = np.maximum(rest - self.shifts[-1], 0.0)
        bounds = margins + np.interp(rest, self.shifts, self.margins) + price * beyond
        bounds = np.where(rest < self.shifts[0], np.inf, bounds)
        place = np.searchsorted(self.shifts, rest, side="right") - 1
        at = np.maximum(place, 0)
        whole = margins + self.margins[at] + price * (rest - self.shifts[at])
        return bounds, np.where(place < 0, np.inf, whole), at

    def taken(self, place: int) -> list[tuple[int, int]]:
        """Sites and options of the rounded completion at a place, later ones replacing earlier ones."""
        zero = len(self.left)
        steps = self.right[: place - zero] if place >= zero else self.left[: zero - place]
        return [(int(site), int(option)) for site, option in steps]
