"""The allocation problem in arrays, and its exact solution as a mixed-integer program by SciPy's HiGHS.

What for: the half of the allocator that knows numbers only; `reverie.compress.allocator` holds the nouns and states
the problem.

Cost: one call of HiGHS over the variables that can be 1 in an allocation within the limits; where sites are uncoupled,
a few calls over the few options near the Lagrangian bound.

Reference: Wainwright and Jordan, 2008, "Graphical models, exponential families, and variational inference", section
4.1, for the local-marginal polytope; Martello and Toth, 1990, "Knapsack Problems", chapter 2, for solving a core and
proving the rest away. Differs: any number of budgets.
"""

import ctypes
import math
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import block_array, block_diag, csr_array, eye_array, kron

from reverie.core.errors import VerificationFailed

__all__ = ["Compiled", "Floats", "Link", "Mask", "Pair", "Program", "linearize", "solve", "solve_core", "solve_coupled"]

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

# HiGHS accepts an objective within 1e-6 of the optimum and a row that is broken by 1e-6, both absolute. Scaled to
# these sizes, what it lets pass is 1e-10 of the largest loss and 1e-8 of the room in a budget; plain addition then
# decides. At higher row scales HiGHS has to repair its own solutions.
LOSS_SCALE = 1e4
ROW_SCALE = 1e2
# Allocations that HiGHS takes for feasible and plain addition does not are excluded one by one, at most this many.
EXCLUSIONS = 50


@dataclass(frozen=True, eq=False)
class Pair:
    """A cost that depends on the options of two sites.

    Attributes:
        a: Index of the site of the rows.
        b: Index of the site of the columns, above `a`.
        costs: (budgets, options of a, options of b).
        forbidden: (options of a, options of b).
        losses: (options of a, options of b).
    """

    a: int
    b: int
    costs: Floats
    forbidden: Mask
    losses: Floats

    def turned(self) -> "Pair":
        """The same with its sites exchanged."""
        return Pair(self.b, self.a, self.costs.transpose(0, 2, 1), self.forbidden.T, self.losses.T)

    def joined(self, other: "Pair | None") -> "Pair":
        """Both at once; they are of the same sites."""
        if other is None:
            return self
        forbidden = self.forbidden | other.forbidden
        return Pair(self.a, self.b, self.costs + other.costs, forbidden, self.losses + other.losses)


@dataclass(frozen=True)
class Link:
    """Two options that are chosen together or not at all.

    Attributes:
        a: Index of a site.
        option_a: Index of its option.
        b: Index of another site.
        option_b: Index of its option.
    """

    a: int
    option_a: int
    b: int
    option_b: int


@dataclass(frozen=True, eq=False)
class Compiled:
    """Sites, options, costs and limits without names; the limits are in the order of `budgets`.

    Attributes:
        names: Of the sites.
        budgets: Names of the costs that are limited.
        losses: Per site (options,).
        unary: Per site (budgets, options).
        possible: Per site (options,), false where an option is excluded.
        pairs: At most one per two sites.
        links: Options that are chosen together.
        unlike: Allocations with the number of sites at most that may choose the same option as they do.
    """

    names: tuple[str, ...]
    budgets: tuple[str, ...]
    losses: tuple[Floats, ...]
    unary: tuple[Floats, ...]
    possible: tuple[Mask, ...]
    pairs: tuple[Pair, ...]
    links: tuple[Link, ...] = ()
    unlike: tuple[tuple[tuple[int, ...], int], ...] = ()

    def loss(self, picked: Sequence[int]) -> float:
        """Total loss of one option per site, correctly rounded."""
        return math.fsum(
            [float(losses[i]) for losses, i in zip(self.losses, picked, strict=True)]
            + [float(pair.losses[picked[pair.a], picked[pair.b]]) for pair in self.pairs]
        )

    def costs(self, picked: Sequence[int]) -> list[float]:
        """Total of each limited cost of one option per site, correctly rounded."""
        return [
            math.fsum(
                [float(unary[k, i]) for unary, i in zip(self.unary, picked, strict=True)]
                + [float(pair.costs[k, picked[pair.a], picked[pair.b]]) for pair in self.pairs]
            )
            for k in range(len(self.budgets))
        ]


