"""Two ways to allocate that prove nothing: what an exact allocation is compared with.

What for: a table of what exactness is worth needs the others on the same losses, costs and budget.

Cost: milliseconds for the greedy one; HALP's knapsack is sites times widths times bins, a tenth of a second a step.

Reference: Shen et al., 2022, "Structural pruning via latency-saliency knapsack" (HALP), arXiv:2210.06659.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reverie.compress.allocator import Allocation
from reverie.compress.arrays import compile_problem
from reverie.compress.integer_program import Compiled
from reverie.compress.options import PairCost, Site
from reverie.core.errors import BudgetInfeasible, RangeError

__all__ = ["exponential_targets", "greedy_allocate", "halp_allocate"]

# HALP counts latency in whole microseconds; a ten-thousandth of the budget is as fine for any network.
BINS = 10_000


def greedy_allocate(
    sites: Sequence[Site], pairs: Sequence[PairCost] = (), *, budgets: Mapping[str, float]
) -> Allocation:
    """Begin with the least loss everywhere; as long as a budget is exceeded, take the change that saves most per loss.

    What is saved is the excess over all budgets, each as a share of its budget.

    Args:
        sites: As for `allocate`.
        pairs: As for `allocate`. Options that exclude each other are changed one at a time, so never both at once.
        budgets: As for `allocate`.

    Returns:
        An allocation without proof: its lower bound is minus infinity, its gap infinite.

    Raises:
        BudgetInfeasible: No single change saves anything more.
        ReferenceNotFound: A pair names a site, or a budget names a cost, that is not there.

    Example:
        >>> from reverie.compress.allocator import Option
        >>> site = (Option("wide", 0.0, {"ms": 2.0}), Option("narrow", 1.0, {"ms": 1.0}))
        >>> greedy_allocate([Site("a", site), Site("b", site)], budgets={"ms": 3.0}).choice
        {'a': 1, 'b': 0}
    """
    problem = compile_problem(sites, pairs, (), budgets)
    limits = [float(budgets[name]) for name in problem.budgets]
    picked = [
        int(np.where(mask, loss, np.inf).argmin()) for loss, mask in zip(problem.losses, problem.possible, strict=True)
    ]
    while (excess := _excess(problem, picked, limits)) > 0:
        best: tuple[float, list[int]] | None = None
        for site, mask in enumerate(problem.possible):
            for option in np.flatnonzero(mask):
                tried = [*picked[:site], int(option), *picked[site + 1 :]]
                if option == picked[site] or _clash(problem, tried):
                    continue
                saved = excess - _excess(problem, tried, limits)
                rise = max(problem.loss(tried) - problem.loss(picked), 1e-12)
                if saved > 1e-12 * (1 + excess) and (best is None or saved / rise > best[0]):
                    best = (saved / rise, tried)
        if best is None:
            raise _stuck(problem, picked, limits)
        picked = best[1]
    return _unproven(problem, picked, "greedy")


def halp_allocate(
    sites: Sequence[Site],
    pairs: Sequence[PairCost] = (),
    *,
    budget: str,
    limit: float,
    steps: int = 30,
) -> Allocation:
    """HALP's augmented knapsack, in as many steps as its schedule has.

    In every step the cost of a site's widths is read with all other sites as the step before left them, cut into the
    pieces between one width and the next; a 0/1 knapsack over these pieces keeps the most loss prevented. A piece is
    taken only where the wider-reaching piece before it is kept in the same state. The limit of step t of k is
    exp((t/k) ln limit + (1 - t/k) ln cost of the whole).

    Args:
        sites: Options from the widest to the narrowest.
        pairs: As for `allocate`; options that the widest of another site excludes are left out.
        budget: Name of the one cost that is limited.
        limit: Its upper limit, above 0.
        steps: Steps of the schedule, at least 1.

    Returns:
        An allocation without proof: its lower bound is minus infinity, its gap infinite.

    Raises:
        RangeError: `steps` or `limit` is out of its range.
        BudgetInfeasible: The narrowest widths are above the limit.
        ReferenceNotFound: A pair names a site, or the budget names a cost, that is not there.

    Reference: HALP, and the exponential schedule of its released runs. Differs: costs are
    counted in ten-thousandths of the limit; a piece that costs less than nothing costs nothing; a last step is repeated
    until the true cost, with both widths of every layer as they are, is within the limit.
    """
    if steps < 1 or not limit > 0:
        raise RangeError(f"steps must be at least 1 and the limit above 0, got {steps} and {limit}")
    problem = compile_problem(sites, pairs, (), {budget: limit})
    picked = [0] * len(sites)
    whole = problem.costs(picked)[0]
    for target in exponential_targets(max(whole, limit), limit, steps=steps):
        picked = _knapsack(_pieces(problem, picked), target)
    # The pieces are read at the widths of the step before; narrower inputs make the whole cheaper than they say, but
    # not always.
    target = limit
    for _ in range(20):
        if problem.costs(picked)[0] <= limit:
            return _unproven(problem, picked, "HALP's knapsack")
        target *= 0.98
        picked = _knapsack(_pieces(problem, picked), target)
    raise _stuck(problem, picked, [limit])


def exponential_targets(whole: float, final: float, *, steps: int) -> list[float]:
    """The limits of a schedule: exp((t/k) ln final + (1 - t/k) ln whole), t = 1..k.

    Args:
        whole: Cost before the first step, above 0.
        final: Cost after the last, above 0.
        steps: k, at least 1.

    Raises:
        RangeError: A number is out of its range.

    Example:
        >>> [round(one, 6) for one in exponential_targets(8.0, 1.0, steps=3)]
        [4.0, 2.0, 1.0]

    Reference: de Jorge et al., 2021, "Progressive skeletonization", arXiv:2006.09081, for the schedule.
    """
    if not (whole > 0 and final > 0) or steps < 1:
        raise RangeError(f"costs must be above 0 and steps at least 1, got {whole}, {final} and {steps}")
    shares = [step / steps for step in range(1, steps + 1)]
    return [math.exp(share * math.log(final) + (1 - share) * math.log(whole)) for share in shares]


@dataclass(frozen=True, eq=False)
class _Pieces:
    """A linear model around one allocation: per site from the option in use on, cost and loss of each width."""

    first: tuple[int, ...]
    costs: tuple[NDArray[np.float64], ...]
    losses: tuple[NDArray[np.float64], ...]
    base: float


def _pieces(problem: Compiled, picked: Sequence[int]) -> _Pieces:
    now = problem.costs(picked)[0]
    costs, losses = [], []
    for site, at in enumerate(picked):
        reached = []
        for option in range(at, len(problem.losses[site])):
            tried = [*picked[:site], option, *picked[site + 1 :]]
            if not problem.possible[site][option] or _clash(problem, tried):
                break
            reached.append(problem.costs(tried)[0] - now)
        costs.append(np.array(reached))
        losses.append(problem.losses[site][at : at + len(reached)])
    narrowest = now + sum(float(cost[-1]) for cost in costs)
    return _Pieces(tuple(picked), tuple(costs), tuple(losses), narrowest)


def _knapsack(pieces: _Pieces, target: float) -> list[int]:
    """Keep the pieces of most loss prevented; the narrowest width of every site is always kept."""
    capacity = max(target - pieces.base, 0.0)
    unit = max(target, 1e-300) / BINS
    slots = int(capacity / unit)
    value = np.zeros(slots + 1)
    taken: list[tuple[int, int, NDArray[np.bool_]]] = []
    for site, (cost, loss) in enumerate(zip(pieces.costs, pieces.losses, strict=True)):
        before: NDArray[np.bool_] | None = None
        for option in range(len(cost) - 2, -1, -1):
            weight = math.ceil(max(float(cost[option] - cost[option + 1]), 0.0) / unit - 1e-9)
            with_it, may = np.full(slots + 1, -np.inf), np.zeros(slots + 1, dtype=np.bool_)
            if weight <= slots:
                with_it[weight:] = value[: slots + 1 - weight] + float(loss[option + 1] - loss[option])
                may[weight:] = True if before is None else before[: slots + 1 - weight]
            before = may & (with_it > value)
            value = np.where(before, with_it, value)
            taken.append((site, weight, before))
    picked = [at + len(cost) - 1 for at, cost in zip(pieces.first, pieces.costs, strict=True)]
    at = slots
    for site, weight, kept in reversed(taken):
        if kept[at]:
            picked[site] -= 1
            at -= weight
    return picked


def _excess(problem: Compiled, picked: Sequence[int], limits: Sequence[float]) -> float:
    costs = problem.costs(picked)
    return sum(max(cost - limit, 0.0) / (abs(limit) or 1.0) for cost, limit in zip(costs, limits, strict=True))


def _clash(problem: Compiled, picked: Sequence[int]) -> bool:
    return any(pair.forbidden[picked[pair.a], picked[pair.b]] for pair in problem.pairs)


def _unproven(problem: Compiled, picked: Sequence[int], solver: str) -> Allocation:
    return Allocation(
        choice=dict(zip(problem.names, picked, strict=True)),
        loss=problem.loss(picked),
        costs=dict(zip(problem.budgets, problem.costs(picked), strict=True)),
        lower_bound=-math.inf,
        gap=math.inf,
        solver=solver,
    )


def _stuck(problem: Compiled, picked: Sequence[int], limits: Sequence[float]) -> BudgetInfeasible:
    over = [
        (name, cost)
        for name, cost, limit in zip(problem.budgets, problem.costs(picked), limits, strict=True)
        if cost > limit
    ]
    name, cost = over[0]
    return BudgetInfeasible(
        f"this way of allocating ends at {name} of {cost:.6g}, above its budget. Raise the budget, or use `allocate`.",
        cheapest=cost,
        budget=name,
    )
