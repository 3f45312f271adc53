"""Pruning alone: fewer units within measured budgets, and what a cut takes put back without training.

What for: the first half of the main job, for whoever trains by other means, or not at all. What was found out on the
way is handed back as a `Study`, from which other budgets are solved without the network.

Cost: the evidence, one pass of the images per option; a latency table, which is kept; a second per plan measured.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from reverie.compress.closed_loop import meet_budget
from reverie.compress.evidence import loss_change, reference_logits
from reverie.compress.importance import Scored, gate_scores
from reverie.compress.latencies import cost_columns, measure_layers
from reverie.compress.plan import Plan
from reverie.compress.result import Attempted
from reverie.compress.ridge import refit
from reverie.compress.sites import Sites, find_sites
from reverie.compress.study import Solution, Study, study_of
from reverie.core.budget import Budget, Quantity
from reverie.core.edit import Record
from reverie.core.errors import BudgetInfeasible, RangeError
from reverie.core.events import Event, Listener, silent
from reverie.core.network import ImageNetwork, as_network
from reverie.core.source import Source
from reverie.cost.backend import Backend, Servable
from reverie.cost.count import Count, count
from reverie.cost.latency import LatencyTable, measure_networks
from reverie.cost.onnx import export_onnx
from reverie.cost.onnx_runtime import OnnxRuntime
from reverie.cost.predictor import fit_predictor
from reverie.cost.timing import Timing
from reverie.distill.batchnorm import batch_norm_layers, reestimate_batch_norm
from reverie.graph import bypass, certify, cut, probe
from reverie.graph.structure import Structure

__all__ = ["Importance", "Pruned", "option_losses", "prune"]

# Network, structure, images -> scores of units; such as `gate_scores`.
Importance = Callable[[ImageNetwork, Structure, Source], Mapping[str, Scored]]

# A plan is measured until the interval of its ratio is within this share of it, and aimed at this share under the
# budget, so that it is within the budget when it is measured again.
TOLERANCE, MARGIN = 0.005, 0.012
PROBED_IMAGES = 128


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
    importance: Importance = gate_scores,
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
        importance: Which units go first.
        compensate: Whether layers are fitted anew and batch-norm statistics counted anew; see `refit`.
        backend: The runtime; None is ONNX Runtime on one thread.
        table: Its latency table; None measures what is needed and keeps it in memory.
        step: As for `find_sites`.
        most: As for `find_sites`.
        on_event: Called with every step of every stage.

    Raises:
        RangeError: No budget is given.
        BudgetInfeasible: No plan meets a budget, or none is faster than the given network.
        ShapeError: The images do not fit the network.

    Fails when: the images say nothing about the network, as noise does; look at agreement on images that chose nothing.
    """
    budgets = _budgets(latency=latency, size=size, macs=macs)
    network = as_network(model)
    network.check_images(source.images)
    example = (torch.zeros(2, *network.image_shape) - network.mean) / network.std
    structure = certify(network.body, probe(network.body, example), example)
    sites = find_sites(structure, step=step, most=most)
    counted = count(network, torch.zeros(1, *network.image_shape))
    runtime = backend or (OnnxRuntime() if table is None else table.backend)
    if "latency" in budgets:
        table = table or LatencyTable(backend=runtime)
        measure_layers(sites, table, on_event=on_event)
    scores = {group: one.value for group, one in importance(network, structure, source).items()}
    losses, errors = option_losses(network, sites, scores, source, on_event=on_event)
    units = {"latency": "ms", "macs": "MAC", "size": "byte"}
    study = study_of(sites, losses, cost_columns(table, budgets), scores, errors=errors, units=units)
    study = _counted(study, counted)
    attempts: list[Attempted] = []
    timing: Timing | None
    if "latency" not in budgets:
        solution, timing = study.solve(_shares(budgets, counted)), None
    else:
        solution, attempts, timing = _meet(network, structure, study, budgets, counted, runtime, on_event)
    pruned, record = _apply(network, structure, solution.plan)
    if compensate:
        pruned = refit(network, pruned, record, source, on_event=on_event)
        if batch_norm_layers(pruned):
            pruned = as_network(reestimate_batch_norm(pruned, source))
    return Pruned(pruned, solution.plan, record, solution, study, timing, tuple(attempts))


