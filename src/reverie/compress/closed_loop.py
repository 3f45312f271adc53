"""Solve, measure, correct, solve again: until what was *measured* is within the budget.

A latency table predicts; it cannot be trusted to the last percent, because a runtime fuses, pads and schedules whole
networks. So the solver's limit is moved until the plan it returns measures just under the budget. The plan that is
handed back was itself measured to be within it, and one that is too near to the budget to tell is measured again.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from reverie.core.errors import BudgetInfeasible

__all__ = ["Attempt", "meet_budget"]

Solution = TypeVar("Solution")

# Plans a few thousandths apart measure differently by as much: where a limit gives a plan that is known, those around
# it are asked for, nearest first, up to this share away.
NUDGE, FARTHEST = 0.003, 0.03
# Shares of a limit that are left to be spent; each leads to another plan near it.
SLACKS = (0.0, 0.02, 0.04, 0.06, 0.09, 0.13)
READINGS = 3


@dataclass(frozen=True)
class Attempt(Generic[Solution]):
    """One turn of the loop.

    Attributes:
        limit: What the solver was told, in predicted units.
        predicted: What the table says of its solution, at most `limit`.
        measured: What the solution measured, in the unit of the budget; the mean of its readings.
        solution: Whatever the solver returned.
    """

    limit: float
    predicted: float
    measured: float
    solution: Solution


def meet_budget(
    solve: Callable[[float, float], tuple[Solution, float]],
    measure: Callable[[Solution], tuple[float, float]],
    *,
    budget: float,
    first_limit: float,
    tolerance: float = 0.03,
    attempts: int = 8,
) -> tuple[Attempt[Solution], tuple[Attempt[Solution], ...]]:
    """The solution that measures closest under the budget, and every attempt that was made.

    Higher predictions measure higher but for a percent or two, so the limit follows the line through the two attempts
    around the budget, or the ratio of the nearest one; where that gives nothing new near it, other plans of about the
    same cost are asked for, and then its neighborhood.

    Args:
        solve: Limit, share of it that is left to be spent -> (solution, its predicted cost); raises `BudgetInfeasible`
            where the limit is out of reach.
        measure: Solution -> its measured cost and half its 95 % interval, in the unit of `budget`. Where the budget is
            inside the interval it is called again, up to three times in all, and the mean counts.
        budget: Upper limit on the measured cost.
        first_limit: Where the solver starts, in predicted units.
        tolerance: Stop once the measured cost is within this share under the budget, in [0, 1).
        attempts: Turns at most.

    Raises:
        BudgetInfeasible: Even the cheapest solution measures above the budget; carries the lowest measured cost.

    Example:
        >>> whole = lambda limit, slack: (int(limit), float(int(limit)))
        >>> chosen, history = meet_budget(whole, lambda n: (1.1 * n, 0.0), budget=10.0, first_limit=10.0)
        >>> chosen.solution
        9
    """
    history: list[Attempt[Solution]] = []
    limit = first_limit
    while len(history) < attempts:
        found = _new(solve, limit, history, budget, near=tolerance / 2)
        if found is None:
            break
        told, solution, predicted = found
        attempt = Attempt(told, predicted, _settled(measure, solution, budget), solution)
        history.append(attempt)
        if budget * (1 - tolerance) <= attempt.measured <= budget:
            break
        limit = _corrected(history, budget * (1 - tolerance / 2))
    met = [attempt for attempt in history if attempt.measured <= budget]
    if not met:
        lowest = min(attempt.measured for attempt in history)
        raise BudgetInfeasible(
            f"the cheapest network reached measures {lowest:.4g}, above the budget of {budget:.4g}",
            cheapest=lowest,
            budget="latency",
        )
    return max(met, key=lambda attempt: attempt.measured), tuple(history)


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


def _new(
    solve: Callable[[float, float], tuple[Solution, float]],
    limit: float,
    history: Sequence[Attempt[Solution]],
    budget: float,
    *,
    near: float,
) -> tuple[float, Solution, float] | None:
    """A plan that was not measured, with its limit: the first near what was asked for, else the nearest, if any."""
    nearest: tuple[float, Solution, float] | None = None
    for tried, slack in _around(limit, history, budget):
        told = tried
        try:
            solution, predicted = solve(told, slack)
        except BudgetInfeasible as infeasible:
            if told >= infeasible.cheapest:
                raise
            # Below the cheapest prediction there is nothing to try but the cheapest itself.
            told = infeasible.cheapest * (1 + 1e-9)
            solution, predicted = solve(told, slack)
        if any(attempt.predicted == predicted for attempt in history):
            continue
        if nearest is None or abs(predicted - limit) < abs(nearest[2] - limit):
            nearest = told, solution, predicted
        if abs(nearest[2] - limit) <= near * limit:
            break
    return nearest


def _around(limit: float, history: Sequence[Attempt[Solution]], budget: float) -> Iterator[tuple[float, float]]:
    """Limits and slacks to try in turn: the limit itself, then nearest first, and rather up from a plan within."""
    yield from ((limit, slack) for slack in SLACKS)
    nearest = min(history, key=lambda one: abs(one.predicted - limit), default=None)
    if nearest is None:
        return
    up = 1 if nearest.measured <= budget else -1
    for step in range(1, round(FARTHEST / NUDGE) + 1):
        yield from ((limit * (1 + side * step * NUDGE), 0.0) for side in (up, -up))
