"""Segments over several sites, and losses of pairs: brute force again, over what they allow."""

import itertools
import math

import numpy as np
import pytest

from reverie.compress.allocator import Option, PairCost, Segment, Site, allocate
from reverie.core.errors import BudgetInfeasible, RangeError, ReferenceNotFound, ShapeError


def random_case(seed):
    rng = np.random.default_rng(seed)
    names = [f"s{i}" for i in range(int(rng.integers(2, 5)))]
    sites = [
        Site(
            name,
            tuple(
                Option(str(o), float(rng.normal(1, 1)), {"ms": float(rng.normal(1, 1)), "mb": float(rng.random())})
                for o in range(int(rng.integers(1, 4)))
            ),
        )
        for name in names
    ]
    segments = [
        Segment(
            f"g{k}",
            tuple(rng.permutation(names)[: int(rng.integers(1, len(names) + 1))].tolist()),
            float(rng.normal(1, 1)),
            {"ms": float(rng.normal(1, 1)), "mb": float(rng.random())},
        )
        for k in range(int(rng.integers(0, 4)))
    ]
    pairs = []
    for _ in range(int(rng.integers(0, 4))):
        a, b = sites[rng.integers(len(sites))], sites[rng.integers(len(sites))]
        shape = (len(a.options), len(b.options))
        loss = rng.normal(0, 1, shape) if rng.random() < 0.7 else None
        forbidden = rng.random(shape) < 0.15 if rng.random() < 0.3 else None
        pairs.append(PairCost(a.name, b.name, {"ms": rng.normal(0, 1, shape)}, forbidden, loss))
    limits = {"ms": float(rng.uniform(0, 1.5)) * len(names), "mb": float(rng.uniform(0.3, 1)) * len(names)}
    return sites, pairs, segments, limits if seed % 3 else {"ms": limits["ms"]}


def enumerated(sites, pairs, segments, limits):
    """The least loss over every set of disjoint segments and every option at the sites that they leave."""
    best = None
    for count in range(len(segments) + 1):
        for taken in itertools.combinations(segments, count):
            covered = [name for one in taken for name in one.sites]
            if len(set(covered)) < len(covered):
                continue
            left = [site for site in sites if site.name not in covered]
            for picked in itertools.product(*(range(len(site.options)) for site in left)):
                at = {site.name: option for site, option in zip(left, picked, strict=True)}
                ends = [(p, at[p.site_a], at[p.site_b]) for p in pairs if p.site_a in at and p.site_b in at]
                if any(p.forbidden is not None and p.forbidden[i, j] for p, i, j in ends):
                    continue
                chosen = [*taken, *(site.options[at[site.name]] for site in left)]
                within = all(
                    math.fsum(
                        [one.costs.get(n, 0.0) for one in chosen]
                        + [p.costs[n][i, j] for p, i, j in ends if n in p.costs]
                    )
                    <= limit
                    for n, limit in limits.items()
                )
                if within:
                    loss = math.fsum(
                        [one.loss for one in chosen] + [p.loss[i, j] for p, i, j in ends if p.loss is not None]
                    )
                    best = loss if best is None else min(best, loss)
    return best


def test_equals_brute_force():
    feasible = covering = 0
    for seed in range(90):
        sites, pairs, segments, limits = random_case(seed)
        best = enumerated(sites, pairs, segments, limits)
        if best is None:
            with pytest.raises((BudgetInfeasible, RangeError)):
                allocate(sites, pairs, segments=segments, budgets=limits)
            continue
        found = allocate(sites, pairs, segments=segments, budgets=limits)
        assert found.loss == pytest.approx(best, rel=1e-9, abs=1e-9), seed
        assert all(found.costs[name] <= limit for name, limit in limits.items()), seed
        covered = [name for one in segments if one.name in found.segments for name in one.sites]
        assert sorted([*covered, *found.choice]) == [site.name for site in sites], seed
        feasible += 1
        covering += bool(found.segments)
    assert feasible > 40
    assert covering > 15


def test_fusing_two_layers_worked_by_hand():
    # Alone each layer costs 2 ms or loses 1; fused they cost 3 ms together and lose 0.5.
    options = (Option("keep", 0.0, {"ms": 2.0}), Option("drop", 1.0, {"ms": 0.0}))
    sites = [Site("a", options), Site("b", options), Site("c", options)]
    fused = Segment("a+b", ("a", "b"), 0.5, {"ms": 3.0})
    found = allocate(sites, segments=[fused], budgets={"ms": 5.0})
    assert (found.choice, found.segments, found.loss) == ({"c": 0}, ("a+b",), 0.5)
    assert allocate(sites, segments=[fused], budgets={"ms": 6.0}).segments == ()


def test_what_two_options_do_together_counts():
    sites = [Site(name, (Option("keep", 0.0, {"ms": 1.0}), Option("drop", 0.1, {"ms": 0.0}))) for name in "abc"]
    together = PairCost("a", "b", {}, loss=np.array([[0.0, 0.0], [0.0, 5.0]]))
    found = allocate(sites, [together], budgets={"ms": 1.0})
    assert found.choice["c"] == 1
    assert found.loss == pytest.approx(0.2)


def test_wrong_segments_are_named():
    site = Site("a", (Option("x", 0.0, {"ms": 1.0}),))
    with pytest.raises(ReferenceNotFound, match="'b'"):
        allocate([site], segments=[Segment("s", ("a", "b"), 0.0)], budgets={"ms": 1.0})
    with pytest.raises(RangeError, match="once"):
        allocate([site], segments=[Segment("s", ("a", "a"), 0.0)], budgets={"ms": 1.0})
    with pytest.raises(RangeError, match="unique"):
        allocate([site], segments=[Segment("s", ("a",), 0.0)] * 2, budgets={"ms": 1.0})
    with pytest.raises(ShapeError, match="2, 2"):
        allocate([site], [PairCost("a", "a", {}, loss=np.zeros((2, 2)))], budgets={"ms": 1.0})
