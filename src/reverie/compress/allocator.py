"""Choose one option for every site of a network, at the least loss within every budget; exactly.

What for: pruning, replacing, factorizing, skipping and quantizing all end here. A site is a place in the network, an
option is something that could be done there, with what it does to the loss and what it leaves of each cost. Costs
may also couple two sites: the time of a convolution depends on the width of its input and of its output at once.

The problem, over one-hot x_s for every site s and every coupled pair (s, t):

    minimize    sum_s loss_s . x_s
    subject to  sum_s cost_s . x_s + sum_(s,t) x_s' T_st x_t <= budget      for every budget

The products are made linear exactly in local-marginal form: y >= 0 with row sums x_s and column sums x_t equals the
product x_s x_t' whenever x is binary, so only x need be binary. SciPy's HiGHS proves the optimum.

Cost: a tenth of a second for a hundred uncoupled sites of two hundred options; seconds where dozens of pairs couple
sites of a dozen options.

Reference: Shen et al., 2022, "Structural pruning via latency-saliency knapsack", arXiv:2210.06659. Differs: both widths
of a layer vary at once, any number of budgets, and the result is optimal, not what a heuristic finds.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import scipy

from reverie.compress.integer_program import Floats, Mask, Pair, Problem, linearize, solve, solve_core, solve_coupled
from reverie.core.errors import BudgetInfeasible, RangeError, ReferenceNotFound, ReverieError, ShapeError

__all__ = ["Allocation", "Option", "PairCost", "Site", "allocate"]


@dataclass(frozen=True)
class Option:
    """One thing that could be done at a site.

    Attributes:
        name: What a plan calls it, such as a width.
        loss: Rise of the loss; any finite number, lower is better.
        costs: Budget name -> what the option costs, in the unit of the budget. A name left out costs nothing here.
    """

    name: str
    loss: float
    costs: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Site:
    """A place in the network, and everything that could be done there; exactly one option is chosen.

    Attributes:
        name: Unique.
        options: At least one.
    """

    name: str
    options: tuple[Option, ...]


@dataclass(frozen=True, eq=False)
class PairCost:
    """A cost that depends on the options of two sites at once.

    Attributes:
        site_a: Name of the site of the rows.
        site_b: Name of the site of the columns; it may be `site_a`, where only the diagonal counts.
        costs: Budget name -> matrix (options of a, options of b), in the unit of the budget.
        forbidden: (options of a, options of b), true where the two options exclude each other; None allows all.
    """

    site_a: str
    site_b: str
    costs: Mapping[str, Floats]
    forbidden: Mask | None = None


@dataclass(frozen=True)
class Allocation:
    """One option per site, and the proof of how good that is.

    Attributes:
        choice: Site name -> index of the option chosen.
        loss: Sum of the losses of the options chosen.
        costs: Budget name -> total cost, at most the budget in plain floating-point arithmetic.
        lower_bound: No allocation within the budgets has a lower loss.
        gap: (loss - lower_bound) / |loss|; 0 is a proven optimum, above 0 the time ran out.
        solver: What proved it, with its version.
    """

    choice: Mapping[str, int]
    loss: float
    costs: Mapping[str, float]
    lower_bound: float
    gap: float
    solver: str


def allocate(
    sites: Sequence[Site],
    pairs: Sequence[PairCost] = (),
    *,
    budgets: Mapping[str, float],
    seconds: float = 60.0,
) -> Allocation:
    """Choose one option per site at the least total loss, so that every total cost is within its budget.

    Args:
        sites: Names are unique.
        pairs: Costs that couple two sites; several pairs may couple the same two.
        budgets: Cost name -> upper limit, in the unit of the costs. Any number; none means the least loss of all.
        seconds: Time after which the best allocation found so far is returned with its gap, above 0.

    Raises:
        BudgetInfeasible: No allocation meets the budgets; carries the lowest reachable cost of the budget it names.
        RangeError: A loss, cost or budget is not finite, or there are no sites, or one without options.
        ReferenceNotFound: A pair names a site, or a budget names a cost, that is not there.
        ShapeError: A matrix of a pair does not fit the options of its sites.
        VerificationFailed: The time ran out before any allocation was found.

    Example:
        >>> wide, narrow = Option("64", 0.0, {"ms": 2.0}), Option("32", 0.5, {"ms": 1.0})
        >>> cheap = Option("32", 0.1, {"ms": 1.0})
        >>> chosen = allocate([Site("a", (wide, narrow)), Site("b", (wide, cheap))], budgets={"ms": 3.0})
        >>> chosen.choice, chosen.loss
        ({'a': 0, 'b': 1}, 0.1)
    """
    problem = _compile(sites, pairs, budgets)
    limits = [float(budgets[name]) for name in problem.budgets]
    picked, bound = (solve_coupled if problem.pairs else solve_core)(problem, limits, seconds)
    if picked is None:
        raise _infeasible(problem, limits, seconds)
    loss, costs = problem.loss(picked), problem.costs(picked)
    bound = min(bound, loss)
    gap = 0.0 if loss == bound else (loss - bound) / max(abs(loss), 1e-300)
    return Allocation(
        choice=dict(zip(problem.names, picked, strict=True)),
        loss=loss,
        costs=dict(zip(problem.budgets, costs, strict=True)),
        lower_bound=bound,
        gap=gap if gap > 1e-9 else 0.0,
        solver=f"HiGHS in SciPy {scipy.__version__}",
    )


def _compile(sites: Sequence[Site], pairs: Sequence[PairCost], budgets: Mapping[str, float]) -> Problem:
    names = tuple(site.name for site in sites)
    if not sites or len(set(names)) < len(names) or not all(site.options for site in sites):
        raise RangeError(f"allocation needs sites of unique names with at least one option each, got {list(names)}")
    known = {name for site in sites for option in site.options for name in option.costs}
    known |= {name for pair in pairs for name in pair.costs}
    for name, limit in budgets.items():
        if name not in known:
            raise ReferenceNotFound(f"a budget limits {name!r}, but the options cost only {sorted(known)}")
        _check_finite(f"the budget of {name}", limit)
    order = tuple(budgets)
    losses = tuple(np.array([option.loss for option in site.options], dtype=np.float64) for site in sites)
    unary = [
        np.array(
            [[option.costs.get(name, 0.0) for option in site.options] for name in order], dtype=np.float64
        ).reshape(len(order), len(site.options))
        for site in sites
    ]
    for site, loss, cost in zip(sites, losses, unary, strict=True):
        _check_finite(f"a loss or cost of site {site.name!r}", loss, cost)
    possible = [np.ones(len(site.options), dtype=np.bool_) for site in sites]
    merged: dict[tuple[int, int], Pair] = {}
    for pair in pairs:
        entry = _read_pair(pair, names, [len(site.options) for site in sites], order)
        if entry.a == entry.b:
            unary[entry.a] = unary[entry.a] + np.einsum("kii->ki", entry.costs)
            possible[entry.a] = possible[entry.a] & ~entry.forbidden.diagonal()
            continue
        present = merged.get((entry.a, entry.b))
        if present is not None:
            entry = Pair(entry.a, entry.b, present.costs + entry.costs, present.forbidden | entry.forbidden)
        merged[entry.a, entry.b] = entry
    return Problem(names, order, losses, tuple(unary), tuple(possible), tuple(merged.values()))


def _read_pair(pair: PairCost, names: Sequence[str], sizes: Sequence[int], order: Sequence[str]) -> Pair:
    for name in (pair.site_a, pair.site_b):
        if name not in names:
            raise ReferenceNotFound(f"a pair couples site {name!r}, which is not among {list(names)}")
    a, b = names.index(pair.site_a), names.index(pair.site_b)
    shape = (sizes[a], sizes[b])
    for matrix in (*pair.costs.values(), *(() if pair.forbidden is None else (pair.forbidden,))):
        if matrix.shape != shape:
            raise ShapeError(
                f"the pair of {pair.site_a!r} and {pair.site_b!r} holds a matrix of {matrix.shape}, "
                f"but the sites have {shape[0]} and {shape[1]} options"
            )
    costs = np.zeros((len(order), *shape))
    for k, name in enumerate(order):
        costs[k] = pair.costs.get(name, 0.0)
    _check_finite(f"a cost of the pair of {pair.site_a!r} and {pair.site_b!r}", costs)
    forbidden = np.zeros(shape, dtype=np.bool_) if pair.forbidden is None else pair.forbidden.astype(np.bool_)
    # One orientation for both, so that pairs of the same two sites merge.
    return Pair(b, a, costs.transpose(0, 2, 1), forbidden.T) if a > b else Pair(a, b, costs, forbidden)


def _check_finite(what: str, *values: Floats | float) -> None:
    if not all(np.isfinite(value).all() for value in values):
        raise RangeError(f"{what} is not a finite number. Leave an option out, or forbid the pair, to exclude it.")


def _infeasible(problem: Problem, limits: Sequence[float], seconds: float) -> ReverieError:
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
