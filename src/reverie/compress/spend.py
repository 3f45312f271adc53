"""Use up a budget: give units back to a plan until no more fit, or take one step from a plan that is near it.

What for: few widths are worth choosing in a small network, so the plan of least loss can leave some percent of the
latency that was allowed. A plan that keeps all that it keeps, and more, is never worse by what was measured of single
units, and is as fast as was asked.

Plans of least loss may all miss the last percents of what a runtime really takes, where dozens of plans
lie: those one step away from a plan that was measured are as well known as that plan, but for one layer.

Cost: one allocation over the options that are no narrower than those chosen, tens of milliseconds; a step, less than
one.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from reverie.compress.allocator import Allocation, allocate, gap_of
from reverie.compress.options import PairCost, Site
from reverie.compress.sites import Problem
from reverie.core.errors import VerificationFailed

__all__ = ["beside", "spent"]

# What is left of a budget is not looked at below this share of it, nor spent more exactly.
ENOUGH = 0.002
PATIENCE = 5.0


def spent(problem: Problem, found: Allocation, budgets: Mapping[str, float], *, column: str) -> Allocation:
    """The allocation nearest under the budget of one cost among those that keep all units that `found` keeps.

    Args:
        problem: Options from the widest to the narrowest.
        found: One option per site, within the budgets.
        budgets: Cost name -> upper limit.
        column: Name of the cost that is to be used up, one of the budgets.

    Returns:
        An allocation whose lower bound is that of `found`; `found` itself where little is left.
    """
    limit = budgets[column]
    whole = limit + problem.fixed.get(column, 0.0)
    if limit - found.costs[column] <= ENOUGH * whole:
        return found
    ends = {name: option + 1 for name, option in found.choice.items()}
    sites = [
        Site(
            site.name,
            tuple(replace(one, loss=-one.costs.get(column, 0.0)) for one in site.options[: ends[site.name]]),
        )
        for site in problem.sites
    ]
    pairs = [_narrowed(pair, ends, column) for pair in problem.pairs]
    try:
        wider = allocate(sites, pairs, budgets=budgets, gap=ENOUGH, seconds=PATIENCE)
    except VerificationFailed:
        # In a large network nothing is found in time; there, plans are dense and little is left.
        return found
    loss = sum(site.options[wider.choice[site.name]].loss for site in problem.sites)
    loss += sum(
        float(pair.loss[wider.choice[pair.site_a], wider.choice[pair.site_b]])
        for pair in problem.pairs
        if pair.loss is not None
    )
    gap = max(gap_of(loss, found.lower_bound), 0.0)
    return replace(wider, loss=loss, lower_bound=found.lower_bound, gap=gap)


def beside(problem: Problem, found: Allocation, budgets: Mapping[str, float]) -> Iterator[Allocation]:
    """Every allocation that differs from one by the next option of one site, within some budgets.

    Args:
        problem: Options from the widest to the narrowest.
        found: One option per site.
        budgets: Cost name -> upper limit.

    Returns:
        Allocations without a proof: the lower bound is what is known of `found`, or their own loss where that is less.
    """
    for site in problem.sites:
        for option in (found.choice[site.name] - 1, found.choice[site.name] + 1):
            if not 0 <= option < len(site.options):
                continue
            choice = {**found.choice, site.name: option}
            if any(pair.forbidden is not None and pair.forbidden[_at(pair, choice)] for pair in problem.pairs):
                continue
            costs = {column: problem.varying(column, choice) for column in problem.fixed}
            if any(costs[column] > limit for column, limit in budgets.items()):
                continue
            loss = sum(one.options[choice[one.name]].loss for one in problem.sites)
            loss += sum(float(pair.loss[_at(pair, choice)]) for pair in problem.pairs if pair.loss is not None)
            bound = min(found.lower_bound, loss)
            yield replace(found, choice=choice, loss=loss, costs=costs, lower_bound=bound, gap=gap_of(loss, bound))


def _at(pair: PairCost, choice: Mapping[str, int]) -> tuple[int, int]:
    return choice[pair.site_a], choice[pair.site_b]


def _narrowed(pair: PairCost, ends: Mapping[str, int], column: str) -> PairCost:
    """The pair's rows and columns that are left; what it costs counts as gained."""
    left = np.s_[: ends[pair.site_a], : ends[pair.site_b]]
    return PairCost(
        pair.site_a,
        pair.site_b,
        {name: matrix[left] for name, matrix in pair.costs.items()},
        None if pair.forbidden is None else pair.forbidden[left],
        -pair.costs[column][left] if column in pair.costs else None,
    )
