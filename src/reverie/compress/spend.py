"""Use up a budget: give units back to a plan until no more fit.

What for: few widths are worth choosing in a small network, so the plan of least loss can leave some percent of the
latency that was allowed. A plan that keeps all that it keeps, and more, is never worse by what was measured of single
units, and is as fast as was asked.

Cost: one allocation over the options that are no narrower than those chosen, and one more with a slack; tens of
milliseconds each.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from reverie.compress.allocator import Allocation, allocate
from reverie.compress.options import PairCost, Site
from reverie.compress.sites import Problem
from reverie.core.errors import BudgetInfeasible, VerificationFailed

__all__ = ["spent"]

# What is left of a budget is not looked at below this share of it, nor spent more exactly.
ENOUGH = 0.002
PATIENCE = 5.0


def spent(
    problem: Problem, found: Allocation, budgets: Mapping[str, float], *, column: str, slack: float = 0.0
) -> Allocation:
    """The allocation nearest under the budget of one cost among those that keep all units that `found` keeps.

    Args:
        problem: Options from the widest to the narrowest.
        found: One option per site, within the budgets.
        budgets: Cost name -> upper limit.
        column: Name of the cost that is to be used up, one of the budgets.
        slack: Share of that budget, in [0, 1), by which it is lowered to find what is kept, in place of `found`. Each
            leads to another allocation of about the same cost; more is lost with a larger one.

    Returns:
        An allocation whose lower bound is that of `found`; `found` itself where little is left.
    """
    limit = budgets[column]
    whole = limit + problem.fixed.get(column, 0.0)
    if not slack and limit - found.costs[column] <= ENOUGH * whole:
        return found
    base = found
    if slack:
        try:
            base = allocate(
                problem.sites, problem.pairs, budgets={**budgets, column: limit - slack * whole}, gap=ENOUGH
            )
        except BudgetInfeasible:
            return found
    ends = {name: option + 1 for name, option in base.choice.items()}
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
    gap = (loss - found.lower_bound) / max(abs(loss), 1e-300)
    return replace(wider, loss=loss, lower_bound=found.lower_bound, gap=max(gap, 0.0))


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
