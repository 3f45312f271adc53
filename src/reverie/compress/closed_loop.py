"""Solve, measure, correct, solve again: until what was *measured* is within the budget.

A latency table predicts; it cannot be trusted to the last percent, because a runtime fuses, pads and schedules whole
networks. So the solver's limit is moved until the plan it returns measures just under the budget. The plan that is
handed back was itself measured to be within it, and one that is too near to the budget to tell is measured again.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from reverie.core.errors import BudgetInfeasible

__all__ = ["Attempt", "meet_budget"]

Solution = TypeVar("Solution")
# What the solver was told, its solution, and the prediction.
_Told = tuple[float, Solution, float]

# Plans a few thousandths apart measure differently by as much: where a limit gives a plan that is known, those around
# it are asked for, nearest first, up to this share away.
NUDGE, FARTHEST = 0.003, 0.03
# What is said of plans beside one that was measured holds where that one is no farther than this from what is aimed at.
REACH, STEPS = 0.06, 2
READINGS = 3


@dataclass(frozen=True)
class Attempt(Generic[Solution]):
    """One turn of the loop.

    Attributes:
        limit: What the solver was told, in predicted units.
        predicted: What the table says of its solution, at most `limit`.
        measured: What the solution measured, in the unit of the budget; the mean of the readings that count.
        solution: Whatever the solver returned.
    """

    limit: float
    predicted: float
    measured: float
    solution: Solution


def meet_budget(
    solve: Callable[[float], tuple[Solution, float]],
    measure: Callable[[Solution], tuple[float, float]],
    *,
    budget: float,
    first_limit: float,
    beside: Callable[[Solution], Iterable[tuple[Solution, float, float]]] = lambda _: (),
    allowed: Callable[[Solution], bool] = lambda _: True,
    tolerance: float = 0.03,
    attempts: int = 8,
) -> tuple[Attempt[Solution], tuple[Attempt[Solution], ...]]:
    """The solution that measures closest under the budget, and every attempt that was made.

    Higher predictions measure higher but for a percent or two, so the limit follows the line through the two attempts
    around the budget, or the ratio of the nearest one. Where that gives nothing new near it, the solutions beside those
    that were measured are looked at: the one of least loss that should measure what is wanted.

    Args:
        solve: Limit -> (solution, its predicted cost); raises `BudgetInfeasible` where the limit is out of reach.
        measure: Solution -> its measured cost and half its 95 % interval, in the unit of `budget`. Where the budget is
            inside the interval it is called again, up to three times in all, and the mean counts. A solution that
            ends the search was measured anew after it was chosen, and that counts.
        budget: Upper limit on the measured cost.
        first_limit: Where the solver starts, in predicted units.
        beside: Solution -> others that differ little from it, each with its predicted cost and its loss.
        allowed: Whether one of these others may be taken; asked of the best first.
        tolerance: Stop once the measured cost is within this share under the budget, in [0, 1).
        attempts: Turns at most.

    Raises:
        BudgetInfeasible: Even the cheapest solution measures above the budget; carries the lowest measured cost.

    Example:
        >>> whole = lambda limit: (int(limit), float(int(limit)))
        >>> chosen, history = meet_budget(whole, lambda n: (1.1 * n, 0.0), budget=10.0, first_limit=10.0)
        >>> chosen.solution
        9
    """
    history: list[Attempt[Solution]] = []
    limit, aim, near = first_limit, budget * (1 - tolerance / 2), tolerance / 2

    def inside(measured: float) -> bool:
        return budget * (1 - tolerance) <= measured <= budget

    while len(history) < attempts:
        direct = _solved(solve, limit)
        found: _Told[Solution] | None = direct
        if history and (_known(direct, history) or abs(direct[2] - limit) > near * limit):
            found = _from_beside(beside, allowed, history, aim, near=near) or _new(solve, limit, history, budget)
        if found is None:
            break
        told, solution, predicted = found
        measured = _settled(measure, solution, budget)
        if inside(measured):
            measured = _settled(measure, solution, budget)
        history.append(Attempt(told, predicted, measured, solution))
        if inside(measured):
            break
        limit = _corrected(history, aim)
    return _best(history, budget), tuple(history)


def _best(history: Sequence[Attempt[Solution]], budget: float) -> Attempt[Solution]:
    met = [attempt for attempt in history if attempt.measured <= budget]
    if not met:
        lowest = min(attempt.measured for attempt in history)
        raise BudgetInfeasible(
            f"the cheapest network reached measures {lowest:.4g}, above the budget of {budget:.4g}",
            cheapest=lowest,
            budget="latency",
        )
    return max(met, key=lambda attempt: attempt.measured)


def _settled(measure: Callable[[Solution], tuple[float, float]], solution: Solution, budget: float) -> float:
    """What a solution measures, as often as it takes to tell on which side of the budget that is."""
    values: list[float] = []
    error = 0.0
    while len(values) < READINGS:
        value, half = measure(solution)
        values.append(value)
        error += half**2
        mean = sum(values) / len(values)
        if abs(mean - budget) >= error**0.5 / len(values):
            break
    return mean


def _corrected(history: Sequence[Attempt[Solution]], aim: float) -> float:
    """The limit at which a plan should measure `aim`."""
    under = max((one for one in history if one.measured <= aim), key=lambda one: one.measured, default=None)
    over = min((one for one in history if one.measured > aim), key=lambda one: one.measured, default=None)
    if under is not None and over is not None and under.predicted < over.predicted:
        share = (aim - under.measured) / (over.measured - under.measured)
        return under.predicted + share * (over.predicted - under.predicted)
    nearest = min(history, key=lambda one: abs(one.measured - aim))
    return nearest.predicted * aim / nearest.measured


def _known(found: _Told[Solution], history: Sequence[Attempt[Solution]]) -> bool:
    return any(attempt.predicted == found[2] for attempt in history)


def _solved(solve: Callable[[float], tuple[Solution, float]], limit: float) -> _Told[Solution]:
    """The limit that was told, the solution, and its prediction."""
    try:
        return limit, *solve(limit)
    except BudgetInfeasible as infeasible:
        if limit >= infeasible.cheapest:
            raise
        # Below the cheapest prediction there is nothing to try but the cheapest itself.
        told = infeasible.cheapest * (1 + 1e-9)
        return told, *solve(told)


def _from_beside(
    beside: Callable[[Solution], Iterable[tuple[Solution, float, float]]],
    allowed: Callable[[Solution], bool],
    history: Sequence[Attempt[Solution]],
    aim: float,
    *,
    near: float,
) -> _Told[Solution] | None:
    """A solution one or two steps from an attempt: of those that should measure near the aim, the one of least loss."""
    starts = [
        (attempt.measured / attempt.predicted, attempt.solution)
        for attempt in history
        if abs(attempt.measured - aim) <= REACH * aim
    ]
    for _ in range(STEPS):
        inside: list[tuple[float, _Told[Solution]]] = []
        reached: list[tuple[float, Solution]] = []
        for scale, start in starts:
            for solution, predicted, loss in beside(start):
                told = (predicted, solution, predicted)
                reached.append((scale, solution))
                if abs(scale * predicted - aim) <= near * aim and not _known(told, history):
                    inside.append((loss, told))
        for _, told in sorted(inside, key=lambda one: one[0]):
            if allowed(told[1]):
                return told
        starts = reached
    return None


def _new(
    solve: Callable[[float], tuple[Solution, float]], limit: float, history: Sequence[Attempt[Solution]], budget: float
) -> _Told[Solution] | None:
    """What the nearest limit gives that was not measured; None where there is nothing."""
    for tried in _around(limit, history, budget):
        found = _solved(solve, tried)
        if not _known(found, history):
            return found
    return None


def _around(limit: float, history: Sequence[Attempt[Solution]], budget: float) -> list[float]:
    """Limits to try in turn, nearest first, and rather up where the nearest plan was within the budget."""
    nearest = min(history, key=lambda one: abs(one.predicted - limit))
    up = 1 if nearest.measured <= budget else -1
    steps = [side * step * NUDGE for step in range(1, round(FARTHEST / NUDGE) + 1) for side in (up, -up)]
    return [limit, *(limit * (1 + step) for step in steps)]
