import itertools
import math
import os

import numpy as np
import pytest

from reverie.compress.allocator import Option, PairCost, Site, allocate
from reverie.core.errors import BudgetInfeasible, RangeError, ReferenceNotFound, ShapeError


def brute_force(sites, pairs, budgets):
    """Enumerate: the least loss, or None, and each budget's least cost within the budgets before it."""
    index = {site.name: number for number, site in enumerate(sites)}
    best, cheapest = None, dict.fromkeys(budgets, math.inf)
    for picked in itertools.product(*(range(len(site.options)) for site in sites)):
        ends = [(pair, picked[index[pair.site_a]], picked[index[pair.site_b]]) for pair in pairs]
        if any(pair.forbidden is not None and pair.forbidden[i, j] for pair, i, j in ends):
            continue
        options = [site.options[i] for site, i in zip(sites, picked, strict=True)]
        within = True
        for name, limit in budgets.items():
            cost = math.fsum(
                [option.costs.get(name, 0.0) for option in options]
                + [float(pair.costs[name][i, j]) for pair, i, j in ends if name in pair.costs]
            )
            if within:
                cheapest[name] = min(cheapest[name], cost)
            within = within and cost <= limit
        if within:
            loss = math.fsum(option.loss for option in options)
            best = loss if best is None else min(best, loss)
    return best, cheapest


