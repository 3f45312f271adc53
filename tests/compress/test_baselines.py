import math

import numpy as np
import pytest

from reverie.compress.allocator import Option, PairCost, Site, allocate
from reverie.compress.baselines import greedy_allocate, halp_allocate
from reverie.core.errors import BudgetInfeasible, RangeError


def line(name, losses, costs):
    return Site(name, tuple(Option(str(i), a, {"ms": c}) for i, (a, c) in enumerate(zip(losses, costs, strict=True))))


def chain(count, widths, seed):
    """A chain of layers, each as wide as a site at either end; losses fall with the width."""
    rng = np.random.default_rng(seed)
    share = np.linspace(1, 1 / widths, widths)
    sites = []
    for s in range(count):
        losses = rng.exponential(1, widths).cumsum()
        sites.append(
            Site(f"s{s}", tuple(Option(str(o), 0.0 if o == 0 else float(losses[o]), {}) for o in range(widths)))
        )
    pairs = [
        PairCost(f"s{s}", f"s{s + 1}", {"ms": np.outer(share, share) * rng.uniform(0.5, 2)}) for s in range(count - 1)
    ]
    return sites, pairs, sum(float(pair.costs["ms"][0, 0]) for pair in pairs)


def test_greedy_takes_the_steepest_change_first():
    # Narrowing b saves 2 for 1; a saves 1 for 1.
    sites = [line("a", [0.0, 1.0], [2.0, 1.0]), line("b", [0.0, 1.0], [3.0, 1.0])]
    found = greedy_allocate(sites, budgets={"ms": 3.0})
    assert found.choice == {"a": 0, "b": 1}
    assert (found.loss, found.costs["ms"]) == (1.0, 3.0)
    assert math.isinf(found.gap)


def test_greedy_misses_what_exactness_finds():
    # One change of loss 3 would do; the steepest change is taken first and does not help in the end.
    sites = [line("a", [0.0, 1.0], [2.0, 0.0]), line("b", [0.0, 3.0], [6.0, 2.0])]
    assert greedy_allocate(sites, budgets={"ms": 4.0}).loss == 4.0
    assert allocate(sites, budgets={"ms": 4.0}).loss == 3.0


def test_halps_knapsack_keeps_pieces_in_order():
    # The second piece of a is worth more than the first, and cannot be kept alone.
    a = line("a", [0.0, 5.0, 6.0], [4.0, 3.0, 1.0])
    b = line("b", [0.0, 2.0], [3.0, 1.0])
    found = halp_allocate([a, b], budget="ms", limit=4.0, steps=1)
    assert found.costs["ms"] <= 4.0
    assert found.choice == {"a": 2, "b": 0}
    assert allocate([a, b], budgets={"ms": 4.0}).loss == found.loss


@pytest.mark.parametrize("share", [0.7, 0.5, 0.3])
def test_both_are_within_the_budget_and_no_better_than_the_optimum(share):
    for seed in range(3):
        sites, pairs, whole = chain(6, 5, seed)
        best = allocate(sites, pairs, budgets={"ms": share * whole})
        greedy = greedy_allocate(sites, pairs, budgets={"ms": share * whole})
        halp = halp_allocate(sites, pairs, budget="ms", limit=share * whole, steps=10)
        for found in (greedy, halp):
            assert found.costs["ms"] <= share * whole
            assert best.loss <= found.loss * (1 + 1e-9) <= 4 * best.loss


def test_out_of_reach():
    sites = [line("a", [0.0, 1.0], [2.0, 1.0])]
    for call in (
        lambda: greedy_allocate(sites, budgets={"ms": 0.5}),
        lambda: halp_allocate(sites, budget="ms", limit=0.5),
    ):
        with pytest.raises(BudgetInfeasible, match="ms of 1, above its budget") as caught:
            call()
        assert caught.value.cheapest == 1.0
    with pytest.raises(RangeError, match="steps"):
        halp_allocate(sites, budget="ms", limit=1.0, steps=0)
