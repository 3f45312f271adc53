"""Everything that a plan is chosen from, in one value that needs neither the network nor its data again.

What for: evidence takes minutes to gather and a table is measured once per machine; another budget, another device or
a whole frontier is then a matter of milliseconds, on any computer.

Cost: the allocation alone.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from torch import Tensor

from reverie.compress.allocator import Allocation, allocate
from reverie.compress.blueprint import blueprint, blueprint_from_json, blueprint_json
from reverie.compress.kinds import LayerCost, is_kind
from reverie.compress.latencies import cost_columns
from reverie.compress.options import Option, PairCost, Site
from reverie.compress.plan import Plan
from reverie.compress.sites import BYPASS, Problem, Sites, build_problem, levels_in
from reverie.compress.spend import beside, spent
from reverie.core.errors import BudgetInfeasible, CorruptFile, RangeError, ReferenceNotFound, ReverieError
from reverie.core.store import read_json, write_json
from reverie.cost.latency import LatencyTable
from reverie.cost.predictor import Predictor, fit_predictor

__all__ = ["Solution", "Study", "read_study", "study_of"]

FORMAT = 1
# A plan that is above a limit when it is counted is solved for again this often at most.
TURNS, ROUNDING = 20, 1e-9

_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Solution:
    """A plan, and what is known about it before it is built.

    Attributes:
        plan: What each site keeps.
        widths: Site -> units kept; 0 is the bypass of the block around it.
        shares: Cost column -> predicted share of the teacher's.
        loss: Sum of the losses of the options chosen.
        loss_error: Standard error of that sum, the options' errors taken as independent.
        allocation: The proof.
    """

    plan: Plan
    widths: Mapping[str, int]
    shares: Mapping[str, float]
    loss: float
    loss_error: float
    allocation: Allocation


@dataclass(frozen=True, eq=False)
class Study:
    """Options with their evidence, what each costs on every device, and which units go first.

    Attributes:
        problem: Sites, options, costs of every column, and what no option changes.
        scores: Group -> score of each unit, higher means keep.
        errors: (site, units kept) -> standard error of the option's loss.
        branches: Block that may be bypassed -> the groups inside it.
        predictors: Column -> how its sum becomes a share of the teacher's; a plain share where there is none.
        units: Column -> unit of its numbers.
        about: Where it comes from: model, source, versions. For people.
        sites: What decides the cost of each layer, so that other tables can be read; None in files that lack it.
    """

    problem: Problem
    scores: Mapping[str, tuple[float, ...]]
    errors: Mapping[tuple[str, int], float]
    branches: Mapping[str, tuple[str, ...]]
    predictors: Mapping[str, Predictor] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    about: Mapping[str, str] = field(default_factory=dict)
    sites: Sites | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """The costs that a budget may limit."""
        return tuple(self.problem.fixed)

    def solve(
        self,
        shares: Mapping[str, float],
        *,
        spend: str | None = None,
        gap: float = 0.0,
        seconds: float = 60.0,
        counted: Callable[[Plan], Mapping[str, float]] | None = None,
    ) -> Solution:
        """The plan of least loss within shares of the teacher's costs.

        Args:
            shares: Column -> upper limit as a share of the teacher's, above 0.
            spend: Column whose share is used up, one of `shares`: where the plan of least loss leaves some of it, units
                are given back until it is as near as it can be. Nothing that the plan keeps goes. None leaves it.
            gap: As for `allocate`.
            seconds: As for `allocate`.
            counted: Plan -> what it truly leaves of some of these columns, as shares. Where that is above a limit, as
                it may be if three widths decide what a layer costs, a lower sum is asked for; the solution's shares are
                then the true ones. None takes the sums as they are.

        Raises:
            ReferenceNotFound: There is no such column, or `spend` has no limit.
            RangeError: A share is not above 0.
            BudgetInfeasible: No plan is within the shares; `cheapest` is the lowest share that can be reached.
        """
        for column, share in shares.items():
            if column not in self.columns:
                raise ReferenceNotFound(f"no cost is called {column!r}; this study has {', '.join(self.columns)}")
            if not share > 0:
                raise RangeError(f"a budget of {share} of the teacher's {column} leaves nothing; give a share above 0")
        if spend is not None and spend not in shares:
            raise ReferenceNotFound(f"{spend!r} cannot be spent without a limit; limits are on {', '.join(shares)}")
        asked = dict(shares)
        true: Mapping[str, float] = {}
        over: list[str] = []
        cheapest: set[str] = set()
        for _ in range(TURNS):
            try:
                found = self._least(asked, spend, gap, seconds)
            except BudgetInfeasible as infeasible:
                column = infeasible.budget
                if column not in true:
                    raise
                if column in cheapest:
                    raise _out_of_reach(column, shares[column], true[column]) from infeasible
                # Below the cheapest sum there is nothing to try but the cheapest itself.
                cheapest.add(column)
                asked[column] = infeasible.cheapest + ROUNDING
                continue
            true = {} if counted is None else counted(found.plan)
            over = [column for column, share in true.items() if share > shares[column] + ROUNDING]
            if not over:
                return replace(found, shares={**found.shares, **true})
            for column in over:
                asked[column] = _lower(found.shares[column], true[column], shares[column])
        raise _out_of_reach(over[0], shares[over[0]], true[over[0]])

    def _least(self, shares: Mapping[str, float], spend: str | None, gap: float, seconds: float) -> Solution:
        """The plan of least loss whose sums are within shares."""
        budgets = {column: self._sum(column, share) for column, share in shares.items()}
        try:
            if not self.problem.sites:
                return self._nothing(budgets)
            found = allocate(self.problem.sites, self.problem.pairs, budgets=budgets, gap=gap, seconds=seconds)
            if spend is not None:
                found = spent(self.problem, found, budgets, column=spend)
        except BudgetInfeasible as infeasible:
            column = infeasible.budget
            raise _out_of_reach(column, shares[column], self._share(column, infeasible.cheapest)) from infeasible
        return self._solution(found)

    def beside(self, found: Solution, shares: Mapping[str, float]) -> tuple[Solution, ...]:
        """The plans one step of one site away from a plan, within shares of the teacher's costs; see `spend.beside`."""
        budgets = {column: self._sum(column, share) for column, share in shares.items()}
        return tuple(self._solution(one) for one in beside(self.problem, found.allocation, budgets))

    def frontier(self, column: str, shares: Sequence[float], *, gap: float = 1e-3) -> tuple[Solution, ...]:
        """The plans for several shares of one cost; those out of reach are left out."""
        found = []
        for share in shares:
            try:
                found.append(self.solve({column: share}, gap=gap))
            except BudgetInfeasible:
                continue
        return tuple(found)

    def joined(self, other: "Study") -> "Study":
        """This study with the columns of another one of the same sites, such as a table of another device.

        Raises:
            RangeError: The sites or their widths differ, or a column is in both.
        """
        if self.problem.widths != other.problem.widths or set(self.columns) & set(other.columns):
            raise RangeError(
                f"two studies join where they have the same sites and different costs; here are {self.columns} and "
                f"{other.columns}" + ("" if self.problem.widths == other.problem.widths else ", and the sites differ")
            )
        pairs = [replace(pair, forbidden=None) for pair in other.problem.pairs]
        sites = tuple(
            Site(mine.name, tuple(_with_costs(a, b) for a, b in zip(mine.options, theirs.options, strict=True)))
            for mine, theirs in zip(self.problem.sites, other.problem.sites, strict=True)
        )
        problem = Problem(
            sites,
            (*self.problem.pairs, *pairs),
            {**self.problem.fixed, **other.problem.fixed},
            self.problem.widths,
        )
        return replace(
            self,
            problem=problem,
            predictors={**self.predictors, **other.predictors},
            units={**self.units, **other.units},
        )

    def timed(self, table: LatencyTable, *, column: str = "latency") -> "Study":
        """This study with the latency that a table gives, such as that of another device; see `read_table`.

        Args:
            table: Filled for the network, by `build_table` on the device in question.
            column: What the cost is called. One that the study has is replaced, with its predictor.

        Raises:
            ReferenceNotFound: The table lacks a layer, or the study does not know its layers.
        """
        if self.sites is None:
            raise ReferenceNotFound("this study was written without its layers, so no table can be read for it")
        layer_cost = cost_columns(table, {"latency": None})["latency"]
        added = Study(build_problem(self.sites, {}, {column: layer_cost}), {}, {}, {}, units={column: "ms"})
        return self._without(column).joined(added)

    def counted(self, whole: Mapping[str, float]) -> "Study":
        """This study with shares that refer to the whole network, of which the columns may leave out some.

        Args:
            whole: Column -> cost of the whole network, such as the bytes of its file; other columns stay as they are.
        """
        predictors = dict(self.predictors)
        for column, cost in whole.items():
            if column in self.columns and cost > 0:
                left_out = max(1 - self.problem.whole(column) / cost, 0.0)
                predictors[column] = fit_predictor([], overhead=left_out)
        return replace(self, predictors=predictors)

    def calibrated(self, column: str, measured: Sequence[tuple[float, float]]) -> "Study":
        """This study with the line of one column moved by plans that were measured; see `fit_predictor`.

        Args:
            column: Name of a cost.
            measured: Share of the teacher's that this study predicts of a plan, and the share that it measured.
        """
        before = self._predictor(column)
        points = [(before.limit(predicted), found) for predicted, found in measured]
        return replace(self, predictors={**self.predictors, column: fit_predictor(points)})

    def plan(self, widths: Mapping[str, int]) -> Plan:
        """The plan that keeps the best units at the widths chosen."""
        bypassed = tuple(
            module for module, groups in self.branches.items() if any(widths.get(group) == BYPASS for group in groups)
        )
        gone = {group for module in bypassed for group in self.branches[module]}
        kept = {}
        for site, width in widths.items():
            if site not in gone and width not in (BYPASS, self.problem.widths[site][0]) and not is_kind(site):
                order = np.argsort(-np.array(self.scores[site]), kind="stable")
                kept[site] = tuple(sorted(order[:width].tolist()))
        return Plan(kept, bypassed, levels_in(widths, self.problem.widths, bypassed))

    def to_json(self) -> dict[str, Any]:
        """A JSON value that `read_study` reads back from a file."""
        problem = self.problem
        return {
            "format": FORMAT,
            "about": dict(self.about),
            "units": dict(self.units),
            "sites": [
                {
                    "name": site.name,
                    "widths": list(problem.widths[site.name]),
                    "losses": [option.loss for option in site.options],
                    "errors": [self.errors.get((site.name, width), 0.0) for width in problem.widths[site.name]],
                    "costs": [dict(option.costs) for option in site.options],
                    "scores": list(self.scores.get(site.name, ())),
                }
                for site in problem.sites
            ],
            "pairs": [_pair_json(pair) for pair in problem.pairs],
            "fixed": dict(problem.fixed),
            "branches": {module: list(groups) for module, groups in self.branches.items()},
            "predictors": {column: [one.constant, one.scale, one.measured] for column, one in self.predictors.items()},
            "blueprint": None if self.sites is None else blueprint_json(self.sites),
        }

    def save(self, path: Path) -> None:
        """Write the study to a JSON file, whole or not at all."""
        write_json(path, self.to_json())

    def _without(self, column: str) -> "Study":
        """This study without one column."""
        problem = self.problem
        sites = tuple(
            replace(site, options=tuple(replace(one, costs=_but(one.costs, column)) for one in site.options))
            for site in problem.sites
        )
        pairs = tuple(replace(pair, costs=_but(pair.costs, column)) for pair in problem.pairs)
        return replace(
            self,
            problem=Problem(sites, pairs, _but(problem.fixed, column), problem.widths),
            predictors=_but(self.predictors, column),
            units=_but(self.units, column),
        )

    def _nothing(self, budgets: Mapping[str, float]) -> Solution:
        """The only plan of a network in which nothing can be decided."""
        for column, left in budgets.items():
            if left < -1e-9 * self.problem.whole(column):
                raise BudgetInfeasible("nothing in the network can be cut", cheapest=0.0, budget=column)
        return self._solution(Allocation({}, 0.0, {}, 0.0, 0.0, "nothing to decide"))

    def _predictor(self, column: str) -> Predictor:
        return self.predictors.get(column, Predictor(0.0, 1.0, 0))

    def _sum(self, column: str, share: float) -> float:
        limit = self._predictor(column).limit(share) * self.problem.whole(column)
        return limit - self.problem.fixed.get(column, 0.0)

    def _share(self, column: str, varying: float) -> float:
        return self._predictor(column).share(
            (varying + self.problem.fixed.get(column, 0.0)) / self.problem.whole(column)
        )

    def _solution(self, found: Allocation) -> Solution:
        widths = self.problem.chosen(found)
        variances = [self.errors.get((site, width), 0.0) ** 2 for site, width in widths.items()]
        shares = {column: self._share(column, self.problem.varying(column, found.choice)) for column in self.columns}
        return Solution(self.plan(widths), widths, shares, found.loss, sum(variances) ** 0.5, found)


