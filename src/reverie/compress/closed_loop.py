"""Solve, measure, correct, solve again: until what was *measured* is within the budget.

A latency table predicts; it cannot be trusted to the last percent, because a runtime fuses, pads and schedules whole
networks. So the solver's limit is moved until the plan it returns measures just under the budget. The plan that is
handed back was itself measured to be within it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from reverie.core.errors import BudgetInfeasible

__all__ = ["Attempt", "meet_budget"]

Solution = TypeVar("Solution")


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
    """The best solution whose measured cost is within the budget, and every attempt that was made.

    Better solutions have higher predictions, so the limit is raised while there is room and lowered while there is
    none: by proportion where the last attempts allow it, else by halving the bracket.

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
    within, beyond = 0.0, float("inf")
    limit = first_limit
    while len(history) < attempts:
        try:
            solution, predicted = solve(limit)
        except BudgetInfeasible as infeasible:
            if limit >= infeasible.cheapest:
                raise
            # Below the cheapest prediction there is nothing to try: measure the cheapest itself, once.
            if any(attempt.predicted <= infeasible.cheapest * (1 + 1e-9) for attempt in history):
                break
            limit = infeasible.cheapest * (1 + 1e-9)
            continue
        if any(attempt.predicted == predicted for attempt in history):
            # The solver has nothing new between the bracket's ends that is nearer to this limit: try the upper end.
            upper = beyond * (1 - 1e-6)
            if limit >= upper or beyond == float("inf"):
                break
            limit = upper
            continue
        attempt = Attempt(limit, predicted, measure(solution), solution)
        history.append(attempt)
        if attempt.measured <= budget:
            within = max(within, predicted)
            if attempt.measured >= budget * (1 - tolerance):
                break
        else:
            beyond = min(beyond, predicted)
        limit = predicted * budget / attempt.measured * (1 - tolerance / 3)
        if not within < limit < beyond:
            limit = (within + beyond) / 2 if beyond < float("inf") else within * 1.05
    met = [attempt for attempt in history if attempt.measured <= budget]
    if not met:
        lowest = min(attempt.measured for attempt in history)
        raise BudgetInfeasible(
            f"the cheapest network reached measures {lowest:.4g}, above the budget of {budget:.4g}",
            cheapest=lowest,
            budget="latency",
        )
    return max(met, key=lambda attempt: attempt.predicted), tuple(history)
