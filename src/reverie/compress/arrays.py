"""From sites, segments and pairs by name to the allocation problem in arrays; whatever does not fit is refused here."""

from collections.abc import Mapping, Sequence

import numpy as np

from reverie.compress.integer_program import Compiled, Floats, Link, Pair
from reverie.compress.options import Option, PairCost, Segment, Site
from reverie.core.errors import RangeError, ReferenceNotFound, ShapeError

__all__ = ["compile_problem"]


def compile_problem(
    sites: Sequence[Site], pairs: Sequence[PairCost], segments: Sequence[Segment], budgets: Mapping[str, float]
) -> Compiled:
    """Write the problem down in arrays.

    A segment becomes one more option at every site it covers, all of them chosen together or none; the first carries
    its loss and costs.

    Raises:
        RangeError: A loss, cost or budget is not finite, or names repeat, or a site has no option.
        ReferenceNotFound: A pair or segment names a site, or a budget names a cost, that is not there.
        ShapeError: A matrix of a pair does not fit the options of its sites.
    """
    names = tuple(site.name for site in sites)
    if not sites or len(set(names)) < len(names) or not all(site.options for site in sites):
        raise RangeError(f"allocation needs sites of unique names with at least one option each, got {list(names)}")
    _check_budgets(sites, pairs, segments, budgets)
    _check_segments(segments, names)
    order = tuple(budgets)
    covering = {name: [segment for segment in segments if name in segment.sites] for name in names}
    options = [(*site.options, *(_covered(segment, site.name) for segment in covering[site.name])) for site in sites]
    losses = [np.array([option.loss for option in mine], dtype=np.float64) for mine in options]
    unary = [
        np.array([[option.costs.get(name, 0.0) for option in mine] for name in order], dtype=np.float64).reshape(
            len(order), len(mine)
        )
        for mine in options
    ]
    for site, loss, cost in zip(sites, losses, unary, strict=True):
        _check_finite(f"a loss or cost of site {site.name!r}", loss, cost)
    possible = [np.ones(len(mine), dtype=np.bool_) for mine in options]
    sizes = [len(site.options) for site in sites]
    merged: dict[tuple[int, int], Pair] = {}
    for pair in pairs:
        entry = _read_pair(pair, names, sizes, [len(mine) for mine in options], order)
        if entry.a == entry.b:
            unary[entry.a] = unary[entry.a] + np.einsum("kii->ki", entry.costs)
            losses[entry.a] = losses[entry.a] + entry.losses.diagonal()
            possible[entry.a] = possible[entry.a] & ~entry.forbidden.diagonal()
            continue
        merged[entry.a, entry.b] = entry.joined(merged.get((entry.a, entry.b)))
    links = tuple(_links(segments, names, sizes, covering))
    return Compiled(names, order, tuple(losses), tuple(unary), tuple(possible), tuple(merged.values()), links)


def _covered(segment: Segment, site: str) -> Option:
    first = segment.sites[0] == site
    return Option(segment.name, segment.loss if first else 0.0, segment.costs if first else {})


def _links(
    segments: Sequence[Segment],
    names: Sequence[str],
    sizes: Sequence[int],
    covering: Mapping[str, Sequence[Segment]],
) -> list[Link]:
    def place(segment: Segment, site: str) -> tuple[int, int]:
        at = names.index(site)
        return at, sizes[at] + covering[site].index(segment)

    return [
        Link(*place(segment, segment.sites[0]), *place(segment, other))
        for segment in segments
        for other in segment.sites[1:]
    ]


def _check_budgets(
    sites: Sequence[Site], pairs: Sequence[PairCost], segments: Sequence[Segment], budgets: Mapping[str, float]
) -> None:
    known = {name for site in sites for option in site.options for name in option.costs}
    known |= {name for pair in pairs for name in pair.costs} | {name for one in segments for name in one.costs}
    for name, limit in budgets.items():
        if name not in known:
            raise ReferenceNotFound(f"a budget limits {name!r}, but the options cost only {sorted(known)}")
        _check_finite(f"the budget of {name}", limit)


def _check_segments(segments: Sequence[Segment], names: Sequence[str]) -> None:
    titles = [segment.name for segment in segments]
    if len(set(titles)) < len(titles):
        raise RangeError(f"segments need unique names, got {titles}")
    for segment in segments:
        if not segment.sites or len(set(segment.sites)) < len(segment.sites):
            raise RangeError(f"segment {segment.name!r} covers {list(segment.sites)}; name each of its sites once")
        for name in segment.sites:
            if name not in names:
                raise ReferenceNotFound(f"segment {segment.name!r} covers site {name!r}, not among {list(names)}")


def _read_pair(
    pair: PairCost, names: Sequence[str], sizes: Sequence[int], wide: Sequence[int], order: Sequence[str]
) -> Pair:
    """One pair in arrays; rows and columns of segments, `wide` minus `sizes` of them, cost nothing."""
    for name in (pair.site_a, pair.site_b):
        if name not in names:
            raise ReferenceNotFound(f"a pair couples site {name!r}, which is not among {list(names)}")
    a, b = names.index(pair.site_a), names.index(pair.site_b)
    shape = (sizes[a], sizes[b])
    given = [*pair.costs.values(), *(one for one in (pair.forbidden, pair.loss) if one is not None)]
    for matrix in given:
        if matrix.shape != shape:
            raise ShapeError(
                f"the pair of {pair.site_a!r} and {pair.site_b!r} holds a matrix of {matrix.shape}, "
                f"but the sites have {shape[0]} and {shape[1]} options"
            )
    own = (slice(shape[0]), slice(shape[1]))
    costs, losses = np.zeros((len(order), wide[a], wide[b])), np.zeros((wide[a], wide[b]))
    forbidden = np.zeros((wide[a], wide[b]), dtype=np.bool_)
    for k, name in enumerate(order):
        costs[(k, *own)] = pair.costs.get(name, 0.0)
    if pair.loss is not None:
        losses[own] = pair.loss
    if pair.forbidden is not None:
        forbidden[own] = pair.forbidden
    _check_finite(f"a cost or loss of the pair of {pair.site_a!r} and {pair.site_b!r}", costs, losses)
    found = Pair(a, b, costs, forbidden, losses)
    # One orientation for both, so that pairs of the same two sites merge.
    return found.turned() if a > b else found


def _check_finite(what: str, *values: Floats | float) -> None:
    if not all(np.isfinite(value).all() for value in values):
        raise RangeError(f"{what} is not a finite number. Leave an option out, or forbid the pair, to exclude it.")
