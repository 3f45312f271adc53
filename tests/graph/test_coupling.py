"""The algebra of axes against brute force: labels per row, carried through NumPy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reverie.graph.coupling import ONE, Axis, Coupling


def rows(coupling: Coupling, axis: Axis) -> list[frozenset[tuple[int, int]]]:
    """For each row, the (atom, unit) pairs it needs, as `places` says."""
    needs: list[set[tuple[int, int]]] = [set() for _ in range(coupling.size(axis))]
    for place in coupling.places(axis):
        units = coupling.size(((place.atom,),))
        for outer in np.ndindex(*(number for number, _ in place.outer)):
            start = place.offset + sum(i * stride for i, (_, stride) in zip(outer, place.outer, strict=True))
            for unit in range(units):
                for row in range(place.block):
                    needs[start + unit * place.block + row].add((place.atom, unit))
    return [frozenset(one) for one in needs]


def labels(coupling: Coupling, size: int) -> tuple[Axis, np.ndarray]:
    """An atom, and one label set per row."""
    axis = coupling.atom(size)
    atom = coupling.atoms(axis)[0]
    return axis, np.array([frozenset({(atom, unit)}) for unit in range(size)], dtype=object)


def outer_union(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return np.array([one | other for one in left for other in right], dtype=object)


plans = st.recursive(
    st.integers(2, 4),
    lambda inner: st.tuples(st.sampled_from(["sum", "product"]), inner, inner),
    max_leaves=5,
)


def build(coupling: Coupling, plan: object) -> tuple[Axis, np.ndarray]:
    if isinstance(plan, int):
        return labels(coupling, plan)
    kind, first, second = plan
    one, other = build(coupling, first), build(coupling, second)
    if kind == "sum":
        return coupling.concat(one[0], other[0]), np.concatenate([one[1], other[1]])
    return coupling.product(one[0], other[0]), outer_union(one[1], other[1])


@given(plan=plans)
def test_places_of_any_sum_of_products_are_those_of_numpy(plan):
    coupling = Coupling()
    axis, wanted = build(coupling, plan)
    assert rows(coupling, axis) == list(wanted)
    assert coupling.size(axis) == len(wanted)


@given(plan=plans, removed=st.sets(st.tuples(st.integers(0, 4), st.integers(0, 3)), max_size=4))
def test_the_predicted_size_counts_the_rows_that_are_left(plan, removed):
    coupling = Coupling()
    axis, wanted = build(coupling, plan)
    sizes = {atom: coupling.size(((atom,),)) for atom in coupling.atoms(axis)}
    gone = {(atom, unit) for atom, unit in removed if unit < sizes.get(atom, 0)}
    kept = {atom: size - sum(one == atom for one, _ in gone) for atom, size in sizes.items()}
    assert coupling.size(axis, kept) == sum(not (needs & gone) for needs in wanted)


@given(first=plans, second=plans)
def test_coupled_axes_have_the_same_places_or_are_frozen(first, second):
    coupling = Coupling()
    left, right = (build(coupling, plan)[0] for plan in (first, second))
    if coupling.size(left) != coupling.size(right):
        with_rest = abs(coupling.size(left) - coupling.size(right))
        shorter = min(left, right, key=coupling.size)
        rest = coupling._new(with_rest)
        left, right = max(left, right, key=coupling.size), coupling.concat(shorter, rest)
    coupling.couple(left, right, "add")
    free = set(coupling.free(left)) | set(coupling.free(right))
    kept = [
        [frozenset(pair for pair in needs if pair[0] in free) for needs in rows(coupling, axis)]
        for axis in (left, right)
    ]
    if free:
        assert kept[0] == kept[1]


def test_a_sum_meets_an_atom():
    axes = Coupling()
    a, b, c = axes.atom(64), axes.atom(32), axes.atom(96)
    axes.couple(c, axes.concat(a, b), "add")
    assert [(place.offset, axes.size(((place.atom,),))) for place in axes.places(c)] == [(0, 64), (64, 32)]


def test_two_halves_that_meet_themselves_are_one():
    """A split in equal parts, concatenated the other way round, as rotary embeddings do."""
    axes = Coupling()
    part = axes.atom(4)
    whole = axes.product(axes.atom(2), part)
    axes.couple(whole, axes.concat(part, part), "add")
    assert axes.free(part) == axes.atoms(part)
    assert [place.offset for place in axes.places(axes.concat(part, part))] == [0, 4]


def test_two_sums_are_cut_at_each_others_borders():
    axes = Coupling()
    left = axes.concat(axes.atom(6), axes.atom(4))
    right = axes.concat(axes.atom(5), axes.atom(5))
    axes.couple(left, right, "add")
    # A single unit between the borders cannot go, so it has no atom.
    assert [axes.size(((atom,),)) for atom in axes.atoms(left)] == [5, 4]
    assert [place.offset for place in axes.places(left)] == [0, 6]
    assert axes.atoms(left) == axes.atoms(right)
    assert len(axes.free(left)) == 2


def test_an_atom_splits_into_heads_and_width():
    axes = Coupling()
    whole, heads, width = axes.atom(12), axes.atom(3), axes.atom(4)
    axes.couple(whole, axes.product(heads, width), "view")
    places = axes.places(whole)
    assert [(place.block, place.outer) for place in places] == [(4, ()), (1, ((3, 4),))]


def test_parts_that_do_not_line_up_freeze_both():
    axes = Coupling()
    left = axes.product(axes.atom(4), axes.atom(6))
    right = axes.product(axes.atom(6), axes.atom(4))
    axes.couple(left, right, "aten.add in layer9")
    assert not axes.free(left)
    assert not axes.free(right)
    assert "aten.add in layer9" in axes.reason(axes.atoms(left)[0])


def test_freezing_reaches_both_sides_of_an_equation():
    axes = Coupling()
    a, b, c = axes.atom(4), axes.atom(4), axes.atom(4)
    axes.couple(a, b, "add")
    axes.freeze(b, "because")
    axes.couple(a, c, "add")
    assert axes.reason(axes.atoms(c)[0]) == "because"


@pytest.mark.parametrize(("at", "expected"), [(0, (0, 7)), (2, (2, 5)), (4, (4, 3)), (7, (7, 0))])
def test_split_gives_both_sides(at, expected):
    axes = Coupling()
    axis = axes.concat(axes.atom(4), axes.atom(3))
    parts = axes.split(axis, at)
    assert tuple(axes.size(part) for part in parts) == expected
    assert rows(axes, axis) == rows(axes, axes.concat(*parts))


def test_split_within_the_rows_of_a_unit_takes_that_unit_apart():
    axes = Coupling()
    whole = axes.product(axes.atom(4), members := axes.atom(12))
    first, second = axes.split(whole, 32)
    assert [axes.size(((atom,),)) for atom in axes.atoms(members)] == [8, 4]
    eight, four = axes.atoms(members)
    assert [axes.size(((atom,),)) for atom in axes.atoms(first)] == [2, 8, 4]
    assert [(place.atom, place.offset) for place in axes.places(second)] == [(four, 0), (eight, 4), (four, 12)]
    assert rows(axes, whole) == rows(axes, axes.concat(first, second))


def test_size_one_has_no_atom():
    axes = Coupling()
    assert axes.atom(1) == ONE
    assert axes.product(ONE, axes.atom(3), ONE) == axes.resolve(((0,),))