def _lower(summed: float, true: float, limit: float) -> float:
    """The sum at which a plan should be within its limit: on the line through one that is not, and the whole."""
    return min(1 - (1 - limit) * (1 - summed) / max(1 - true, ROUNDING), summed - ROUNDING)


def _out_of_reach(column: str, share: float, cheapest: float) -> BudgetInfeasible:
    return BudgetInfeasible(
        f"a budget of {share:.1%} of the teacher's {column} is out of reach: the cheapest plan takes {cheapest:.1%}. "
        "Raise the budget, or offer cheaper options.",
        cheapest=cheapest,
        budget=column,
    )


def study_of(
    sites: Sites,
    losses: Mapping[tuple[str, int], float],
    columns: Mapping[str, LayerCost],
    scores: Mapping[str, Tensor],
    *,
    errors: Mapping[tuple[str, int], float] | None = None,
    units: Mapping[str, str] | None = None,
    about: Mapping[str, str] | None = None,
) -> Study:
    """Gather what was found out about a network.

    Args:
        sites: From `find_sites`.
        losses: (site, units kept) -> loss of this option alone; the full width costs no loss.
        columns: Cost name -> cost of one layer at given widths.
        scores: Group -> (units,), higher means keep.
        errors: (site, units kept) -> standard error of the loss.
        units: Column -> unit.
        about: For people.
    """
    branches = {branch.module: branch.groups for branch in sites.branch_of.values()}
    return Study(
        problem=build_problem(sites, losses, columns),
        scores={site: tuple(scores[site].tolist()) for site in sites.widths if site in scores},
        errors=dict(errors or {}),
        branches=branches,
        units=dict(units or {}),
        about=dict(about or {}),
        sites=blueprint(sites),
    )


