"""Figures of the allocator: how fast, how exact, and what exactness is worth."""

import contextlib
import math
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch

from reverie.bench.figure import Measured
from reverie.compress.allocator import Option, Site, allocate
from reverie.compress.arrays import compile_problem
from reverie.compress.baselines import greedy_allocate, halp_allocate
from reverie.compress.compress import WIDTH_STEP
from reverie.compress.diverse import diverse_allocations
from reverie.compress.integer_program import solve_core
from reverie.compress.kinds import LayerCost
from reverie.compress.latencies import macs_at
from reverie.compress.sites import Problem, Sites, build_problem, find_sites
from reverie.compress.study import Study, read_study, study_of
from reverie.core.errors import MissingExtra, VerificationFailed
from reverie.core.events import Event, Listener
from reverie.graph import probe
from reverie.graph.structure import Layer, Structure

__all__ = ["BUDGETS", "COMPARED", "bilinear", "diverse", "knapsack", "resnet50_structure", "resolved", "true_latency"]

# Seconds that HiGHS is given for one problem.
PATIENCE = 20.0


def _instance(kind: str, count: int, options: int, seed: int) -> tuple[list[Site], dict[str, float]]:
    """Sites whose losses fall as costs rise, smoothly, in stairs, or anyhow."""
    rng = np.random.default_rng(seed)
    if kind == "any":
        losses, costs = rng.random((count, options)), rng.random((count, options))
        limit = 0.5 * float(costs.mean(1).sum())
    else:
        widths = np.linspace(1, 0.02, options)
        bend = (1 / widths - 1) ** rng.uniform(0.7, 2, (count, 1))
        losses = rng.lognormal(0, 1, (count, 1)) * bend * (1 + 0.05 * rng.random((count, options)))
        costs = rng.uniform(0.1, 2, (count, 1)) * np.ceil(widths * 64) / 64 * (1 + 0.02 * rng.random((count, options)))
        costs = np.round(costs, 1) if kind == "stairs" else costs
        limit = 0.5 * float(costs[:, 0].sum())
    rows = zip(losses, costs, strict=True)
    sites = [
        Site(
            f"s{at}",
            tuple(Option(str(o), float(a), {"c": float(c)}) for o, (a, c) in enumerate(zip(x, y, strict=True))),
        )
        for at, (x, y) in enumerate(rows)
    ]
    return sites, {"c": limit}


def knapsack(on_event: Listener) -> Mapping[str, Measured]:
    """100 sites of 200 options, in processor time, and the same by HiGHS over a proven core."""
    fast: list[float] = []
    slow: list[float] = []
    excess: list[float] = []
    cases = [(kind, seed) for kind in ("smooth", "stairs", "any") for seed in range(3)]
    for index, (kind, seed) in enumerate(cases):
        sites, budgets = _instance(kind, 100, 200, seed)
        began = time.process_time()
        found = allocate(sites, budgets=budgets)
        fast.append(1e3 * (time.process_time() - began))
        if seed == 0:
            problem, began = compile_problem(sites, (), (), budgets), time.process_time()
            # Where HiGHS does not end in this time, our own bound is the proof, and the time is a lower limit.
            with contextlib.suppress(VerificationFailed):
                picked, _ = solve_core(problem, list(budgets.values()), PATIENCE)
                excess += [] if picked is None else [found.loss / problem.loss(picked) - 1]
            slow.append(1e3 * (time.process_time() - began))
        excess.append((found.loss - found.lower_bound) / abs(found.loss))
        on_event(Event("allocating", index + 1, len(cases)))
    return {
        "knapsack-time": _spread(fast),
        "knapsack-highs-time": _spread(slow),
        "knapsack-excess": Measured(max(excess)),
    }


def diverse(on_event: Listener) -> Mapping[str, Measured]:
    """20 allocations of 100 sites that share at most 70 % of their options."""
    seconds: list[float] = []
    plans: list[float] = []
    worst: list[float] = []
    for seed in range(3):
        sites, budgets = _instance("smooth", 100, 200, seed)
        began = time.process_time()
        found = diverse_allocations(sites, budgets=budgets, count=20, overlap=0.7)
        seconds.append(time.process_time() - began)
        plans.append(len(found))
        worst.append(found[-1].loss / found[0].loss)
        on_event(Event("allocating", seed + 1, 3))
    return {"diverse-time": _spread(seconds), "diverse-plans": Measured(min(plans)), "diverse-worst": _spread(worst)}


def _torchvision(name: str) -> Structure:
    """The structure of a network of torchvision, untrained."""
    try:
        from torchvision import models
    except ImportError as error:
        raise MissingExtra(f'{name} comes from torchvision; pip install "reverie[timm]"') from error
    return probe(models.get_model(name, weights=None).eval(), torch.zeros(2, 3, 224, 224))


def resnet50_structure() -> Structure:
    """The structure of torchvision's ResNet-50, untrained."""
    return _torchvision("resnet50")


def _embedded(name: str) -> Structure:
    from reverie.zoo.load import load

    network = load(f"zoo:{name}")
    return probe(network.body, torch.zeros(2, *network.image_shape))


COMPARED: Mapping[str, Callable[[], Structure]] = {
    "resnet50": resnet50_structure,
    "resnet18": lambda: _torchvision("resnet18"),
    "vgg16": lambda: _torchvision("vgg16_bn"),
    "resnet34": lambda: _torchvision("resnet34"),
    "vgg11": lambda: _torchvision("vgg11_bn"),
}
"""Networks on which ways to allocate are compared."""

