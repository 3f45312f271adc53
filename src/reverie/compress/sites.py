"""A network as sites with options and costs, ready for the allocator: fewer channels, a block bypassed, other kinds.

Every group of coupled units that may shrink is a site; its options are widths. A residual block that may be bypassed
adds an option of width 0 to the groups inside it. The cost of a layer depends on the width of its input and of its
output at once, so most costs couple two sites. A site of another kind, such as the rank of a layer, has numbers for
options too, and is coupled to the widths of its layer; see `kinds`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from reverie.compress.allocator import Allocation, Option, PairCost, Site
from reverie.compress.kinds import LayerCost, is_kind, parted
from reverie.compress.plan import Plan
from reverie.core.counts import check_counts
from reverie.core.errors import RangeError
from reverie.graph.structure import Branch, Group, Layer, Structure

__all__ = ["Problem", "Sites", "build_problem", "find_sites", "levels_in"]

BYPASS = 0


@dataclass(frozen=True)
class Sites:
    """The places where something can be decided, and the widths that can be chosen there.

    Attributes:
        structure: What the network is made of.
        widths: Site -> units kept by each option, widest first; 0 is the bypass of the block around it. Of a site of
            another kind, its numbers.
        branch_of: Site -> the block whose bypass is its last option.
    """

    structure: Structure
    widths: Mapping[str, tuple[int, ...]]
    branch_of: Mapping[str, Branch]

    def options(self) -> list[tuple[str, int]]:
        """Every (site, width) that changes something, each block's bypass once, at the first of its sites."""
        found = []
        seen: set[str] = set()
        for site, widths in self.widths.items():
            for width in widths[1:]:
                branch = self.branch_of.get(site)
                if width == BYPASS and branch is not None:
                    if branch.module in seen:
                        continue
                    seen.add(branch.module)
                found.append((site, width))
        return found

    def plan(self, widths: Mapping[str, int], scores: Mapping[str, Tensor]) -> Plan:
        """The plan that keeps the highest-scoring units at the widths chosen.

        Args:
            widths: Site -> units kept, or the number of another kind; a site that is not named stays whole.
            scores: Group -> (units,), higher means keep.
        """
        bypassed = {
            self.branch_of[site].module: self.branch_of[site] for site, width in widths.items() if width == BYPASS
        }
        gone = {group for branch in bypassed.values() for group in branch.groups}
        kept = {}
        for site, width in widths.items():
            if site in gone or width in (BYPASS, self.widths[site][0]) or is_kind(site):
                continue
            best = scores[site].argsort(descending=True, stable=True)[:width]
            kept[site] = tuple(sorted(best.tolist()))
        return Plan(kept, tuple(bypassed), levels_in(widths, self.widths, bypassed))


def levels_in(
    chosen: Mapping[str, int], options: Mapping[str, Sequence[int]], bypassed: Iterable[str]
) -> dict[str, int]:
    """Site of another kind -> its number, where that changes a layer that is still there.

    Args:
        chosen: Site -> its option.
        options: Site -> all of its options, the one that changes nothing first.
        bypassed: Blocks that are gone.
    """
    gone = tuple(f"{module}." for module in bypassed)
    return {
        site: level
        for site, level in chosen.items()
        if is_kind(site) and level != options[site][0] and not f"{parted(site)[1]}.".startswith(gone)
    }


@dataclass(frozen=True)
class Problem:
    """What the allocator is given.

    Attributes:
        sites: One per site.
        pairs: Costs that couple two sites.
        fixed: Cost column -> what no option changes.
        widths: Site -> units kept by each option.
    """

    sites: tuple[Site, ...]
    pairs: tuple[PairCost, ...]
    fixed: Mapping[str, float]
    widths: Mapping[str, tuple[int, ...]]

    def whole(self, column: str) -> float:
        """The cost of a column where every site keeps all its units."""
        single = sum(site.options[0].costs.get(column, 0.0) for site in self.sites)
        double = sum(float(pair.costs[column][0, 0]) for pair in self.pairs if column in pair.costs)
        return self.fixed.get(column, 0.0) + single + double

    def varying(self, column: str, choice: Mapping[str, int]) -> float:
        """The part of a cost that options decide, where each site has the option of this index."""
        single = sum(site.options[choice[site.name]].costs.get(column, 0.0) for site in self.sites)
        double = (
            float(pair.costs[column][choice[pair.site_a], choice[pair.site_b]])
            for pair in self.pairs
            if column in pair.costs
        )
        return single + sum(double)

    def chosen(self, allocation: Allocation) -> dict[str, int]:
        """Site -> units kept."""
        return {site: self.widths[site][option] for site, option in allocation.choice.items()}


