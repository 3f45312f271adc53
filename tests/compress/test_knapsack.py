import itertools
import math

import numpy as np
import pytest

from reverie.compress import knapsack
from reverie.compress.allocator import KNAPSACK, Option, PairCost, Site, allocate
from reverie.compress.knapsack import relaxed, solve_knapsack


def random_knapsack(seed):
    """Small enough to enumerate; signs, sizes, ties, shut options and the width of the budget all vary."""
    rng = np.random.default_rng(seed)
    whole = rng.random() < 0.4
    shapes = [int(rng.integers(1, 6)) for _ in range(int(rng.integers(1, 6)))]
    numbers = [rng.integers(-2, 5, (2, n)).astype(float) if whole else rng.normal(1, 1, (2, n)) for n in shapes]
    losses, costs = ([n[k] * 10.0 ** rng.integers(-6, 6) for n in numbers] for k in (0, 1))
    possible = [rng.random(n) < 0.9 for n in shapes]
    for mask in possible:
        mask[rng.integers(len(mask))] = True
    low, high = (sum(float(f(c[m])) for c, m in zip(costs, possible, strict=True)) for f in (np.min, np.max))
    # A budget that some allocation meets exactly, or any.
    limit = low + (high - low) * (round(rng.random() * 4) / 4 if whole else rng.uniform(-0.1, 1.1))
    return losses, costs, possible, limit


def enumerated(losses, costs, possible, limit):
    ranges = [np.flatnonzero(mask) for mask in possible]
    totals = [
        math.fsum(loss[i] for loss, i in zip(losses, picked, strict=True))
        for picked in itertools.product(*ranges)
        if math.fsum(cost[i] for cost, i in zip(costs, picked, strict=True)) <= limit
    ]
    return min(totals, default=None)


@pytest.mark.parametrize("block", range(4))
def test_equals_brute_force(block):
    feasible = 0
    for seed in range(250 * block, 250 * (block + 1)):
        losses, costs, possible, limit = random_knapsack(seed)
        best = enumerated(losses, costs, possible, limit)
        found = solve_knapsack(losses, costs, possible, limit)
        if found is not None:
            picked, bound = found
            assert all(mask[i] for mask, i in zip(possible, picked, strict=True)), seed
            total = math.fsum(loss[i] for loss, i in zip(losses, picked, strict=True))
            size = sum(float(np.abs(loss).max()) for loss in losses)
            assert math.fsum(cost[i] for cost, i in zip(costs, picked, strict=True)) <= limit, seed
            assert total == pytest.approx(best, rel=1e-12, abs=1e-12 * size), seed
            assert total - 1e-9 * size <= bound <= total + 1e-12 * size, seed
            feasible += 1
        else:
            # Or the one allocation that is within the limit meets it to the last digit; others find that one.
            cheapest = sum(float(cost[mask].min()) for cost, mask in zip(costs, possible, strict=True))
            assert best is None or limit - cheapest <= 1e-12 * sum(float(np.abs(cost).max()) for cost in costs), seed
    assert feasible > 150


def by_capacity(losses, costs, limit):
    """The textbook recursion over every whole cost: the least loss of the first sites for each of them."""
    least = np.zeros(limit + 1)
    for loss, cost in zip(losses, costs, strict=True):
        nexts = np.full(limit + 1, np.inf)
        for a, c in zip(loss, cost, strict=True):
            if c <= limit:
                nexts[c:] = np.minimum(nexts[c:], least[: limit + 1 - c] + a)
        least = nexts
    return least[limit]


