"""From images to a taught network: rank units, measure options, meet the budget, teach. One route per source.

The same route is walked with dreams, with images that a user gives, and with noise; nothing in it asks which.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from reverie.compress.evidence import loss_change, reference_logits, taylor_scores
from reverie.compress.features import matching_features
from reverie.compress.latencies import cost_columns
from reverie.compress.latency_budget import TOLERANCE, Met, meet_latency
from reverie.compress.plan import Plan
from reverie.compress.result import Attempted, Decision
from reverie.compress.sites import Sites
from reverie.compress.study import Study, study_of
from reverie.core.budget import Budget, Quantity
from reverie.core.digest import sha256_tensors
from reverie.core.edit import Record
from reverie.core.errors import BudgetInfeasible
from reverie.core.events import Event, Listener
from reverie.core.network import ImageNetwork
from reverie.core.run_folder import RunFolder
from reverie.core.source import Source
from reverie.cost.count import Count
from reverie.cost.latency import LatencyTable, measure_networks
from reverie.cost.onnx import export_onnx
from reverie.cost.timing import Timing
from reverie.distill import distill, same_layers
from reverie.graph import bypass, cut
from reverie.graph.structure import Structure

__all__ = ["Route", "Task", "apply_plan", "example_input", "make_route"]

PROBED_IMAGES = 128
# Kept free of the budget: the network is measured once more, after it was taught, on all threads, and there two
# measurements minutes apart differ by 1 to 2 %.
MARGIN = 0.02


@dataclass(frozen=True, eq=False)
class Task:
    """What is asked for, and what is known before any image is looked at.

    Attributes:
        network: The teacher.
        onnx: The teacher for ONNX Runtime.
        structure: Of `network.body`, certified.
        sites: Where something can be decided.
        table: Measured layer latencies, where latency has a budget.
        budgets: Quantity -> its upper limit.
        counted: The teacher's multiply-adds and bytes.
        run: Where stages are kept.
        threads: Of ONNX Runtime.
        teach_steps: Training steps.
        seed: Decides all random choices.
        on_event: Listener.
    """

    network: ImageNetwork
    onnx: bytes
    structure: Structure
    sites: Sites
    table: LatencyTable | None
    budgets: Mapping[Quantity, Budget]
    counted: Count
    run: RunFolder
    threads: int
    teach_steps: int
    seed: int
    on_event: Listener


@dataclass(frozen=True, eq=False)
class Route:
    """A network that was made from one source of images, and how.

    Attributes:
        source: The images.
        plan: What each site keeps.
        record: The edit of `network.body`.
        network: Cut and taught.
        onnx: The same for ONNX Runtime.
        decisions: The plan with its evidence.
        attempts: The closed loop.
        study: Everything that the plan was chosen from.
    """

    source: Source
    plan: Plan
    record: Record
    network: ImageNetwork
    onnx: bytes
    decisions: tuple[Decision, ...]
    attempts: tuple[Attempted, ...]
    study: Study


def make_route(source: Source, task: Task) -> Route:
    """Walk the route with one source."""
    evidence = task.run.stage(f"evidence-{source.name}", lambda: _gather_evidence(source, task))
    study = _study(evidence, task, source)
    chosen = task.run.stage(f"plan-{source.name}", lambda: _choose(study, task))
    plan = Plan.from_json(chosen["plan"])
    student, record = apply_plan(task.network, task.structure, plan)
    example = example_input(task.network)
    features = matching_features(task.network.body, student.body, task.structure, plan, example)
    taught = task.run.timed(
        f"teaching-{source.name}",
        lambda: distill(
            task.network,
            student,
            source,
            matches=same_layers({f"body.{name}": kept for name, kept in features.items()}),
            steps=task.teach_steps,
            seed=task.seed,
            checkpoint=task.run.file(f"stages/teaching-{source.name}.safetensors"),
            on_event=task.on_event,
        ),
    )
    network = taught.student
    if not isinstance(network, ImageNetwork):
        raise TypeError("distill returns a network of the type that it was given")
    return Route(
        source,
        plan,
        record,
        network,
        export_onnx(network),
        _decisions(evidence, chosen["widths"], task.sites),
        tuple(Attempted(**attempt) for attempt in chosen["attempts"]),
        study,
    )


def apply_plan(network: ImageNetwork, structure: Structure, plan: Plan) -> tuple[ImageNetwork, Record]:
    """Cut and bypass what a plan says, in a copy; the record replays it on `network.body`."""
    body, kept = cut(network.body, structure, plan.kept)
    body, bypassed = bypass(body, structure, plan.bypassed)
    return network.with_body(body), kept + bypassed


def example_input(network: ImageNetwork) -> Tensor:
    """Two black images as the body sees them."""
    return (torch.zeros(2, *network.image_shape) - network.mean) / network.std


def _gather_evidence(source: Source, task: Task) -> dict[str, Any]:
    """Scores of all units, and the loss of every option alone, as a JSON value."""
    scores = taylor_scores(task.network, task.structure, source, seed=task.seed, on_event=task.on_event)
    probed = Source(source.name, source.images[:PROBED_IMAGES])
    teacher_logits = reference_logits(task.network, probed)
    options = task.sites.options()
    changes = []
    for index, (site, width) in enumerate(options):
        edited, _ = apply_plan(task.network, task.structure, task.sites.plan({site: width}, scores))
        change = loss_change(teacher_logits, edited, probed)
        changes.append({"site": site, "width": width, **asdict(change)})
        task.on_event(Event(f"measuring options on {source.name}", index + 1, len(options)))
    return {"scores": {group: values.tolist() for group, values in scores.items()}, "changes": changes}


def _study(evidence: Mapping[str, Any], task: Task, source: Source) -> Study:
    """What was found out, in the one form that plans are solved from."""
    changes = evidence["changes"]
    study = study_of(
        task.sites,
        {(change["site"], change["width"]): change["nats"] for change in changes},
        cost_columns(task.table, task.budgets),
        {group: torch.tensor(values) for group, values in evidence["scores"].items()},
        errors={(change["site"], change["width"]): change["standard_error"] for change in changes},
        units={"latency": "ms", "macs": "MAC", "size": "byte"},
        about={"images": source.name, "weights_sha256": sha256_tensors(task.network.state_dict())},
    )
    return study.counted({"size": task.counted.size_bytes, "macs": task.counted.macs})


def _choose(study: Study, task: Task) -> dict[str, Any]:
    """The plan that loses least within the budgets, as a JSON value with the attempts that led to it."""
    whole: dict[Quantity, float] = {"size": task.counted.size_bytes, "macs": task.counted.macs}
    shares: dict[str, float] = {
        quantity: task.budgets[quantity].limit(whole[quantity]) / whole[quantity]
        for quantity in whole
        if quantity in task.budgets
    }
    attempts: tuple[Attempted, ...] = ()
    if "latency" in task.budgets:
        met = _meet_latency(study, shares, task)
        solution, attempts = met.solution, met.attempts
    else:
        try:
            solution = study.solve(shares)
        except BudgetInfeasible as infeasible:
            raise _unreachable(infeasible, task, whole) from infeasible
    return {
        "plan": solution.plan.to_json(),
        "widths": dict(solution.widths),
        "attempts": [asdict(attempt) for attempt in attempts],
    }


def _unreachable(infeasible: BudgetInfeasible, task: Task, whole: Mapping[Quantity, float]) -> BudgetInfeasible:
    """The error for a counted budget, in the words of who asked for it."""
    quantity = next(one for one in task.budgets if one == infeasible.budget)
    cheapest = infeasible.cheapest * whole[quantity]
    return BudgetInfeasible(
        f"cannot reach a budget of {task.budgets[quantity]} for {quantity}: the cheapest network that this one can "
        f"be cut to has {cheapest:.4g} of the teacher's {whole[quantity]:.4g}, which is "
        f"{infeasible.cheapest:.1%}. Raise the budget.",
        cheapest=cheapest,
        budget=quantity,
    )


def _meet_latency(study: Study, shares: Mapping[str, float], task: Task) -> Met:
    """Solve and measure until the latency is within its budget; attempts are shares of the teacher's latency."""
    teacher_ms = measure_networks({"teacher": task.onnx}, task.network.image_shape, threads=task.threads)["teacher"]
    budget = task.budgets["latency"].limit(teacher_ms.median_ms) / teacher_ms.median_ms

    def measure(plan: Plan) -> Timing:
        network, _ = apply_plan(task.network, task.structure, plan)
        models = {"teacher": task.onnx, "candidate": export_onnx(network)}
        timings = measure_networks(models, task.network.image_shape, threads=task.threads, tolerance=TOLERANCE)
        return timings["candidate"]

    try:
        return meet_latency(study, {**shares, "latency": budget}, measure, margin=MARGIN, on_event=task.on_event)
    except BudgetInfeasible as infeasible:
        whole: dict[Quantity, float] = {"size": task.counted.size_bytes, "macs": task.counted.macs}
        if infeasible.budget in whole:
            raise _unreachable(infeasible, task, whole) from infeasible
        raise BudgetInfeasible(
            f"cannot reach a latency of {task.budgets['latency']}: the cheapest network that this one can be cut to "
            f"measures {infeasible.cheapest:.1%} of the teacher's {teacher_ms.median_ms:.3g} ms, which is "
            f"{infeasible.cheapest * teacher_ms.median_ms:.3g} ms. Raise the budget.",
            cheapest=infeasible.cheapest * teacher_ms.median_ms,
            budget="latency",
        ) from infeasible


def _decisions(evidence: Mapping[str, Any], widths: Mapping[str, int], sites: Sites) -> tuple[Decision, ...]:
    changes = {(change["site"], change["width"]): change for change in evidence["changes"]}
    made = []
    for site, options in sites.widths.items():
        change = changes.get((site, widths[site]), {"nats": 0.0, "standard_error": 0.0})
        made.append(Decision(site, options[0], widths[site], change["nats"], change["standard_error"]))
    return tuple(made)