def read_study(path: Path) -> Study:
    """Read a study that `Study.save` wrote.

    Raises:
        CorruptFile: The file is no study of this format.
        ReferenceNotFound: There is no such file.
    """
    try:
        stored = read_json(path)
        if stored["format"] != FORMAT:
            raise CorruptFile(f"{path} has format {stored['format']}; this version reads format {FORMAT}")
        return _from_json(stored)
    except (LookupError, TypeError, ValueError, AttributeError, json.JSONDecodeError) as error:
        if isinstance(error, ReverieError):
            raise
        raise CorruptFile(f"{path} is no study of a network ({type(error).__name__}: {error})") from error


def _from_json(stored: Mapping[str, Any]) -> Study:
    widths = {site["name"]: tuple(site["widths"]) for site in stored["sites"]}
    sites = tuple(
        Site(
            site["name"],
            tuple(
                Option(str(width), float(loss), costs)
                for width, loss, costs in zip(site["widths"], site["losses"], site["costs"], strict=True)
            ),
        )
        for site in stored["sites"]
    )
    errors = {
        (site["name"], width): error
        for site in stored["sites"]
        for width, error in zip(site["widths"], site["errors"], strict=True)
    }
    return Study(
        problem=Problem(sites, tuple(_pair_from_json(pair) for pair in stored["pairs"]), stored["fixed"], widths),
        scores={site["name"]: tuple(site["scores"]) for site in stored["sites"] if site["scores"]},
        errors=errors,
        branches={module: tuple(groups) for module, groups in stored["branches"].items()},
        predictors={column: Predictor(*values) for column, values in stored["predictors"].items()},
        units=stored["units"],
        about=stored["about"],
        sites=blueprint_from_json(stored["blueprint"], widths) if stored.get("blueprint") else None,
    )


def _but(values: Mapping[str, _Value], name: str) -> dict[str, _Value]:
    return {key: value for key, value in values.items() if key != name}


def _with_costs(mine: Option, theirs: Option) -> Option:
    return replace(mine, costs={**mine.costs, **theirs.costs})


def _pair_json(pair: PairCost) -> dict[str, Any]:
    stored = {
        "sites": [pair.site_a, pair.site_b],
        "costs": {column: matrix.tolist() for column, matrix in pair.costs.items()},
        "forbidden": None if pair.forbidden is None else pair.forbidden.tolist(),
    }
    return stored if pair.loss is None else {**stored, "loss": pair.loss.tolist()}


def _pair_from_json(stored: Mapping[str, Any]) -> PairCost:
    a, b = stored["sites"]
    costs = {column: np.array(matrix, dtype=np.float64) for column, matrix in stored["costs"].items()}
    forbidden = None if stored["forbidden"] is None else np.array(stored["forbidden"], dtype=np.bool_)
    return PairCost(a, b, costs, forbidden, np.array(stored["loss"], dtype=np.float64) if "loss" in stored else None)