def option_losses(
    network: ImageNetwork,
    sites: Sites,
    scores: Mapping[str, Tensor],
    source: Source,
    *,
    images: int = PROBED_IMAGES,
    on_event: Listener = silent,
) -> tuple[dict[tuple[str, int], float], dict[tuple[str, int], float]]:
    """What each option alone does to the network's answers, in nats, and the standard error of that.

    Args:
        network: Untouched.
        sites: Its options.
        scores: Group -> (units,): which units a width leaves out.
        source: Images.
        images: How many are used at most.
        on_event: Called with the stage "measuring options".

    Reference: Cai et al. (ZeroQ), 2020, arXiv:2001.00281, for the divergence of one choice alone.
    """
    probed = Source(source.name, source.images[:images])
    answers = reference_logits(network, probed)
    losses, errors = {}, {}
    options = sites.options()
    for index, (site, width) in enumerate(options):
        edited, _ = _apply(network, sites.structure, sites.plan({site: width}, scores))
        change = loss_change(answers, edited, probed)
        losses[site, width], errors[site, width] = change.nats, change.standard_error
        on_event(Event("measuring options", index + 1, len(options)))
    return losses, errors


def _budgets(**given: Budget | str | None) -> dict[Quantity, Budget]:
    quantities: dict[str, Quantity] = {"latency": "latency", "size": "size", "macs": "macs"}
    found = {
        quantities[name]: Budget.parse(one, quantities[name]) if isinstance(one, str) else one
        for name, one in given.items()
        if one is not None
    }
    if not found:
        raise RangeError('nothing to meet: give at least one budget, such as latency="60%"')
    return found


def _apply(network: ImageNetwork, structure: Structure, plan: Plan) -> tuple[ImageNetwork, Record]:
    body, kept = cut(network.body, structure, plan.kept)
    body, bypassed = bypass(body, structure, plan.bypassed)
    return network.with_body(body), kept + bypassed


def _counted(study: Study, counted: Count) -> Study:
    """Shares of size and multiply-adds refer to the whole network, of which the columns may leave out some."""
    predictors = dict(study.predictors)
    for column, whole in (("size", counted.size_bytes), ("macs", counted.macs)):
        if column in study.columns and whole > 0:
            scale = study.problem.whole(column) / whole
            predictors[column] = fit_predictor([], overhead=max(1 - scale, 0.0))
    return replace(study, predictors=predictors)


def _shares(budgets: Mapping[Quantity, Budget], counted: Count) -> dict[str, float]:
    whole = {"size": float(counted.size_bytes), "macs": float(counted.macs)}
    return {
        quantity: budget.limit(whole[quantity]) / whole[quantity]
        for quantity, budget in budgets.items()
        if quantity != "latency"
    }


def _meet(
    network: ImageNetwork,
    structure: Structure,
    study: Study,
    budgets: Mapping[Quantity, Budget],
    counted: Count,
    backend: Backend,
    on_event: Listener,
) -> tuple[Solution, list[Attempted], Timing]:
    """Solve and measure until the latency is within its budget."""

    def served(one: ImageNetwork) -> Servable:
        return one if backend.name in ("torch", "torch-compile", "cuda") else export_onnx(one)

    teacher = served(network)
    alone = measure_networks({"teacher": teacher}, network.image_shape, backend=backend)["teacher"]
    share = budgets["latency"].limit(alone.median_ms) / alone.median_ms
    others = _shares(budgets, counted)
    timings: dict[str, Timing] = {}

    def solve(limit: float) -> tuple[Solution, float]:
        found = study.solve({**others, "latency": limit}, gap=1e-4)
        return found, found.shares["latency"]

    def measure(solution: Solution) -> float:
        candidate, _ = _apply(network, structure, solution.plan)
        models = {"teacher": teacher, "candidate": served(candidate)}
        timing = measure_networks(models, network.image_shape, backend=backend, tolerance=TOLERANCE)["candidate"]
        timings[solution.plan.digest()] = timing
        on_event(Event("measuring plans", len(timings), len(timings) + 1, {"latency_share": timing.ratio_median}))
        return timing.ratio_median

    target = share * (1 - MARGIN)
    best, attempts = meet_budget(solve, measure, budget=target, first_limit=target, tolerance=0.015)
    timing = timings[best.solution.plan.digest()]
    if timing.ratio_median + timing.ratio_error >= 1:
        raise BudgetInfeasible(
            f"the best plan measures {timing.ratio_median:.1%} of the given network's latency in {backend.name}, which "
            "is not faster, so nothing was changed. Give a lower budget; this network may be too small to gain.",
            cheapest=timing.ratio_median,
            budget="latency",
        )
    on_event(Event("measuring plans", len(timings), len(timings)))
    return best.solution, [Attempted(one.predicted, one.measured) for one in attempts], timing
