"""From images to a taught network: rank units, measure options, meet the budget, teach. One route per source.

The same route is walked with dreams, with images that a user gives, and with noise; nothing in it asks which.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from reverie.compress.evidence import option_losses, taylor_scores
from reverie.compress.features import matching_features
from reverie.compress.latencies import cost_columns
from reverie.compress.limits import UNITS, limits_of
from reverie.compress.plan import Plan, apply_plan
from reverie.compress.result import Attempted, Decision
from reverie.compress.sites import Sites
from reverie.compress.study import Study, study_of
from reverie.core.budget import Budget, Quantity
from reverie.core.digest import sha256_network
from reverie.core.edit import Record
from reverie.core.errors import UnsupportedOp
from reverie.core.events import Listener
from reverie.core.network import ImageNetwork, as_network
from reverie.core.run_folder import RunFolder
from reverie.core.source import Source
from reverie.cost.count import Count
from reverie.cost.latency import LatencyTable
from reverie.cost.onnx import export_onnx
from reverie.cost.onnx_runtime import OnnxRuntime
from reverie.distill import distill, same_layers
from reverie.graph.structure import Structure

__all__ = ["Route", "Task", "example_input", "make_route", "readable"]

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
        measured: Share of the teacher's latency that the plan was chosen for, or None without a latency budget.
        study: Everything that the plan was chosen from.
    """

    source: Source
    plan: Plan
    record: Record
    network: ImageNetwork
    onnx: bytes
    decisions: tuple[Decision, ...]
    attempts: tuple[Attempted, ...]
    measured: float | None
    study: Study


def make_route(source: Source, task: Task, *, role: str) -> Route:
    """Walk the route with one source; stages are kept under the role of what comes out."""
    evidence = task.run.stage(f"evidence-{role}", lambda: _gather_evidence(source, task))
    study = _study(evidence, task, source)
    chosen = task.run.stage(f"plan-{role}", lambda: _choose(study, task))
    plan = Plan.from_json(chosen["plan"])
    attempts = tuple(Attempted(**attempt) for attempt in chosen["attempts"])
    student, record = apply_plan(task.network, task.structure, plan)
    example = example_input(task.network)
    features = matching_features(task.network.body, student.body, task.structure, plan, example)
    taught = task.run.timed(
        f"teaching-{role}",
        lambda: distill(
            task.network,
            student,
            source,
            matches=same_layers({f"body.{name}": kept for name, kept in features.items()}),
            steps=task.teach_steps,
            seed=task.seed,
            checkpoint=task.run.file(f"stages/teaching-{role}.safetensors"),
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
        attempts,
        chosen["measured"],
        study.calibrated("latency", [(turn.predicted, turn.measured) for turn in attempts]) if attempts else study,
    )


def example_input(network: ImageNetwork) -> Tensor:
    """Two black images as the body sees them."""
    return (torch.zeros(2, *network.image_shape) - network.mean) / network.std


def readable(model: nn.Module, *sources: Source | None) -> ImageNetwork:
    """The network, that all images fit, where evidence can be gathered.

    Raises:
        ShapeError: The model does not classify images, or images do not fit it.
        UnsupportedOp: The network is not on the CPU.
    """
    network = as_network(model)
    elsewhere = next((one.device for one in network.state_dict().values() if one.device.type != "cpu"), None)
    if elsewhere is not None:
        raise UnsupportedOp(f"the network is on {elsewhere}, and evidence is gathered on the CPU; move it with .cpu()")
    for source in sources:
        if source is not None:
            network.check_images(source.images)
    return network


def _gather_evidence(source: Source, task: Task) -> dict[str, Any]:
    """Scores of all units, and the loss of every option alone, as a JSON value."""
    scores = taylor_scores(task.network, task.structure, source, seed=task.seed, on_event=task.on_event)
    losses, errors = option_losses(task.network, task.sites, scores, source, on_event=task.on_event)
    return {
        "scores": {group: values.tolist() for group, values in scores.items()},
        "changes": [
            {"site": site, "width": width, "nats": nats, "standard_error": errors[site, width]}
            for (site, width), nats in losses.items()
        ],
    }


def _study(evidence: Mapping[str, Any], task: Task, source: Source) -> Study:
    """What was found out, in the one form that plans are solved from."""
    changes = evidence["changes"]
    study = study_of(
        task.sites,
        {(change["site"], change["width"]): change["nats"] for change in changes},
        cost_columns(task.table, task.budgets),
        {group: torch.tensor(values) for group, values in evidence["scores"].items()},
        errors={(change["site"], change["width"]): change["standard_error"] for change in changes},
        units=UNITS,
        about={"images": source.name, "weights_sha256": sha256_network(task.network)},
    )
    return study.counted({"size": task.counted.size_bytes, "macs": task.counted.macs})


def _choose(study: Study, task: Task) -> dict[str, Any]:
    """The plan that loses least within the budgets, as a JSON value with the attempts that led to it."""
    runtime = OnnxRuntime(threads=task.threads)
    limits = limits_of(task.network, task.structure, task.budgets, task.counted, runtime, onnx=task.onnx)
    solution, met = limits.meet(study, margin=MARGIN, on_event=task.on_event)
    return {
        "plan": solution.plan.to_json(),
        "widths": dict(solution.widths),
        "attempts": [] if met is None else [asdict(attempt) for attempt in met.attempts],
        "measured": None if met is None else met.measured,
    }


def _decisions(evidence: Mapping[str, Any], widths: Mapping[str, int], sites: Sites) -> tuple[Decision, ...]:
    changes = {(change["site"], change["width"]): change for change in evidence["changes"]}
    made = []
    for site, options in sites.widths.items():
        change = changes.get((site, widths[site]), {"nats": 0.0, "standard_error": 0.0})
        made.append(Decision(site, options[0], widths[site], change["nats"], change["standard_error"]))
    return tuple(made)
