import numpy as np
import pytest

from reverie.compress.allocator import Option, PairCost, Site, allocate
from reverie.compress.diverse import diverse_allocations
from reverie.core.errors import RangeError


def sites_of(count, options, seed):
    rng = np.random.default_rng(seed)
    losses = rng.exponential(1, (count, options)).cumsum(1)[:, ::-1]
    costs = np.sort(rng.random((count, options)), 1)
    made = [
        Site(
            f"s{s}", tuple(Option(str(o), float(a), {"c": float(c)}) for o, (a, c) in enumerate(zip(x, y, strict=True)))
        )
        for s, (x, y) in enumerate(zip(losses, costs, strict=True))
    ]
    return made, {"c": 0.5 * count}


def overlaps(found):
    picked = np.array([list(one.choice.values()) for one in found])
    return [float((picked[i] == picked[j]).mean()) for i in range(len(picked)) for j in range(i)]


def test_the_best_comes_first_and_the_others_differ():
    sites, budgets = sites_of(30, 20, 0)
    found = diverse_allocations(sites, budgets=budgets, count=20, overlap=0.7)
    assert len(found) == 20
    assert found[0] == allocate(sites, budgets=budgets)
    assert max(overlaps(found)) <= 0.7
    assert all(one.costs["c"] <= budgets["c"] for one in found)
    assert all(one.loss >= found[0].loss and one.lower_bound == found[0].lower_bound for one in found)
    # Differing costs something, and not much: seen 1.09.
    assert found[-1].loss < 1.3 * found[0].loss


def test_coupled_sites_differ_too():
    sites, budgets = sites_of(8, 5, 1)
    pairs = [PairCost("s0", "s1", {"c": np.full((5, 5), 0.01)})]
    found = diverse_allocations(sites, pairs, budgets=budgets, count=4, overlap=0.5)
    assert len(found) == 4
    assert max(overlaps(found)) <= 0.5
    assert [one.loss for one in found] == sorted(one.loss for one in found)


def test_where_there_are_no_more_fewer_come_back():
    site = Site("a", (Option("x", 0.0, {"c": 1.0}), Option("y", 1.0, {"c": 0.5})))
    assert len(diverse_allocations([site], budgets={"c": 1.0}, count=5, overlap=0.0)) == 2


def test_numbers_out_of_range():
    sites, budgets = sites_of(2, 2, 0)
    with pytest.raises(RangeError, match="overlap"):
        diverse_allocations(sites, budgets=budgets, overlap=1.0)
    with pytest.raises(RangeError, match="count"):
        diverse_allocations(sites, budgets=budgets, count=0)
