"""Choose one option for every site of a network, at the least loss within every budget; exactly.

What for: pruning, replacing, factorizing, skipping and quantizing all end here. A site is a place in the network, an
option is something that could be done there, with what it does to the loss and what it leaves of each cost. Costs
may also couple two sites: the time of a convolution depends on the width of its input and of its output at once.

The problem, over one-hot x_s for every site s and every coupled pair (s, t):

    minimize    sum_s loss_s . x_s + sum_(s,t) x_s' L_st x_t
    subject to  sum_s cost_s . x_s + sum_(s,t) x_s' T_st x_t <= budget      for every budget

Uncoupled sites under one budget are a multiple-choice knapsack, solved by `reverie.compress.knapsack`. Else the
products are made linear exactly in local-marginal form: y >= 0 with row sums x_s and column sums x_t equals the product
x_s x_t' whenever x is binary, so only x need be binary. SciPy's HiGHS proves the optimum.

Cost: some 30 ms for a hundred uncoupled sites of two hundred options under one budget, a few times that under several;
seconds where dozens of pairs couple sites of a dozen options.

Reference: Shen et al., 2022, "Structural pruning via latency-saliency knapsack", arXiv:2210.06659. Differs: both widths
of a layer vary at once, any number of budgets, and the result is optimal, not what a heuristic finds.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import scipy

from reverie.compress.arrays import compile_problem
from reverie.compress.integer_program import Compiled, linearize, solve, solve_core, solve_coupled
from reverie.compress.knapsack import solve_knapsack
from reverie.compress.options import Option, PairCost, Segment, Site
from reverie.core.errors import BudgetInfeasible, RangeError, ReverieError

__all__ = ["Allocation", "Option", "PairCost", "Segment", "Site", "allocate", "gap_of"]

HIGHS = f"HiGHS in SciPy {scipy.__version__}"
KNAPSACK = "multiple-choice knapsack"


def gap_of(loss: float, bound: float) -> float:
    """How far a loss may be above the lowest that there is, as a share of it."""
    return 0.0 if loss == bound else (loss - bound) / max(abs(loss), 1e-300)


@dataclass(frozen=True)
class Allocation:
    """One option per site, and the proof of how good that is.

    Attributes:
        choice: Site name -> index of the option chosen; sites that a segment covers are left out.
        loss: Sum of the losses of what was chosen.
        costs: Budget name -> total cost, at most the budget in plain floating-point arithmetic.
        lower_bound: No allocation within the budgets has a lower loss.
        gap: (loss - lower_bound) / |loss|; 0 is a proven optimum, above 0 the time ran out or the gap was allowed.
        solver: What proved it, with its version.
        segments: Names of the segments chosen.

    Example:
        >>> site = Site("conv", (Option("16", 0.0, {"latency": 2.0}), Option("8", 0.3, {"latency": 1.0})))
        >>> found = allocate([site], budgets={"latency": 1.5})
        >>> found.choice, found.loss, found.costs, found.gap
        ({'conv': 1}, 0.3, {'latency': 1.0}, 0.0)
    """

    choice: Mapping[str, int]
    loss: float
    costs: Mapping[str, float]
    lower_bound: float
    gap: float
    solver: str
    segments: tuple[str, ...] = ()


def allocate(
    sites: Sequence[Site],
    pairs: Sequence[PairCost] = (),
    *,
    budgets: Mapping[str, float],
    segments: Sequence[Segment] = (),
    gap: float = 0.0,
    seconds: float = 60.0,
) -> Allocation:
    """Choose one option per site at the least total loss, so that every total cost is within its budget.

    Args:
        sites: Names are unique.
        pairs: Costs that couple two sites; several pairs may couple the same two.
        budgets: Cost name -> upper limit, in the unit of the costs. Any number; none means the least loss of all.
        segments: What could be done to several sites at once.
        gap: Share of the loss by which the allocation may miss the optimum where that saves time; 0 is exact.
        seconds: Time after which the best allocation found so far is returned with its gap, above 0.

    Raises:
        BudgetInfeasible: No allocation meets the budgets; carries the lowest reachable cost of the budget it names.
        RangeError: A loss, cost or budget is not finite, or there are no sites, or one without options.
        ReferenceNotFound: A pair or segment names a site, or a budget names a cost, that is not there.
        ShapeError: A matrix of a pair does not fit the options of its sites.
        VerificationFailed: The time ran out before any allocation was found.

    Example:
        >>> wide, narrow = Option("64", 0.0, {"ms": 2.0}), Option("32", 0.5, {"ms": 1.0})
        >>> cheap = Option("32", 0.1, {"ms": 1.0})
        >>> chosen = allocate([Site("a", (wide, narrow)), Site("b", (wide, cheap))], budgets={"ms": 3.0})
        >>> chosen.choice, chosen.loss
        ({'a': 0, 'b': 1}, 0.1)
    """
    problem = compile_problem(sites, pairs, segments, budgets)
    limits = [float(budgets[name]) for name in problem.budgets]
    picked, bound, solver = _solve(problem, limits, gap, seconds)
    if picked is None:
        raise _infeasible(problem, limits, seconds)
    return _allocation(problem, picked, bound, solver, [len(site.options) for site in sites], segments)


def _solve(
    problem: Compiled, limits: Sequence[float], gap: float, seconds: float
) -> tuple[list[int] | None, float, str]:
    """The best options, a bound on all, and what proved it."""
    if problem.pairs or problem.links:
        return *solve_coupled(problem, limits, seconds, gap=gap), HIGHS
    if len(limits) == 1:
        found = solve_knapsack(problem.losses, [unary[0] for unary in problem.unary], problem.possible, limits[0])
        # The knapsack adds up in any order; what is handed back must be within the limit when added up exactly.
        if found is not None and problem.costs(found[0])[0] <= limits[0]:
            return *found, KNAPSACK
    return *solve_core(problem, limits, seconds), HIGHS


def _allocation(
    problem: Compiled,
    picked: Sequence[int],
    bound: float,
    solver: str,
    sizes: Sequence[int],
    segments: Sequence[Segment],
) -> Allocation:
    loss, costs = problem.loss(picked), problem.costs(picked)
    bound = min(bound, loss)
    gap = gap_of(loss, bound)
    chosen = list(zip(problem.names, picked, sizes, strict=True))
    covering = {name: [one.name for one in segments if name in one.sites] for name in problem.names}
    taken = {covering[name][option - own] for name, option, own in chosen if option >= own}
    return Allocation(
        choice={name: option for name, option, own in chosen if option < own},
        loss=loss,
        costs=dict(zip(problem.budgets, costs, strict=True)),
        lower_bound=bound,
        gap=gap if gap > 1e-9 else 0.0,
        solver=solver,
        segments=tuple(segment.name for segment in segments if segment.name in taken),
    )


def _infeasible(problem: Compiled, limits: Sequence[float], seconds: float) -> ReverieError:
    """The error for the first budget that cannot be met together with the budgets before it."""
    inactive = [math.inf] * len(limits)
    for k, (name, limit) in enumerate(zip(problem.budgets, limits, strict=True)):
        before = [*limits[:k], *inactive[k:]]
        program = linearize(problem, problem.possible, before, minimize=k)
        picked = None if program is None else solve(problem, program, before, seconds)[0]
        if picked is None:
            break
        cheapest = problem.costs(picked)[k]
        if cheapest > limit:
            others = f" while {' and '.join(problem.budgets[:k])} keep their budgets" if k else ""
            return BudgetInfeasible(
                f"the budget allows {name} of at most {limit:.6g}, but the cheapest allocation reaches {cheapest:.6g}"
                f"{others}. Raise the budget, or offer cheaper options.",
                cheapest=cheapest,
                budget=name,
            )
    return RangeError("the forbidden options and pairs leave no allocation at all. Allow at least one.")