def random_case(seed):
    """Small enough to enumerate; sizes of losses and costs, ties, negatives, pairs and budgets all vary."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 6))
    names = [f"s{i}" for i in range(count)]
    budgets = [f"b{k}" for k in range(int(rng.integers(1, 4)))]
    loss_size, cost_size = 10.0 ** rng.integers(-7, 3), 10.0 ** rng.integers(-4, 7)
    whole = rng.random() < 0.3  # whole numbers make ties, and costs that meet a budget exactly

    def numbers(shape):
        return rng.integers(-1, 5, shape).astype(float) if whole else rng.normal(1, 1, shape)

    sites = [
        Site(
            name,
            tuple(
                Option(str(o), float(numbers(())) * loss_size, {b: float(numbers(())) * cost_size for b in budgets})
                for o in range(int(rng.integers(1, 5)))
            ),
        )
        for name in names
    ]
    pairs = []
    for _ in range(int(rng.integers(0, 5)) if seed % 2 else 0):
        a, b = sites[rng.integers(count)], sites[rng.integers(count)]
        shape = (len(a.options), len(b.options))
        priced = [name for name in budgets if rng.random() < 0.8]
        forbidden = rng.random(shape) < 0.2 if rng.random() < 0.5 else None
        pairs.append(PairCost(a.name, b.name, {name: numbers(shape) * cost_size for name in priced}, forbidden))
    typical = sum(abs(option.costs[budgets[0]]) for site in sites for option in site.options[:1])
    limits = {
        name: float(np.round(rng.uniform(-0.2, 1.5) * typical / cost_size, 0 if whole else 9)) * cost_size
        for name in budgets
    }
    return sites, pairs, limits


@pytest.mark.parametrize("block", range(10))
def test_equals_brute_force(block, capfd):
    feasible = 0
    for seed in range(100 * block, 100 * (block + 1)):
        sites, pairs, budgets = random_case(seed)
        best, cheapest = brute_force(sites, pairs, budgets)
        if best is None:
            if all(math.isinf(value) for value in cheapest.values()):
                with pytest.raises(RangeError, match="forbidden"):
                    allocate(sites, pairs, budgets=budgets)
                continue
            with pytest.raises(BudgetInfeasible) as caught:
                allocate(sites, pairs, budgets=budgets)
            named = next(name for name in budgets if cheapest[name] > budgets[name])
            assert named in str(caught.value), seed
            assert caught.value.cheapest == pytest.approx(cheapest[named], rel=1e-9), seed
            continue
        feasible += 1
        found = allocate(sites, pairs, budgets=budgets)
        size = max(abs(option.loss) for site in sites for option in site.options)
        assert found.loss == pytest.approx(best, rel=1e-9, abs=1e-9 * size), seed
        assert found.loss == math.fsum(site.options[found.choice[site.name]].loss for site in sites), seed
        assert all(found.costs[name] <= limit for name, limit in budgets.items()), seed
        assert found.gap == 0.0, seed
        assert found.lower_bound <= found.loss, seed
    assert feasible > 20
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("budgets", [1, 2, 3])
def test_solving_a_core_equals_solving_the_whole(budgets):
    rng = np.random.default_rng(budgets)
    for _ in range(5):
        losses, costs = rng.exponential(1, (12, 15)), rng.random((budgets, 12, 15))
        sites = [
            Site(
                f"s{s}",
                tuple(
                    Option(str(o), float(losses[s, o]), {f"b{k}": float(costs[k, s, o]) for k in range(budgets)})
                    for o in range(15)
                ),
            )
            for s in range(12)
        ]
        limits = {f"b{k}": 0.8 * float(costs[k].mean(1).sum()) for k in range(budgets)}
        # A pair that costs nothing keeps the allocator from looking at a core only.
        idle = PairCost("s0", "s1", {"b0": np.zeros((15, 15))})
        assert allocate(sites, budgets=limits).choice == allocate(sites, [idle], budgets=limits).choice


def falling(count, options, *, seed):
    """Sites whose losses fall as their costs rise, and a budget that binds."""
    rng = np.random.default_rng(seed)
    losses = rng.exponential(1, (count, options)).cumsum(1)[:, ::-1]
    costs = np.sort(rng.random((count, options)), 1) * rng.uniform(0.1, 2, (count, 1))
    sites = [
        Site(f"s{s}", tuple(Option(str(o), float(losses[s, o]), {"c": float(costs[s, o])}) for o in range(options)))
        for s in range(count)
    ]
    return sites, {"c": 0.8 * float(costs.mean(1).sum())}


@pytest.mark.parametrize(("count", "options", "seed"), [(12, 15, 25), (20, 30, 18)])
def test_a_core_that_lacks_the_optimum_is_widened(count, options, seed):
    # In these cases the best allocation of the first core is not the best of all.
    sites, budgets = falling(count, options, seed=seed)
    idle = PairCost("s0", "s1", {"c": np.zeros((options, options))})
    assert allocate(sites, budgets=budgets).loss == allocate(sites, [idle], budgets=budgets).loss


def test_the_solver_prints_nothing(capfd):
    # HiGHS repairs a solution of its own here, and says so.
    sites, budgets = falling(30, 40, seed=6)
    allocate(sites, budgets=budgets)
    assert capfd.readouterr() == ("", "")
    os.write(1, b"heard")
    assert capfd.readouterr().out == "heard"


def test_bilinear_latency_worked_by_hand():
    # Two widths each; latency is the product of the widths. (4,4)=16 breaks the budget of 8; of (4,2) and (2,4), both
    # at 8, narrowing b loses 0.1 and narrowing a loses 0.3; (2,2)=4 loses 0.4.
    a = Site("a", (Option("4", 0.0), Option("2", 0.3)))
    b = Site("b", (Option("4", 0.0), Option("2", 0.1)))
    latency = PairCost("a", "b", {"ms": np.outer([4.0, 2.0], [4.0, 2.0])})
    found = allocate([a, b], [latency], budgets={"ms": 8.0})
    assert found.choice == {"a": 0, "b": 1}
    assert found.costs == {"ms": 8.0}
    assert found.loss == 0.1


def test_the_two_orientations_of_a_pair_add_up():
    sites = [
        Site("a", (Option("0", 1.0), Option("1", 0.0))),
        Site("b", (Option("0", 0.0), Option("1", 0.0), Option("2", 0.0))),
    ]
    forward = np.array([[0.0, 0.0, 0.0], [3.0, 1.0, 2.0]])
    back = np.array([[0.0, 0.0], [0.0, 4.0], [0.0, 1.0]])
    pairs = [PairCost("a", "b", {"ms": forward}), PairCost("b", "a", {"ms": back})]
    # With a = 1 the three columns cost 3 + 0, 1 + 4 and 2 + 1.
    assert allocate(sites, pairs, budgets={"ms": 3.0}).choice["a"] == 1
    assert allocate(sites, pairs, budgets={"ms": 2.9}).choice["a"] == 0


def test_a_pair_of_a_site_with_itself_counts_its_diagonal():
    site = Site("stream", (Option("4", 0.0), Option("2", 1.0)))
    square = PairCost("stream", "stream", {"ms": np.array([[16.0, 99.0], [99.0, 4.0]])})
    assert allocate([site], [square], budgets={"ms": 16.0}).costs == {"ms": 16.0}
    assert allocate([site], [square], budgets={"ms": 15.0}).choice == {"stream": 1}


def test_forbidden_pairs_bind_options_together():
    skip = tuple(Option(name, loss, {"ms": cost}) for name, loss, cost in (("keep", 0.0, 1.0), ("skip", 0.2, 0.0)))
    sites = [Site("first", skip), Site("second", skip)]
    apart = PairCost("first", "second", {}, forbidden=~np.eye(2, dtype=bool))
    assert allocate(sites, budgets={"ms": 1.0}).loss == 0.2
    assert allocate(sites, [apart], budgets={"ms": 1.0}).choice == {"first": 1, "second": 1}


def test_without_budgets_the_least_loss_wins():
    site = Site("a", (Option("x", 2.0), Option("y", -1.0)))
    assert allocate([site], budgets={}).choice == {"a": 1}


@pytest.mark.parametrize("scale", [1e-9, 1e-3, 1.0, 1e9])
def test_the_choice_does_not_depend_on_the_units(scale):
    rng = np.random.default_rng(7)
    losses, costs = rng.random((6, 5)), rng.random((6, 5))
    limit = costs.mean(1).sum() * 0.8

    def sites(loss_unit, cost_unit):
        rows = enumerate(zip(losses, costs, strict=True))
        return [
            Site(
                f"s{s}",
                tuple(
                    Option(str(o), a * loss_unit, {"c": b * cost_unit})
                    for o, (a, b) in enumerate(zip(x, y, strict=True))
                ),
            )
            for s, (x, y) in rows
        ]

    expected = allocate(sites(1.0, 1.0), budgets={"c": limit}).choice
    assert allocate(sites(scale, 1.0), budgets={"c": limit}).choice == expected
    assert allocate(sites(1.0, scale), budgets={"c": limit * scale}).choice == expected


def test_an_infeasible_budget_names_the_cheapest_reachable_cost():
    sites = [Site(name, (Option("wide", 0.0, {"ms": 3.0}), Option("narrow", 1.0, {"ms": 1.25}))) for name in "ab"]
    with pytest.raises(BudgetInfeasible, match=r"ms of at most 2, but the cheapest allocation reaches 2\.5") as caught:
        allocate(sites, budgets={"ms": 2.0})
    assert caught.value.cheapest == 2.5


def test_budgets_that_only_clash_say_which_one_breaks():
    site = Site("a", (Option("fast", 0.0, {"ms": 1.0, "bytes": 9.0}), Option("small", 0.0, {"ms": 5.0, "bytes": 2.0})))
    with pytest.raises(BudgetInfeasible, match=r"bytes .* while ms keep") as caught:
        allocate([site], budgets={"ms": 2.0, "bytes": 3.0})
    assert caught.value.cheapest == 9.0


def test_a_total_above_the_budget_by_one_rounding_is_refused():
    # 0.1 + 0.2 > 0.3 in floating point, though HiGHS would call them equal.
    sites = [
        Site("a", (Option("x", 0.0, {"c": 0.1}), Option("y", 1.0, {"c": 0.0}))),
        Site("b", (Option("x", 0.0, {"c": 0.2}), Option("y", 3.0, {"c": 0.0}))),
    ]
    limit = math.nextafter(math.fsum([0.1, 0.2]), 0)
    found = allocate(sites, budgets={"c": limit})
    assert found.choice == {"a": 1, "b": 0}
    assert allocate(sites, budgets={"c": math.fsum([0.1, 0.2])}).loss == 0.0


def test_wrong_input_is_named():
    site = Site("a", (Option("x", 0.0, {"ms": 1.0}),))
    with pytest.raises(ReferenceNotFound, match="'latency'"):
        allocate([site], budgets={"latency": 1.0})
    with pytest.raises(ReferenceNotFound, match="'b'"):
        allocate([site], [PairCost("a", "b", {"ms": np.zeros((1, 1))})], budgets={"ms": 1.0})
    with pytest.raises(ShapeError, match="2, 1"):
        allocate([site], [PairCost("a", "a", {"ms": np.zeros((2, 1))})], budgets={"ms": 1.0})
    with pytest.raises(RangeError, match="site 'a'"):
        allocate([Site("a", (Option("x", math.nan),))], budgets={})
    with pytest.raises(RangeError, match="budget of ms"):
        allocate([site], budgets={"ms": math.inf})
    with pytest.raises(RangeError, match="unique"):
        allocate([site, site], budgets={"ms": 1.0})
