"""Several allocations that differ from each other, for whoever wants to try more than one.

What for: losses of options are measured one by one, and their sum is a guess; the best of twenty good plans that were
built and measured is better than the one that the sum prefers.

Cost: a second for twenty allocations of a hundred uncoupled sites under one budget; a mixed-integer program per
allocation, seconds each, otherwise.

Reference: Molchanov et al., 2021, "LANA: latency aware network acceleration", arXiv:2107.10624, for
solutions of limited overlap. Differs: uncoupled sites are not solved as a program anew; the options that an earlier
allocation shares are shut where giving them up raises the bound least.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from reverie.compress.allocator import HIGHS, KNAPSACK, Allocation, allocate, gap_of
from reverie.compress.arrays import compile_problem
from reverie.compress.integer_program import Compiled, solve_coupled
from reverie.compress.knapsack import Relaxed, improved, relaxed, solve_knapsack
from reverie.compress.options import PairCost, Site
from reverie.core.errors import RangeError

__all__ = ["diverse_allocations"]

Picks = NDArray[np.intp]

# Good enough for one among many: what HiGHS may leave of the loss.
PROGRAM_GAP = 1e-3


def diverse_allocations(
    sites: Sequence[Site],
    pairs: Sequence[PairCost] = (),
    *,
    budgets: Mapping[str, float],
    count: int = 20,
    overlap: float = 0.7,
    seconds: float = 60.0,
) -> tuple[Allocation, ...]:
    """The best allocation, then others within the budgets that share few options with all before them.

    Args:
        sites: As for `allocate`.
        pairs: As for `allocate`.
        budgets: As for `allocate`.
        count: Allocations at most, at least 1; fewer come back where no more are within the budgets.
        overlap: Share of the sites at most that have the same option in two of them, in [0, 1).
        seconds: Per allocation at most.

    Raises:
        RangeError: A number is out of its range, or as for `allocate`.
        BudgetInfeasible: As for `allocate`.

    Example:
        >>> from reverie.compress.allocator import Option
        >>> wide = Option("wide", 0.0, {"ms": 2.0})
        >>> sites = [Site(name, (wide, Option("narrow", loss, {"ms": 1.0}))) for name, loss in (("a", 1.0), ("b", 1.5))]
        >>> [one.choice for one in diverse_allocations(sites, budgets={"ms": 3.0}, count=2, overlap=0.0)]
        [{'a': 1, 'b': 0}, {'a': 0, 'b': 1}]

    Fails when: sites are few and have few options; there are not many ways to differ.
    """
    if count < 1 or not 0 <= overlap < 1:
        raise RangeError(f"count must be at least 1 and overlap in [0, 1), got {count} and {overlap}")
    best = allocate(sites, pairs, budgets=budgets, seconds=seconds)
    problem = compile_problem(sites, pairs, (), budgets)
    limits = [float(budgets[name]) for name in problem.budgets]
    most = int(overlap * len(sites))
    chosen = [tuple(best.choice[name] for name in problem.names)]
    found = [best]
    fast = not problem.pairs and len(limits) == 1
    solver = KNAPSACK if fast else HIGHS
    while len(found) < count:
        if fast:
            picked = _another(problem, limits[0], chosen, most)
        else:
            apart = replace(problem, unlike=tuple((one, most) for one in chosen))
            picked = solve_coupled(apart, limits, seconds, gap=PROGRAM_GAP)[0]
        if picked is None:
            break
        chosen.append(tuple(picked))
        found.append(_told(problem, picked, best.lower_bound, solver))
    return tuple(found)


def _told(problem: Compiled, picked: Sequence[int], bound: float, solver: str) -> Allocation:
    loss, costs = problem.loss(picked), problem.costs(picked)
    return Allocation(
        choice=dict(zip(problem.names, picked, strict=True)),
        loss=loss,
        costs=dict(zip(problem.budgets, costs, strict=True)),
        lower_bound=bound,
        gap=gap_of(loss, bound),
        solver=solver,
    )


def _another(problem: Compiled, limit: float, chosen: Sequence[tuple[int, ...]], most: int) -> list[int] | None:
    """An allocation that shares at most `most` options with each of those chosen; None where none was found."""
    earlier = np.array(chosen)
    possible = [mask.copy() for mask in problem.possible]
    costs = [unary[0] for unary in problem.unary]
    while True:
        found = relaxed(problem.losses, costs, possible, limit)
        if found is None:
            return None
        picked = improved(found, limit)
        shared = (earlier == picked).sum(axis=1)
        worst = int(shared.argmax())
        if shared[worst] <= most:
            break
        excess = int(shared[worst]) - most
        for site in _cheapest(found, picked, np.flatnonzero(earlier[worst] == picked), excess):
            possible[site][picked[site]] = False
        if not all(mask.any() for mask in possible):
            return None
    # The best of what is still open is often as unlike the earlier ones.
    exact = solve_knapsack(problem.losses, costs, possible, limit)
    if exact is not None and (earlier == np.array(exact[0])).sum(axis=1).max() <= most:
        picked = np.array(exact[0])
    return picked.tolist() if problem.costs(picked.tolist())[0] <= limit else None


def _cheapest(found: Relaxed, picked: Picks, among: Picks, count: int) -> Picks:
    """The sites where giving up the option picked raises the bound least."""
    others = found.margins.copy()
    others[np.arange(len(picked)), picked] = np.inf
    regret = others.min(axis=1)[among] - found.margins[among, picked[among]]
    return among[regret.argsort(kind="stable")[:count]]