@pytest.mark.parametrize("kind", ["any", "falling", "alike"])
def test_equals_the_recursion_over_whole_costs(kind):
    for seed in range(150):
        rng = np.random.default_rng(seed)
        shape = (int(rng.integers(8, 25)), int(rng.integers(5, 20)))
        losses, costs = rng.random(shape), rng.integers(1, 400, shape)
        if kind != "any":
            losses, costs = np.sort(losses, 1)[:, ::-1], np.sort(costs, 1)
        if kind == "alike":  # losses and costs nearly proportional: hardly an option can be ruled out
            losses = 1 - costs / 400 + 0.02 * losses
        limit = int(costs.mean() * shape[0] * rng.uniform(0.5, 1.1))
        best = by_capacity(losses, costs, limit)
        found = solve_knapsack(list(losses), list(costs.astype(float)), [np.ones(shape[1], bool)] * shape[0], limit)
        assert found is not None
        assert sum(costs[range(shape[0]), found[0]]) <= limit
        assert sum(losses[range(shape[0]), found[0]]) == pytest.approx(best, rel=1e-12), seed


def sized(count, options, seed):
    rng = np.random.default_rng(seed)
    losses = rng.exponential(1, (count, options)).cumsum(1)[:, ::-1]
    costs = np.sort(rng.random((count, options)), 1) * rng.uniform(0.1, 2, (count, 1))
    return losses, costs, 0.8 * float(costs.mean(1).sum())


@pytest.mark.parametrize("seed", range(10))
def test_equals_the_integer_program(seed):
    losses, costs, limit = sized(15, 12, seed)
    if seed % 2:
        costs = np.round(costs, 1)  # few distinct costs: many ties
    sites = [
        Site(
            f"s{s}", tuple(Option(str(o), float(a), {"c": float(c)}) for o, (a, c) in enumerate(zip(x, y, strict=True)))
        )
        for s, (x, y) in enumerate(zip(losses, costs, strict=True))
    ]
    idle = PairCost("s0", "s1", {"c": np.zeros((12, 12))})
    fast, slow = allocate(sites, budgets={"c": limit}), allocate(sites, [idle], budgets={"c": limit})
    assert fast.solver == KNAPSACK
    assert slow.solver.startswith("HiGHS")
    assert fast.loss == pytest.approx(slow.loss, rel=1e-9)
    assert fast.gap == slow.gap == 0.0


def test_limits_that_many_allocations_meet_to_the_last_digit():
    # Costs in tenths, which no binary number is: sums that are equal on paper differ in their last digits.
    rng = np.random.default_rng(2)
    for _ in range(20):
        costs = np.sort(rng.integers(1, 20, (40, 30)), 1) / 10
        losses = np.sort(rng.random((40, 30)), 1)[:, ::-1]
        limit = round(0.5 * costs.mean() * 40 * 2, 1)
        found = solve_knapsack(list(losses), list(costs), [np.ones(30, bool)] * 40, limit)
        assert found is not None
        picked = found[0]
        assert math.fsum(costs[range(40), picked]) <= limit
        # In whole tenths, a limit a hair higher or lower bounds it from both sides.
        most, least = (by_capacity(losses, (costs * 10).round().astype(int), round(limit * 10) + d) for d in (0, -1))
        assert most - 1e-9 <= losses[range(40), picked].sum() <= least + 1e-9


def test_the_relaxation_is_worked_by_hand():
    # Per site 3 for cost 0 or 0 for cost 2; a limit of 3 buys one and a half of them: 6 - 3 * 1.5 = 1.5.
    found = relaxed([np.array([3.0, 0.0])] * 2, [np.array([0.0, 2.0])] * 2, [np.ones(2, bool)] * 2, 3.0)
    assert found.bound == pytest.approx(1.5)
    assert found.price == pytest.approx(1.5)
    assert found.margins == pytest.approx(np.zeros((2, 2)))


def test_a_budget_out_of_reach_has_no_answer():
    assert solve_knapsack([np.array([0.0])], [np.array([2.0])], [np.ones(1, bool)], 1.0) is None


def test_too_many_states_are_left_to_others(monkeypatch):
    losses, costs, limit = sized(30, 20, 0)
    possible = [np.ones(20, bool)] * 30
    whole = solve_knapsack(list(losses), list(costs), possible, limit)
    monkeypatch.setattr(knapsack, "MOST_STATES", 1)
    assert whole is not None
    assert solve_knapsack(list(losses), list(costs), possible, limit) is None
