"""Pruning alone: fewer units within measured budgets, and what a cut takes put back without training.

What for: the first half of the main job, for whoever trains by other means, or not at all. What was found out on the
way is handed back as a `Study`, from which other budgets are solved without the network.

Cost: the evidence, one pass of the images per option; a latency table, which is kept; a second per plan measured.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reverie.compress.evidence import option_losses
from reverie.compress.hand_over import count_network
from reverie.compress.importance import Scored, gate_scores, reconstruction_scores
from reverie.compress.kinds import LayerCost
from reverie.compress.latencies import cost_columns, measure_layers
from reverie.compress.limits import UNITS, Limits, limits_of
from reverie.compress.plan import Plan, apply_plan
from reverie.compress.result import Attempted
from reverie.compress.ridge import refit
from reverie.compress.route import example_input, readable
from reverie.compress.sites import Sites, find_sites
from reverie.compress.study import Solution, Study, study_of
from reverie.core.budget import Budget, read_budgets
from reverie.core.counts import check_counts
from reverie.core.edit import Record
from reverie.core.errors import BudgetInfeasible
from reverie.core.events import Event, Listener, silent
from reverie.core.network import ImageNetwork, as_network
from reverie.core.source import Source
from reverie.cost.backend import Backend
from reverie.cost.latency import LatencyTable
from reverie.cost.onnx_runtime import OnnxRuntime
from reverie.cost.timing import Timing
from reverie.distill.batchnorm import batch_norm_layers, reestimate_batch_norm
from reverie.graph import certify, probe
from reverie.graph.structure import Structure

__all__ = ["Importance", "Pruned", "prune"]

# Network, structure, images -> scores of units; such as `gate_scores`.
Importance = Callable[[ImageNetwork, Structure, Source], Mapping[str, Scored]]


@dataclass(frozen=True, eq=False)
class Pruned:
    """A network with fewer units.

    Attributes:
        network: Cut, and compensated where that was asked for.
        plan: What each site keeps.
        record: The edit, ready to replay on the architecture that it began with.
        solution: The allocation behind the plan, with its proof.
        study: What was found out; other budgets are solved from it.
        latency: Measured beside the teacher, or None without a latency budget.
        attempts: Plans that were measured, as shares of the teacher's latency.
    """

    network: ImageNetwork
    plan: Plan
    record: Record
    solution: Solution
    study: Study
    latency: Timing | None
    attempts: tuple[Attempted, ...]


def prune(
    model: nn.Module,
    source: Source,
    *,
    latency: Budget | str | None = None,
    size: Budget | str | None = None,
    macs: Budget | str | None = None,
    importance: Importance | None = None,
    rounds: int = 1,
    compensate: bool = True,
    backend: Backend | None = None,
    table: LatencyTable | None = None,
    step: int = 16,
    most: int | None = 16,
    on_event: Listener = silent,
) -> Pruned:
    """Take units out of a network within budgets, without training it.

    Args:
        model: A classifier of images; untouched.
        source: Images, a few hundred: dreams, your own, or noise. Labels are not read.
        latency: Budget of one image's time in the backend: `"60%"` of the given network's, or `"4ms"`.
        size: Budget of the weights: `"50%"` or `"1MB"`.
        macs: Budget of multiply-adds: `"50%"` or `"20MMAC"`.
        importance: Which units go first; None takes `gate_scores`, and where the cut is compensated
            `reconstruction_scores`, but for units that no plain product reads.
        rounds: How often evidence is gathered. With several, budgets fall exponentially, and each round but the first
            ranks units and measures options on what the round before left, compensated where that is asked for.
        compensate: Whether layers are fitted anew and batch-norm statistics counted anew; see `refit`.
        backend: The runtime; None is ONNX Runtime on one thread.
        table: Its latency table; None measures what is needed and keeps it in memory.
        step: As for `find_sites`.
        most: As for `find_sites`.
        on_event: Called with every step of every stage.

    Raises:
        RangeError: No budget is given, fewer rounds than 1, or fewer images than 2.
        BudgetInfeasible: No plan meets a budget, or none is faster than the given network.
        ShapeError: The images do not fit the network.
        UnsupportedOp: The network is not on the CPU.

    Example:
        >>> from reverie.core.source import noise_source
        >>> body = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 4))
        >>> source = noise_source(count=32, image_shape=(1, 8, 8), seed=0)
        >>> prune(ImageNetwork(body, image_shape=(1, 8, 8)), source, macs="70%", step=2).solution.shares["macs"] <= 0.7
        True

    Fails when: the images say nothing about the network, as noise does; look at agreement on images that chose nothing.
    """
    budgets = read_budgets(latency=latency, size=size, macs=macs)
    check_counts(rounds=rounds)
    work = _work(readable(model, source), source, importance, compensate=compensate, step=step, most=most)
    runtime = backend or (OnnxRuntime() if table is None else table.backend)
    table = table or LatencyTable(backend=runtime)
    if "latency" in budgets:
        measure_layers(work.sites, table, on_event=on_event)
    limits = limits_of(work.network, work.structure, budgets, count_network(work.network), runtime)
    study = _studied(work, cost_columns(table, budgets), limits, rounds=rounds, on_event=on_event)
    return _pruned(work, study, limits, on_event)


def _pruned(work: "_Work", study: Study, limits: Limits, on_event: Listener) -> Pruned:
    """Meet the budgets; refuse what is not faster where that was asked for."""
    solution, met = limits.meet(study, on_event=on_event)
    if met is not None and met.timing.ratio_median + met.timing.ratio_error >= 1:
        raise BudgetInfeasible(
            f"the best plan measures {met.timing.ratio_median:.1%} of the given network's latency in "
            f"{limits.backend.name}, which is not faster, so nothing was changed. Give a lower budget; this network "
            "may be too small to gain.",
            cheapest=met.timing.ratio_median * limits.whole["latency"],
            budget="latency",
        )
    pruned, record = work.applied(solution.plan, on_event)
    if met is None:
        return Pruned(pruned, solution.plan, record, solution, study, None, ())
    measured = study.calibrated("latency", [(turn.predicted, turn.measured) for turn in met.attempts])
    return Pruned(pruned, solution.plan, record, solution, measured, met.timing, met.attempts)


def _work(
    network: ImageNetwork,
    source: Source,
    importance: Importance | None,
    *,
    compensate: bool,
    step: int,
    most: int | None,
) -> "_Work":
    ranking = importance or (_missed_after_refit if compensate else gate_scores)
    example = example_input(network)
    structure = certify(network.body, probe(network.body, example), example)
    return _Work(network, structure, find_sites(structure, step=step, most=most), source, ranking, compensate)


def _missed_after_refit(network: ImageNetwork, structure: Structure, source: Source) -> Mapping[str, Scored]:
    """What no refit gives back, and gates where that cannot be asked; scores are compared within a group alone."""
    found = reconstruction_scores(network, structure, source)
    if all(group.name in found for group in structure.free):
        return found
    return {**gate_scores(network, structure, source), **found}


@dataclass(frozen=True, eq=False)
class _Work:
    """What is pruned, and by what evidence."""

    network: ImageNetwork
    structure: Structure
    sites: Sites
    source: Source
    importance: Importance
    compensate: bool

    def applied(self, plan: Plan, on_event: Listener) -> tuple[ImageNetwork, Record]:
        """What a plan leaves, compensated where that was asked for."""
        pruned, record = apply_plan(self.network, self.structure, plan)
        if self.compensate:
            pruned = refit(self.network, pruned, record, self.source, on_event=on_event)
            if batch_norm_layers(pruned):
                pruned = as_network(reestimate_batch_norm(pruned, self.source))
        return pruned, record


def _studied(
    work: _Work,
    columns: Mapping[str, LayerCost],
    limits: Limits,
    *,
    rounds: int,
    on_event: Listener,
) -> Study:
    """Evidence of the last round; those before it lead towards the limits, exponentially."""
    # Minutes in a large network, of which a kind of evidence says nothing by itself.
    on_event(Event("ranking units", 0, 1))
    scores = {group: one.value for group, one in work.importance(work.network, work.structure, work.source).items()}
    on_event(Event("ranking units", 1, 1))
    around: Mapping[str, int] = {}
    turn = 0
    while True:
        turn += 1
        losses, errors = option_losses(work.network, work.sites, scores, work.source, around=around, on_event=on_event)
        study = study_of(work.sites, losses, columns, scores, errors=errors, units=UNITS)
        study = study.counted({"size": limits.whole["size"], "macs": limits.whole["macs"]})
        if turn >= rounds:
            return study
        found = study.solve({name: share ** (turn / rounds) for name, share in limits.shares.items()}, gap=1e-4)
        scores, around = _scored_again(work, found.plan, scores, on_event), found.widths


def _scored_again(work: _Work, plan: Plan, scores: Mapping[str, Tensor], on_event: Listener) -> dict[str, Tensor]:
    """Scores of the units that a plan leaves, in the network that it leaves; those that went come last."""
    left, _ = work.applied(plan, on_event)
    example = example_input(left)
    fresh = work.importance(left, certify(left.body, probe(left.body, example), example), work.source)
    again = dict(scores)
    for group, before in scores.items():
        units = plan.kept.get(group, range(len(before)))
        # A group may have lost its name with a block that was bypassed; its units stay as they were ranked.
        if group in fresh and len(fresh[group].value) == len(units):
            values = fresh[group].value
            ranked = torch.full(before.shape, float(values.min()) - 1, dtype=values.dtype)
            ranked[list(units)] = values
            again[group] = ranked
    return again