def find_sites(
    structure: Structure,
    *,
    step: int,
    least: int = 1,
    most: int | None = None,
    more: Mapping[str, tuple[int, ...]] | None = None,
) -> Sites:
    """List the sites of a network, with widths in multiples of `step`.

    Args:
        structure: From `probe`, certified.
        step: Widths worth choosing are its multiples, in channels: a runtime that computes them in blocks of 16 runs 17
            to 32 in the same time. Units of several channels each, such as the heads of an attention, are counted by
            those.
        least: Units a group keeps at least, unless its block is bypassed.
        most: Widths per site at most, the full one included, evenly spread over the multiples of `step`; None is all.
            Two hundred widths of two thousand channels differ by less than what can be measured.
        more: Sites of other kinds, from `kinds.offered`; None is none.

    Raises:
        RangeError: `most` leaves no choice, or another number is below 1.
    """
    check_counts(step=step, least=least)
    if most is not None and most < 2:
        raise RangeError(f"at most {most} widths per site leave nothing to choose; give 2 or more")
    branch_of: dict[str, Branch] = {}
    for branch in structure.branches:
        inner = set(branch.layers)
        nested = any(set(other.layers) < inner for other in structure.branches)
        if not nested and branch.groups:
            branch_of.update((group, branch) for group in branch.groups)
    widths = {}
    for group in structure.groups:
        options = (group.units, *_spread(_narrower(group, step, least), most))
        if group.name in branch_of:
            options += (BYPASS,)
        if len(options) > 1:
            widths[group.name] = options
    return Sites(structure, {**widths, **(more or {})}, branch_of)


