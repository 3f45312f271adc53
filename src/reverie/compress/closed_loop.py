"""Solve, measure, correct, solve again: until what was *measured* is within the budget.

A latency table predicts; it cannot be trusted to the last percent, because a runtime fuses, pads and schedules whole
networks. So the solver's limit is moved until the plan it returns measures just under the budget. The plan that is
handed back was itself measured to be within it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from reverie.core.errors import BudgetInfeasible

__all__ = ["Attempt", "meet_budget"]

Solution = TypeVar("Solution")

# Plans a few thousandths apart measure differently by as much: where a limit gives a plan that is known, those around
# it are asked for, nearest first, up to this share away.
NUDGE, FARTHEST = 0.003, 0.03


@dataclass(frozen=True)
class Attempt(Generic[Solution]):
    """One turn of the loop.

    Attributes:
        limit: What the solver was told, in predicted units.
        predicted: What the table says of its solution, at most `limit`.
        measured: What the solution measured, in the unit of the budget.
        solution: Whatever the solver returned.
    """

    limit: float
    predicted: float
    measured: float
    solution: Solution


def meet_budget(
    solve: Callable[[float], tuple[Solution, float]],
    measure: Callable[[Solution], float],
    *,
    budget: float,
    first_limit: float,
    tolerance: float = 0.03,
    attempts: int = 8,
) -> tuple[Attempt[Solution], tuple[Attempt[Solution], ...]]:
    """The solution that measures closest under the budget, and every attempt that was made.

    Higher predictions measure higher but for a percent or two, so the limit follows the line through the two attempts
    around the budget, or the ratio of the nearest one; where that gives nothing new, its neighborhood is looked at.

    Args:
        solve: Limit -> (solution, its predicted cost); raises `BudgetInfeasible` where the limit is out of reach.
        measure: Solution -> its measured cost, in the unit of `budget`.
        budget: Upper limit on the measured cost.
        first_limit: Where the solver starts, in predicted units.
        tolerance: Stop once the measured cost is within this share under the budget, in [0, 1).
        attempts: Turns at most.

    Raises:
        BudgetInfeasible: Even the cheapest solution measures above the budget; carries the lowest measured cost.

    Example:
        >>> whole = lambda limit: (int(limit), float(int(limit)))
        >>> chosen, history = meet_budget(whole, lambda n: 1.1 * n, budget=10.0, first_limit=10.0)
        >>> chosen.solution
        9
    """
    history: list[Attempt[Solution]] = []
    limit = first_limit
    while len(history) < attempts:
        found = _new(solve, limit, history, budget)
        if found is None:
            break
        told, solution, predicted = found
        attempt = Attempt(told, predicted, measure(solution), solution)
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
    solve: Callable[[float], tuple[Solution, float]],
    limit: float,
    history: Sequence[Attempt[Solution]],
    budget: float,
) -> tuple[float, Solution, float] | None:
    """The nearest limit that gives a plan which was not measured, with that plan; None where there is none."""
    for tried in _around(limit, history, budget):
        told = tried
        try:
            solution, predicted = solve(told)
        except BudgetInfeasible as infeasible:
            if told >= infeasible.cheapest:
                raise
            # Below the cheapest prediction there is nothing to try but the cheapest itself.
            told = infeasible.cheapest * (1 + 1e-9)
            solution, predicted = solve(told)
        if not any(attempt.predicted == predicted for attempt in history):
            return told, solution, predicted
    return None


def _around(limit: float, history: Sequence[Attempt[Solution]], budget: float) -> list[float]:
    """Limits to try in turn, nearest first, and rather up where the nearest plan was within the budget."""
    nearest = min(history, key=lambda one: abs(one.predicted - limit), default=None)
    if nearest is None:
        return [limit]
    up = 1 if nearest.measured <= budget else -1
    steps = [side * step * NUDGE for step in range(1, round(FARTHEST / NUDGE) + 1) for side in (up, -up)]
    return [limit, *(limit * (1 + step) for step in steps)]
