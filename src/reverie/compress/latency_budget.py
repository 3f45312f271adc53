"""A study solved until the plan it gives *measures* within a latency budget, and just under it.

What for: `compress`, `prune` and the benchmarks all meet a latency in this one way; what differs is how a plan is
built and measured.

Cost: a network built and measured per turn, some seconds each; mostly one to three turns.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from reverie.compress.closed_loop import meet_budget
from reverie.compress.plan import Plan
from reverie.compress.result import Attempted
from reverie.compress.study import Solution, Study
from reverie.core.events import Event, Listener, silent
from reverie.cost.timing import Timing

__all__ = ["TOLERANCE", "Met", "meet_latency"]

# A plan is measured until the interval of its ratio is within this share of it.
TOLERANCE = 0.004
# It is to measure from `MARGIN` under the budget to `WIDTH` below that, so that it is within the budget, and no more
# than 3 % under it, when it is measured again.
MARGIN, WIDTH = 0.004, 0.018
ATTEMPTS = 12


@dataclass(frozen=True)
class Met:
    """A plan that was measured within a latency budget.

    Attributes:
        solution: The plan, with its predictions.
        timing: Its last measurement beside the teacher.
        measured: Share of the teacher's latency that it was chosen for: the mean of the measurements that count.
        attempts: All plans that were measured, as shares of the teacher's latency.
    """

    solution: Solution
    timing: Timing
    measured: float
    attempts: tuple[Attempted, ...]


def meet_latency(
    study: Study,
    limits: Mapping[str, float],
    measure: Callable[[Plan], Timing],
    *,
    counted: Callable[[Plan], Mapping[str, float]] | None = None,
    margin: float = MARGIN,
    attempts: int = ATTEMPTS,
    on_event: Listener = silent,
) -> Met:
    """Solve, measure and solve again, until the measured share of latency is within its limit.

    Args:
        study: With a column "latency".
        limits: Column -> upper limit as a share of the teacher's, "latency" among them.
        measure: Builds a plan's network and times it beside the teacher.
        counted: As for `Study.solve`, for the columns that are not "latency".
        margin: Share of the latency limit that is kept free for the next measurement, in [0, 1).
        attempts: Plans that are measured at most.
        on_event: Called with the stage "measuring plans".

    Raises:
        BudgetInfeasible: No plan is within the limits.
    """
    timings: dict[str, Timing] = {}
    others = {column: share for column, share in limits.items() if column != "latency"}

    def solve(limit: float) -> tuple[Solution, float]:
        found = study.solve({**others, "latency": limit}, spend="latency", gap=1e-4, counted=counted)
        return found, found.shares["latency"]

    def beside(solution: Solution) -> list[tuple[Solution, float, float]]:
        return [(one, one.shares["latency"], one.loss) for one in study.beside(solution, others)]

    def true_of(solution: Solution) -> Mapping[str, float]:
        return {} if counted is None else counted(solution.plan)

    def allowed(solution: Solution) -> bool:
        return all(share <= others[column] for column, share in true_of(solution).items())

    def measured(solution: Solution) -> tuple[float, float]:
        timing = timings[solution.plan.digest()] = measure(solution.plan)
        on_event(Event("measuring plans", len(timings), len(timings) + 1, {"latency_share": timing.ratio_median}))
        return timing.ratio_median, timing.ratio_error

    aim = limits["latency"] * (1 - margin)
    best, tried = meet_budget(
        solve, measured, budget=aim, first_limit=aim, beside=beside, allowed=allowed, tolerance=WIDTH, attempts=attempts
    )
    on_event(Event("measuring plans", len(timings), len(timings)))
    turns = tuple(Attempted(one.predicted, one.measured) for one in tried)
    solution = replace(best.solution, shares={**best.solution.shares, **true_of(best.solution)})
    return Met(solution, timings[solution.plan.digest()], best.measured, turns)
