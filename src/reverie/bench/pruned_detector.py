"""A detector of the SSD kind under a latency budget: pruned, measured in ONNX Runtime, its precision before and after.

Scenes are made of the embedded test set, halves of which teach and judge; the detector is trained here first. Units are
ranked by Taylor scores of the detection loss, the plan is exact under the measured budget, and both networks are then
trained for equal steps more.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from reverie.bench.figure import Measured
from reverie.compress.importance import Gates
from reverie.compress.latencies import cost_columns, measure_layers
from reverie.compress.latency_budget import TOLERANCE, meet_latency
from reverie.compress.plan import Plan
from reverie.compress.sites import find_sites
from reverie.compress.study import Solution, study_of
from reverie.core.events import Listener
from reverie.core.network import ImageNetwork
from reverie.core.rng import preserved_rng
from reverie.core.source import Source
from reverie.cost.latency import LatencyTable, measure_networks
from reverie.cost.onnx import export_onnx
from reverie.cost.timing import Timing
from reverie.distill.detector import Scenes, SmallDetector, detector_precision, make_scenes, teach_detector
from reverie.distill.detector.boxes import decode
from reverie.distill.detector.losses import assign_batch, detection_loss
from reverie.graph import cut, probe
from reverie.graph.structure import Structure
from reverie.zoo.datasets import test_set

__all__ = ["Joined", "loss_scores", "pruned_detector"]

SHARE = 0.6
STEPS, MORE_STEPS = 600, 300
SCORED_BATCHES, BATCH = 24, 16


class Joined(nn.Module):
    """A detector whose logits and boxes are one tensor, (n, anchors, classes + 5), for any n, as runtimes like it."""

    def __init__(self, detector: SmallDetector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> Tensor:
        """Logits, then boxes."""
        detector = self.detector
        fine = detector.fine((images - 0.5) / 0.25)
        # The exporter takes `len(images)` for a number, and a shape for what it is.
        rows = [
            head(features).permute(0, 2, 3, 1).reshape(images.shape[0], -1, detector.classes + 5)
            for head, features in zip(detector.heads, (fine, detector.coarse(fine)), strict=True)
        ]
        joined = torch.cat(rows, dim=1)
        return torch.cat([joined[..., :-4], decode(joined[..., -4:], detector.anchors)], dim=-1)


def loss_scores(body: Joined, structure: Structure, scenes: Scenes) -> dict[str, Tensor]:
    """Taylor scores of the detection loss at the gates of all units: group -> (units,)."""
    gates = Gates(body, structure)
    totals = {group.name: torch.zeros(group.units) for group in structure.free}
    for start in range(0, min(SCORED_BATCHES * BATCH, len(scenes)), BATCH):
        images = scenes.images[start : start + BATCH].float() / 255
        assigned = assign_batch(body.detector.anchors, scenes.truths[start : start + BATCH])
        ones = {name: gate.requires_grad_() for name, gate in gates.ones().items()}
        answers = gates(images, ones)
        loss = detection_loss(answers[..., :-4], answers[..., -4:], body.detector.anchors, assigned)
        slopes = torch.autograd.grad(loss, list(ones.values()), allow_unused=True, materialize_grads=True)
        for name, slope in zip(ones, slopes, strict=True):
            totals[name] += slope.square()
    return totals


def pruned_detector(on_event: Listener) -> Mapping[str, Measured]:
    """Average precision of the whole and of the pruned detector, and the share of latency that is left."""
    learned, judged = _scenes(slice(0, 8000), 1500, seed=0), _scenes(slice(8000, 10_000), 500, seed=1)
    with preserved_rng():
        torch.manual_seed(0)
        start = SmallDetector(classes=10, channels=1)
    trained = teach_detector(start, learned, steps=STEPS, on_event=on_event)
    network = ImageNetwork(Joined(trained), image_shape=(1, 96, 96)).eval()
    best = _within_budget(network, learned, on_event)
    body, _ = cut(network.body, probe(network.body, torch.zeros(2, 1, 96, 96)), best.plan.kept)
    if not isinstance(body, Joined):
        raise TypeError("cut returns a network of the type that it was given")
    again = {
        name: teach_detector(one, learned, steps=MORE_STEPS, learning_rate=1e-3, seed=1, on_event=on_event)
        for name, one in {"whole": trained, "pruned": body.detector}.items()
    }
    models = {"teacher": export_onnx(network), "pruned": export_onnx(network.with_body(Joined(again["pruned"])))}
    latency = measure_networks(models, network.image_shape, tolerance=0.004, seconds=20.0)["pruned"]
    low, middle, high = ((latency.ratio_median + side * latency.ratio_error) / SHARE - 1 for side in (-1, 0, 1))
    return {
        "detector-map": Measured(detector_precision(again["pruned"], judged)),
        "detector-map-whole": Measured(detector_precision(again["whole"], judged)),
        "detector-map-cut": Measured(detector_precision(body.detector, judged)),
        "detector-over-budget": Measured(middle, (low, high), "95 % interval"),
    }


def _scenes(part: slice, count: int, *, seed: int) -> Scenes:
    every = test_set("fashion-mnist")
    objects = Source("real", every.images[part], None if every.labels is None else every.labels[part])
    return make_scenes(objects, count=count, seed=seed)


def _within_budget(network: ImageNetwork, scenes: Scenes, on_event: Listener) -> Solution:
    """The plan of least Taylor loss whose measured latency is within the budget."""
    if not isinstance(network.body, Joined):
        raise TypeError("the caller wraps a detector")
    structure = probe(network.body, torch.zeros(2, *network.image_shape))
    scores = loss_scores(network.body, structure, scenes)
    sites, table = find_sites(structure, step=16, least=16), LatencyTable()
    measure_layers(sites, table, on_event=on_event)
    losses = {
        (site, width): float(scores[site].sort().values[: widths[0] - width].sum())
        for site, widths in sites.widths.items()
        for width in widths[1:]
    }
    study = study_of(sites, losses, {"latency": cost_columns(table, {"latency": None})["latency"]}, scores)
    teacher = export_onnx(network)

    def measure(plan: Plan) -> Timing:
        body, _ = cut(network.body, structure, plan.kept)
        models = {"teacher": teacher, "candidate": export_onnx(network.with_body(body))}
        return measure_networks(models, network.image_shape, tolerance=TOLERANCE)["candidate"]

    return meet_latency(study, {"latency": SHARE}, measure, on_event=on_event).solution