@dataclass(frozen=True, eq=False)
class Program:
    """A mixed-integer program whose variables are the options of every site, then the pairs of options of every pair.

    The objective of the problem is `floor + unit * objective . variables`.
    """

    site: NDArray[np.intp]
    option: NDArray[np.intp]
    objective: Floats
    floor: float
    unit: float
    upper: Floats
    constraints: tuple[LinearConstraint, ...]


def linearize(
    problem: Compiled, allowed: Sequence[Mask], limits: Sequence[float], *, minimize: int | None = None
) -> Program | None:
    """The program of least loss, or of least cost of one budget; None where a limit is below every cost.

    Variables come in blocks, one per site and one per pair, each of which sums to 1. So the least value of a block may
    be taken off all its coefficients, and a variable that costs more than what then remains of a budget is 0.
    """
    picks = [np.flatnonzero(mask) for mask in allowed]
    costs = [unary[:, pick] for unary, pick in zip(problem.unary, picks, strict=True)]
    free = [np.ones(len(pick), dtype=np.bool_) for pick in picks]
    for pair in problem.pairs:
        here = np.ix_(picks[pair.a], picks[pair.b])
        costs.append(pair.costs[:, here[0], here[1]].reshape(len(pair.costs), -1))
        free.append(~pair.forbidden[here].ravel())
    if not all(mask.any() for mask in free):
        return None
    rows: list[Floats] = []
    bounds: list[float] = []
    open_ = np.concatenate(free)
    for k, limit in enumerate(limits):
        if not math.isfinite(limit):
            continue
        extra, floor = _above_floor([cost[k] for cost in costs], free)
        fuzz = 1e-9 * max(abs(limit), abs(floor))
        room = limit - floor
        if room < -fuzz:
            return None
        unit = (max(room, 1e-9 * float(extra.max())) or 1.0) / ROW_SCALE
        open_ &= extra <= room + fuzz
        rows.append(extra / unit)
        bounds.append(max(room, 0.0) / unit)
    values = [cost[minimize] for cost in costs] if minimize is not None else _loss_blocks(problem, picks)
    objective, floor = _above_floor(values, free)
    objective = np.where(open_, objective, 0.0)
    unit = float(objective.max()) / LOSS_SCALE or 1.0
    constraints = [_local_marginals(problem, picks), *_side_conditions(problem, picks, len(objective))]
    if rows:
        constraints.append(LinearConstraint(csr_array(np.where(open_, np.stack(rows), 0.0)), -np.inf, np.array(bounds)))
    return Program(
        site=np.repeat(np.arange(len(picks)), [len(pick) for pick in picks]),
        option=np.concatenate(picks),
        objective=objective / unit,
        floor=floor,
        unit=unit,
        upper=open_.astype(np.float64),
        constraints=tuple(constraints),
    )


def _above_floor(blocks: Sequence[Floats], free: Sequence[Mask]) -> tuple[Floats, float]:
    """Values above the least free value of their block, and the sum of those least values."""
    floors = [float(block[mask].min()) for block, mask in zip(blocks, free, strict=True)]
    above = np.concatenate([block - floor for block, floor in zip(blocks, floors, strict=True)])
    return np.where(np.concatenate(free), above, 0.0), math.fsum(floors)


def _loss_blocks(problem: Compiled, picks: Sequence[NDArray[np.intp]]) -> list[Floats]:
    losses = [loss[pick] for loss, pick in zip(problem.losses, picks, strict=True)]
    return losses + [pair.losses[np.ix_(picks[pair.a], picks[pair.b])].ravel() for pair in problem.pairs]