BUDGETS = (0.7, 0.5, 0.3)


def stairs_latency(layer: Layer, in_channels: int, out_channels: int, groups: int) -> float:
    """A processor that computes 16 input and 64 output channels at once, and pays for every call."""
    area = math.prod(layer.kernel) * math.prod(layer.output_size)
    return math.ceil(in_channels / 16) * 16 * math.ceil(out_channels / 64) * 64 * area / groups / 1e9 + 0.01


def blocks_latency(layer: Layer, in_channels: int, out_channels: int, groups: int) -> float:
    """A processor that computes 16 channels at once on either side, and calls for next to nothing."""
    area = math.prod(layer.kernel) * math.prod(layer.output_size)
    return math.ceil(in_channels / 16) * math.ceil(out_channels / 16) * 256 * area / groups / 1e9 + 1e-5


def _drawn_losses(sites: Sites, seed: int) -> dict[tuple[str, int], float]:
    """What a width loses where the importance of units is drawn at random."""
    rng = np.random.default_rng(seed)
    losses = {}
    for site, widths in sites.widths.items():
        units = np.sort(rng.lognormal(0, 1.5, widths[0])) * rng.lognormal(0, 1)
        losses.update({(site, width): float(units[: widths[0] - width].sum()) for width in widths[1:]})
    return losses


def _problem(structure: Structure, *, seed: int, latency: LayerCost = stairs_latency) -> Problem:
    sites = find_sites(structure, step=16, most=16)
    return build_problem(sites, _drawn_losses(sites, seed), {"latency": latency})


def _limit(problem: Problem, share: float) -> float:
    return share * problem.whole("latency") - problem.fixed["latency"]


def bilinear(on_event: Listener) -> Mapping[str, Measured]:
    """ResNet-50 with 16 widths per site, in- and output widths coupled, to a gap of 1e-4."""
    structure = resnet50_structure()
    seconds: list[float] = []
    gaps: list[float] = []
    for index, share in enumerate(BUDGETS):
        problem = _problem(structure, seed=index)
        budgets = {"latency": _limit(problem, share)}
        began = time.process_time()
        found = allocate(problem.sites, problem.pairs, budgets=budgets, gap=1e-4)
        seconds.append(time.process_time() - began)
        gaps.append(found.gap)
        on_event(Event("allocating", index + 1, len(BUDGETS)))
    return {
        "bilinear-time": Measured(max(seconds), (min(seconds), max(seconds)), "range"),
        "bilinear-gap": Measured(max(gaps)),
    }


def resolved(on_event: Listener) -> Mapping[str, Measured]:
    """Another budget, of latency and of multiply-adds, for embedded networks, from a study read from its file.

    At the widths that `compress` offers. The time is that of reading the file, solving, and writing down the plan.
    """
    taken: list[float] = []
    shares = (0.9, 0.8, 0.7, 0.6, 0.5)
    names = ("cifar10-resnet20", "fashion-resnet20", "cifar10-vgg", "fashion-vgg")
    with tempfile.TemporaryDirectory() as folder:
        for at, name in enumerate(names):
            path = Path(folder) / f"{name}.json"
            _study(_embedded(name)).save(path)
            for column in ("latency", "macs"):
                for share in shares:
                    began = time.process_time()
                    read_study(path).solve({column: share}).plan.to_json()
                    taken.append(1e3 * (time.process_time() - began))
            on_event(Event("solving again", at + 1, len(names)))
    kind = f"range of {len(taken)} budgets"
    return {
        "resolve-time": Measured(max(taken), (min(taken), max(taken)), kind),
        "resolve-time-median": Measured(float(np.median(taken))),
    }


def _study(structure: Structure) -> Study:
    sites = find_sites(structure, step=WIDTH_STEP)
    scores = {group.name: torch.arange(group.units) for group in structure.free}
    columns: dict[str, LayerCost] = {"macs": macs_at, "latency": blocks_latency}
    return study_of(sites, _drawn_losses(sites, 0), columns, scores)


def true_latency(on_event: Listener) -> Mapping[str, Measured]:
    """Loss of HALP's knapsack and of the greedy rule over the optimum's, at equal latency.

    One figure per network and budget, and the median of all. Importance is drawn, latency is that of `stairs_latency`
    with both widths of every layer as they are.
    """
    table: dict[str, Measured] = {}
    halp: list[float] = []
    greedy: list[float] = []
    for name, make in COMPARED.items():
        structure = make()
        for index, share in enumerate(BUDGETS):
            problem = _problem(structure, seed=index)
            limit = _limit(problem, share)
            best = allocate(problem.sites, problem.pairs, budgets={"latency": limit}, gap=1e-3).loss
            theirs = halp_allocate(problem.sites, problem.pairs, budget="latency", limit=limit)
            halp.append(theirs.loss / best)
            greedy.append(greedy_allocate(problem.sites, problem.pairs, budgets={"latency": limit}).loss / best)
            table[f"halp-{name}-{100 * share:.0f}"] = Measured(halp[-1])
            on_event(Event("allocating", len(halp), len(COMPARED) * len(BUDGETS)))
    return {**table, "halp-extra-loss": _spread(halp), "greedy-extra-loss": _spread(greedy)}


def _spread(values: list[float]) -> Measured:
    return Measured(float(np.median(values)), (min(values), max(values)), "median, and range of the cases")
