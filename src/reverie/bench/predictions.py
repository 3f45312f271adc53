"""Figures of latency: tables, predictions for networks that were not measured, budgets met when measured."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from reverie.bench.allocations import resnet50_structure
from reverie.bench.figure import Measured
from reverie.compress.importance import magnitude_scores
from reverie.compress.kinds import is_kind, offered, parted
from reverie.compress.latencies import cost_columns, layer_shape, measure_layers
from reverie.compress.latency_budget import TOLERANCE, meet_latency
from reverie.compress.plan import Plan, apply_plan
from reverie.compress.sites import Sites, find_sites
from reverie.compress.study import Study, study_of
from reverie.core.events import Event, Listener
from reverie.core.network import ImageNetwork
from reverie.core.rng import preserved_rng
from reverie.cost.backend import Backend
from reverie.cost.backends import backend_of
from reverie.cost.latency import LatencyTable, measure_networks
from reverie.cost.onnx import export_onnx
from reverie.cost.predictor import fit_predictor
from reverie.cost.timing import Timing
from reverie.graph import probe
from reverie.graph.structure import Structure
from reverie.zoo.load import load
from reverie.zoo.networks import CifarResNet

__all__ = ["budgets_met", "predictions", "table_time"]

Run = Callable[[Listener], Mapping[str, Measured]]

NETWORKS = ("zoo:cifar10-resnet20", "zoo:cifar10-vgg", "zoo:fashion-resnet20", "zoo:fashion-vgg", "resnet56")
SHARES = (0.85, 0.7, 0.6, 0.5)
FORETOLD, HELD_OUT = ("zoo:cifar10-resnet20", "zoo:fashion-vgg"), 12


def table_time(on_event: Listener) -> Mapping[str, Measured]:
    """A table for ResNet-50 at 224x224 in ONNX Runtime, 16 widths per site."""
    sites = find_sites(resnet50_structure(), step=16, most=16)
    table = LatencyTable()
    began = time.monotonic()
    measure_layers(sites, table, on_event=on_event)
    return {"table-time-resnet50": Measured(time.monotonic() - began)}


@dataclass(frozen=True, eq=False)
class _Subject:
    """A network whose latency is asked for, with a table of one runtime."""

    network: ImageNetwork
    structure: Structure
    sites: Sites
    runtime: Backend
    table: LatencyTable
    teacher: bytes
    scores: Mapping[str, Tensor]

    @staticmethod
    def of(name: str, backend: str, on_event: Listener, *, offer: Sequence[str] = ()) -> "_Subject":
        network = _network(name)
        example = torch.zeros(2, *network.image_shape)
        structure = probe(network.body, example)
        more = offered(offer, network.body, structure, example)
        sites, runtime = find_sites(structure, step=16, more=more), backend_of(backend)
        table = LatencyTable(backend=runtime)
        measure_layers(sites, table, on_event=on_event)
        scores = {group: one.value for group, one in magnitude_scores(network, structure).items()}
        return _Subject(network, structure, sites, runtime, table, export_onnx(network), scores)

    def summed(self, counts: Mapping[str, int]) -> float:
        shapes = (layer_shape(layer, *layer.widths(counts)) for layer in self.structure.layers)
        return sum(self.table.latency(shape).ratio for shape in shapes)

    def measured(self, plan: Plan, *, seconds: float = 10.0) -> Timing:
        candidate, _ = apply_plan(self.network, self.structure, plan)
        models = {"teacher": self.teacher, "candidate": export_onnx(candidate)}
        shape, runtime = self.network.image_shape, self.runtime
        timings = measure_networks(models, shape, backend=runtime, tolerance=TOLERANCE, seconds=seconds)
        return timings["candidate"]

    def study(self) -> Study:
        losses = {(site, width): self._left_out(site, width) for site, width in self.sites.options()}
        return study_of(
            self.sites, losses, {"latency": cost_columns(self.table, {"latency": None})["latency"]}, self.scores
        )

    def _left_out(self, site: str, width: int) -> float:
        """Sum of squares of the weights that an option leaves out, of units or of singular vectors."""
        if is_kind(site):
            weight = self.network.body.get_submodule(parted(site)[1]).get_parameter("weight")
            return float(torch.linalg.svdvals(weight.detach().flatten(1))[width:].square().sum())
        units = self.sites.widths[site][0]
        return float(self.scores[site].sort().values[: units - width].square().sum())


def _network(name: str) -> ImageNetwork:
    """A network of the zoo, or an untrained one, whose latency is as good."""
    if name != "resnet56":
        return load(name)
    with preserved_rng():
        torch.manual_seed(0)
        return ImageNetwork(CifarResNet(blocks=9), image_shape=(3, 32, 32)).eval()


def predictions(backend: str) -> Run:
    """Errors of predicted shares of latency, over random plans of two networks that nothing was fitted to."""

    def run(on_event: Listener) -> Mapping[str, Measured]:
        errors: list[float] = []
        for at, name in enumerate(FORETOLD):
            subject = _Subject.of(name, backend, on_event)
            rng = np.random.default_rng(at)
            whole, call = subject.summed({}), subject.table.overhead()
            predictor = fit_predictor([], overhead=call / (whole + call))
            for _ in range(HELD_OUT):
                least = rng.uniform(0.2, 0.9)
                widths = {
                    site: int(rng.choice([one for one in options if one >= least * options[0]]))
                    for site, options in subject.sites.widths.items()
                }
                found = subject.measured(subject.sites.plan(widths, subject.scores), seconds=3.0).ratio_median
                errors.append(abs(predictor.share(subject.summed(widths) / whole) / found - 1))
                on_event(Event("held-out plans", len(errors), 2 * HELD_OUT))
        return {
            f"prediction-median-{backend}": Measured(float(np.median(errors)), (min(errors), max(errors)), "range"),
            f"prediction-p95-{backend}": Measured(float(np.percentile(errors, 95))),
        }

    return run


def budgets_met(backend: str) -> Run:
    """Share of runs, networks times budgets, whose measured latency is from 3 % under the budget up to it.

    Channels, bypassed blocks and ranks are offered. Ranking and losses come from magnitudes, which is enough to ask
    whether a latency is met. The plan is measured once more, longer, after the loop has ended, and that measurement
    counts.
    """

    def run(on_event: Listener) -> Mapping[str, Measured]:
        reached: list[float] = []
        for name in NETWORKS:
            subject = _Subject.of(name, backend, on_event, offer=["rank"])
            study = subject.study()
            for share in SHARES:
                met = meet_latency(study, {"latency": share}, subject.measured)
                closing = subject.measured(met.solution.plan, seconds=20.0)
                reached.append(closing.ratio_median / share)
                counts = {"measured_over_budget": reached[-1]}
                on_event(Event("budgets", len(reached), len(NETWORKS) * len(SHARES), counts))
        inside = [0.97 <= one <= 1.0 for one in reached]
        spread = (min(reached) - 1, max(reached) - 1)
        return {f"budgets-met-{backend}": Measured(sum(inside) / len(inside), spread, "measured over budget, minus 1")}

    return run