def _narrower(group: Group, step: int, least: int) -> list[int]:
    """Multiples of the step below the full width that the group may have."""
    if group.frozen is not None:
        return []
    step = max(1, step // min((one.block for one in group.slices if one.role == "produce"), default=1))
    return [width for width in range((group.units - 1) // step * step, least - 1, -step) if width in group.counts]


def _spread(widths: Sequence[int], most: int | None) -> list[int]:
    """At most `most - 1` of the widths, evenly spread and with both ends."""
    if most is None or len(widths) <= most - 1:
        return list(widths)
    places = np.linspace(0, len(widths) - 1, most - 1).round().astype(int)
    return [widths[place] for place in dict.fromkeys(places.tolist())]


@dataclass
class _Costs:
    """Cost columns while they are added up, site by site and pair by pair."""

    widths: Mapping[str, tuple[int, ...]]
    branch_of: Mapping[str, Branch]
    fixed: dict[str, float] = field(default_factory=dict)
    single: dict[tuple[str, str], NDArray[np.float64]] = field(default_factory=dict)
    double: dict[tuple[str, str], dict[str, NDArray[np.float64]]] = field(default_factory=dict)

    def add(self, column: str, sites: Sequence[str], cost: Callable[[Mapping[str, int]], float]) -> None:
        """Add a cost that depends on the widths of some sites."""
        if not sites:
            self.fixed[column] = self.fixed.get(column, 0.0) + cost({})
        elif len(sites) == 1:
            (site,) = sites
            values = np.array([cost({site: width}) for width in self.widths[site]])
            self.single[site, column] = self.single.get((site, column), 0.0) + values
        elif len(sites) == 2:
            rows, columns = sites
            matrix = np.array([[cost({rows: a, columns: b}) for b in self.widths[columns]] for a in self.widths[rows]])
            of_pair = self.double.setdefault((rows, columns), {})
            of_pair[column] = of_pair.get(column, 0.0) + matrix
        else:
            # Three widths or more, as after a concatenation: the change from the full width is taken to be a sum, and
            # what a bypass takes away is the change of one of its sites. Whoever meets a budget corrects the rest.
            whole = cost({})
            self.fixed[column] = self.fixed.get(column, 0.0) + whole
            taken: set[str] = set()
            for site in sites:
                values = np.array([cost({site: width}) - whole for width in self.widths[site]])
                if site in self.branch_of and self.branch_of[site].module in taken:
                    values[-1] = 0.0
                elif site in self.branch_of:
                    taken.add(self.branch_of[site].module)
                self.single[site, column] = self.single.get((site, column), 0.0) + values

    def add_change(
        self,
        column: str,
        site: str,
        governing: Sequence[str],
        changed: Callable[[Mapping[str, int]], float],
        cost: Callable[[Mapping[str, int]], float],
    ) -> None:
        """Add what a site of another kind changes about a layer: alone, and beside each width that decides its cost.

        What it changes where several widths are less than full is taken to be a sum; whoever meets a budget corrects
        the rest.
        """
        whole = cost({})
        alone = [0.0, *(changed({site: level}) - whole for level in self.widths[site][1:])]
        self.single[site, column] = self.single.get((site, column), 0.0) + np.array(alone)
        taken: set[str] = set()
        for group in governing:
            gone = self.branch_of[group].module if group in self.branch_of else None
            beside = np.zeros((len(self.widths[group]), len(alone)))
            for row, width in enumerate(self.widths[group]):
                # A bypass takes the layer away once, however many of its groups say so.
                if row == 0 or (width == BYPASS and gone in taken):
                    continue
                for place, level in enumerate(self.widths[site][1:], start=1):
                    change = changed({group: width, site: level}) - cost({group: width})
                    beside[row, place] = change - alone[place]
            if gone is not None:
                taken.add(gone)
            of_pair = self.double.setdefault((group, site), {})
            of_pair[column] = of_pair.get(column, 0.0) + beside


def build_problem(sites: Sites, losses: Mapping[tuple[str, int], float], columns: Mapping[str, LayerCost]) -> Problem:
    """Write down losses and costs of every option.

    Args:
        sites: From `find_sites`.
        losses: (site, width) -> loss of this option alone; the full width costs no loss.
        columns: Cost name -> cost of one layer at given widths. A column "size", in bytes, also gets the vectors that
            go with each unit.
    """
    costs = _Costs(sites.widths, sites.branch_of, dict.fromkeys(columns, 0.0))
    bypassable = {layer: branch for branch in sites.branch_of.values() for layer in branch.layers}
    changed: dict[str, list[str]] = {}
    for site in filter(is_kind, sites.widths):
        changed.setdefault(parted(site)[1], []).append(site)
    for layer in sites.structure.layers:
        governing = [
            group
            for group in dict.fromkeys((*layer.incoming.groups, *layer.outgoing.groups, *layer.grouping.groups))
            if group in sites.widths
        ]
        inner = set(bypassable[layer.name].groups) if layer.name in bypassable else set()
        for column, layer_cost in columns.items():
            at = _layer_at(layer, layer_cost, inner)
            costs.add(column, governing, at)
            for site in changed.get(layer.name, ()):
                costs.add_change(column, site, governing, _changed_at(layer, layer_cost, inner, site), at)
    if "size" in columns:
        _add_vectors(costs, sites)
    pairs = [PairCost(a, b, of_pair, _forbidden(sites, a, b)) for (a, b), of_pair in costs.double.items()]
    pairs += [
        PairCost(a, b, {}, _forbidden(sites, a, b))
        for branch in {id(branch): branch for branch in sites.branch_of.values()}.values()
        for a, b in zip(branch.groups, branch.groups[1:], strict=False)
        if (a, b) not in costs.double
    ]
    made = []
    for site, widths in sites.widths.items():
        options = tuple(
            Option(
                str(width),
                losses.get((site, width), 0.0),
                {
                    column: float(costs.single[site, column][index])
                    for column in columns
                    if (site, column) in costs.single
                },
            )
            for index, width in enumerate(widths)
        )
        made.append(Site(site, options))
    return Problem(tuple(made), tuple(pairs), costs.fixed, sites.widths)


def _layer_at(layer: Layer, layer_cost: LayerCost, inner: set[str]) -> Callable[[Mapping[str, int]], float]:
    def cost(widths: Mapping[str, int]) -> float:
        if any(widths.get(group) == BYPASS for group in inner):
            return 0.0
        return layer_cost(layer, *layer.widths(widths))

    return cost


def _changed_at(
    layer: Layer, layer_cost: LayerCost, inner: set[str], site: str
) -> Callable[[Mapping[str, int]], float]:
    kind, _ = parted(site)

    def cost(widths: Mapping[str, int]) -> float:
        if any(widths.get(group) == BYPASS for group in inner):
            return 0.0
        return kind.cost(layer_cost, layer, widths[site], *layer.widths(widths)[:2])

    return cost


def _add_vectors(costs: _Costs, sites: Sites) -> None:
    """Bytes of the vectors that go with units, such as those of a normalization; a bypass takes those inside along."""
    branches = {branch.module: branch for branch in sites.branch_of.values()}
    for group in sites.structure.groups:
        for one in group.slices:
            if len(sites.structure.shapes.get(one.tensor, ())) != 1:
                continue
            inside = [branch.groups[0] for name, branch in branches.items() if one.tensor.startswith(f"{name}.")]
            governing = [name for name in dict.fromkeys((group.name, *inside)) if name in sites.widths]
            costs.add("size", governing, _vector_at(group, 4.0 * len(one.rows([0])), inside))


def _vector_at(group: Group, bytes_per_unit: float, inside: Sequence[str]) -> Callable[[Mapping[str, int]], float]:
    def cost(widths: Mapping[str, int]) -> float:
        if any(widths.get(name) == BYPASS for name in inside):
            return 0.0
        return bytes_per_unit * widths.get(group.name, group.units)

    return cost


def _forbidden(sites: Sites, a: str, b: str) -> NDArray[np.bool_] | None:
    """Two groups of one block are bypassed together or not at all."""
    branch = sites.branch_of.get(a)
    if branch is None or sites.branch_of.get(b) is not branch:
        return None
    gone_a = np.array(sites.widths[a]) == BYPASS
    gone_b = np.array(sites.widths[b]) == BYPASS
    mismatch: NDArray[np.bool_] = gone_a[:, None] != gone_b[None, :]
    return mismatch