def _side_conditions(problem: Compiled, picks: Sequence[NDArray[np.intp]], columns: int) -> list[LinearConstraint]:
    """Linked options are equal, and allocations are unlike others."""
    starts = np.concatenate([[0], np.cumsum([len(pick) for pick in picks])])

    def row(entries: Iterable[tuple[int, int, float]]) -> Floats:
        found = np.zeros(columns)
        for site, option, value in entries:
            at = np.flatnonzero(picks[site] == option)
            found[starts[site] + at] = value
        return found

    made = []
    if problem.links:
        rows = [row([(one.a, one.option_a, 1.0), (one.b, one.option_b, -1.0)]) for one in problem.links]
        made.append(LinearConstraint(csr_array(np.stack(rows)), 0.0, 0.0))
    if problem.unlike:
        rows = [row((site, option, 1.0) for site, option in enumerate(other)) for other, _ in problem.unlike]
        most = np.array([float(count) for _, count in problem.unlike])
        made.append(LinearConstraint(csr_array(np.stack(rows)), -np.inf, most))
    return made


def _local_marginals(problem: Compiled, picks: Sequence[NDArray[np.intp]]) -> LinearConstraint:
    """One option per site; row and column sums of a pair's variables equal the variables of its sites."""
    sizes = [len(pick) for pick in picks]
    one_hot = csr_array(block_diag([np.ones((1, size)) for size in sizes]))
    columns = sum(sizes)
    grid: list[list[csr_array | None]] = [[one_hot] + [None] * len(problem.pairs)]
    identity = eye_array(columns, format="csr")
    starts = np.concatenate([[0], np.cumsum(sizes)])
    for index, pair in enumerate(problem.pairs):
        a, b = sizes[pair.a], sizes[pair.b]
        for site, sums in (
            (pair.a, kron(eye_array(a), np.ones((1, b)), format="csr")),
            (pair.b, kron(np.ones((1, a)), eye_array(b), format="csr")),
        ):
            row: list[csr_array | None] = [None] * (1 + len(problem.pairs))
            row[0], row[1 + index] = -identity[starts[site] : starts[site + 1]], sums
            grid.append(row)
    matrix = block_array(grid, format="csr")
    equal_to = np.zeros(matrix.shape[0])
    equal_to[: len(sizes)] = 1.0
    return LinearConstraint(matrix, equal_to, equal_to)


def solve(
    problem: Compiled, program: Program, limits: Sequence[float], seconds: float, *, gap: float = 0.0
) -> tuple[list[int] | None, float]:
    """The best options, and a bound that no allocation is below; None where no allocation meets the limits."""
    binaries = len(program.site)
    integrality = np.zeros(len(program.objective), dtype=np.int64)
    integrality[:binaries] = 1
    constraints = list(program.constraints)
    until = time.monotonic() + seconds
    for _ in range(EXCLUSIONS):
        with _stdout_kept():
            found = milp(
                program.objective,
                integrality=integrality,
                bounds=Bounds(0.0, program.upper),
                constraints=constraints,
                options={"mip_rel_gap": gap, "time_limit": max(until - time.monotonic(), 0.1)},
            )
        if found.status == 2:
            return None, math.inf
        if found.x is None:
            break
        picked = [
            int(program.option[program.site == site][found.x[:binaries][program.site == site].argmax()])
            for site in range(len(problem.names))
        ]
        bound = found.fun if found.mip_dual_bound is None else found.mip_dual_bound
        if all(cost <= limit for cost, limit in zip(problem.costs(picked), limits, strict=True)):
            return picked, program.floor + program.unit * float(bound)
        # Within HiGHS's tolerance and yet over a budget: exclude this one allocation and nothing else.
        chosen = np.zeros((1, len(program.objective)))
        chosen[0, :binaries] = program.option == np.asarray(picked)[program.site]
        constraints.append(LinearConstraint(csr_array(chosen), -np.inf, len(picked) - 1.0))
    raise VerificationFailed(
        f"no allocation of {len(problem.names)} sites was verified within {seconds:g} s. "
        "Give more seconds, fewer options, or a wider budget."
    )


@contextmanager
def _stdout_kept() -> Iterator[None]:
    """Keep from stdout the line that HiGHS prints, whatever its options say, when it repairs a solution of its own."""
    flush_c = ctypes.CDLL(None).fflush
    flush_c(None)
    try:
        stdout = os.dup(1)
    except OSError:
        # The process has no stdout.
        yield
        return
    try:
        with Path(os.devnull).open("wb") as sink:
            os.dup2(sink.fileno(), 1)
        yield
    finally:
        flush_c(None)
        os.dup2(stdout, 1)
        os.close(stdout)


def solve_coupled(
    problem: Compiled, limits: Sequence[float], seconds: float, *, gap: float = 0.0
) -> tuple[list[int] | None, float]:
    """Solve over all options at once; None where no allocation meets the limits."""
    program = linearize(problem, problem.possible, limits)
    return (None, math.inf) if program is None else solve(problem, program, limits, seconds, gap=gap)


def _margins(problem: Compiled, limits: Sequence[float]) -> tuple[list[Floats], float]:
    """For every option, by how much a bound on all allocations rises where it is chosen; and that bound.

    For prices p >= 0 of the budgets, sum_s min_o (loss + p . cost)[s, o] - p . limits bounds the loss of every
    allocation of uncoupled sites from below, and choosing option o at site s adds its distance from that minimum.
    """
    width = max(len(mask) for mask in problem.possible)
    loss = np.full((len(problem.names), width), np.inf)
    costs = np.zeros((len(limits), len(problem.names), width))
    for s, mask in enumerate(problem.possible):
        loss[s, : len(mask)] = np.where(mask, problem.losses[s], np.inf)
        costs[:, s, : len(mask)] = problem.unary[s]
    limit = np.asarray(limits, dtype=np.float64)
    prices = _prices(loss, costs, limit)
    priced = loss + np.tensordot(prices, costs, axes=1)
    lowest = priced.min(axis=1, keepdims=True)
    margins = [row[: len(mask)] for row, mask in zip(priced - lowest, problem.possible, strict=True)]
    return margins, float(lowest.sum() - prices @ limit)


def _prices(loss: Floats, costs: Floats, limit: Floats) -> Floats:
    """Prices of the budgets at or near the best bound, by bisection on one after another."""
    prices = np.zeros(len(limit))
    span = float(np.ptp(loss[np.isfinite(loss)])) or 1.0
    sites = np.arange(len(loss))

    def over(k: int, price: float) -> bool:
        prices[k] = price
        picked = (loss + np.tensordot(prices, costs, axes=1)).argmin(axis=1)
        return bool(costs[k, sites, picked].sum() > limit[k])

    for k in list(range(len(limit))) * (1 if len(limit) == 1 else 3):
        if not over(k, 0.0):
            continue
        low, high, growths = 0.0, span / (float(np.ptp(costs[k])) or 1.0), 0
        while over(k, high) and growths < 20:
            low, high, growths = high, 4 * high, growths + 1
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (middle, high) if over(k, middle) else (low, middle)
        prices[k] = high
    return prices


def solve_core(problem: Compiled, limits: Sequence[float], seconds: float) -> tuple[list[int] | None, float]:
    """Solve uncoupled sites over the few options near the bound, then prove that no other option could be better.

    Whatever an allocation gains by an option with margin m, its loss is at least bound + m. So once the best
    allocation among options of margin at most m has a loss of at most bound + m, it is the best of all.
    """
    if not all(mask.any() for mask in problem.possible):
        return None, math.inf
    margins, bound = _margins(problem, limits)
    flat = np.sort(np.concatenate(margins))
    flat = flat[np.isfinite(flat)]
    margin = float(flat[min(len(flat) - 1, 3 * len(margins))])
    while True:
        allowed = [mask & (row <= margin) for mask, row in zip(problem.possible, margins, strict=True)]
        complete = margin >= flat[-1]
        program = linearize(problem, allowed, limits)
        picked, proven = (None, math.inf) if program is None else solve(problem, program, limits, seconds)
        if complete:
            return picked, proven
        if picked is None:
            margin = 4 * margin or float(flat[-1])
            continue
        needed = problem.loss(picked) - bound
        if needed <= margin:
            return picked, proven
        # Wider by small steps: each solve finds a better allocation, after which less is needed.
        margin = min(needed * (1 + 1e-9) + 1e-12 * abs(bound), 2 * margin or math.inf)
