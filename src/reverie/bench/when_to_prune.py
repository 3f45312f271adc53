"""EPI against a grid search: in which epoch of a small training run to prune, and which epoch would have been best.

A residual network of three blocks learns four thousand images of the embedded test set at half their size, and is
judged on the six thousand others. After every epoch half of its units could go; the grid cuts the network after each
of these epochs, and trains what is left on to the end.

An epoch has 63 batches, so the mean of squared gradients over them is mostly noise: sub-networks ranked by it differ
from epoch to epoch where the network hardly does. Units are ranked image by image at the end of the epoch instead.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from reverie.bench.figure import Measured
from reverie.compress.importance import gate_scores
from reverie.compress.pruners import EarlyPruning, kept_counts
from reverie.core.errors import ReferenceNotFound
from reverie.core.events import Event, Listener
from reverie.core.network import ImageNetwork
from reverie.core.rng import derive_seed, generator, preserved_rng
from reverie.core.source import Source
from reverie.graph import cut, probe
from reverie.zoo.datasets import test_set
from reverie.zoo.networks import CifarResNet

__all__ = ["Setting", "when_to_prune"]

SHAPE = (1, 14, 14)


@dataclass(frozen=True)
class Setting:
    """How small the small training run is."""

    epochs: int = 16
    images: int = 4000
    judged: int = 6000
    scored: int = 1024
    batch_size: int = 64
    learning_rate: float = 0.1
    kept: float = 0.5
    seeds: int = 2
    widths: tuple[int, int, int] = (16, 32, 64)


@dataclass(frozen=True, eq=False)
class _State:
    """A training run after an epoch, with the scores of its units."""

    network: ImageNetwork
    momentum: tuple[Tensor, ...]
    scores: Mapping[str, Tensor]


def when_to_prune(on_event: Listener, setting: Setting = Setting()) -> Mapping[str, Measured]:
    """Epochs between the one that EPI names and the best of the grid, both over all seeds."""
    curves, triggers = [], []
    for seed in range(setting.seeds):
        run = _Run(setting, seed)
        with preserved_rng():
            states, trigger = run.dense()
            accuracies = []
            for epoch, state in enumerate(states):
                accuracies.append(run.pruned_after(epoch, state))
                on_event(Event("epochs to prune in", seed * setting.epochs + epoch + 1, setting.seeds * setting.epochs))
        curves.append(accuracies)
        triggers.append(trigger)
    mean = np.mean(curves, axis=0)
    best, named = int(mean.argmax()), float(np.median(triggers))
    return {
        "epi-distance": Measured(abs(named - best)),
        "epi-epoch": Measured(named, (min(triggers), max(triggers)), "seeds"),
        "epi-best-epoch": Measured(best),
        "epi-points-lost": Measured(
            100 * float(np.mean([max(curve) - curve[at] for curve, at in zip(curves, triggers, strict=True)]))
        ),
        "epi-first-epoch-lost": Measured(100 * float(np.mean([max(curve) - curve[0] for curve in curves]))),
        "epi-last-epoch-lost": Measured(100 * float(np.mean([max(curve) - curve[-1] for curve in curves]))),
    }


class _Run:
    """One seed's training runs, all with the same batches."""

    def __init__(self, setting: Setting, seed: int) -> None:
        self.setting, self.seed = setting, seed
        every = test_set("fashion-mnist")
        if every.labels is None:
            raise ReferenceNotFound("the embedded test set has labels")
        small = F.avg_pool2d(every.images.float(), 2).round().to(torch.uint8)
        self.every, self.labels = Source("real", small, every.labels), every.labels

    def dense(self) -> tuple[list[_State], int]:
        """The run without pruning: its state after every epoch, and when EPI would prune."""
        torch.manual_seed(derive_seed(self.seed, "network"))
        body = CifarResNet(blocks=1, widths=self.setting.widths, in_channels=1)
        network = ImageNetwork(body, image_shape=SHAPE, mean=(0.29,), std=(0.35,))
        sgd, policy = self._sgd(network), EarlyPruning()
        states, trigger = [], self.setting.epochs - 1
        for epoch in range(self.setting.epochs):
            self._epoch(network, sgd, epoch)
            momentum = tuple(sgd.state[one]["momentum_buffer"].clone() for one in network.body.parameters())
            states.append(_State(copy.deepcopy(network), momentum, self._scores(network)))
            now = policy.epoch(kept_counts(states[-1].scores, kept=self.setting.kept))
            if now and trigger == self.setting.epochs - 1:
                trigger = epoch
        return states, trigger

    def pruned_after(self, epoch: int, state: _State) -> float:
        """Accuracy at the end of the run that was pruned after an epoch."""
        network, sgd = self._cut(state)
        for later in range(epoch + 1, self.setting.epochs):
            self._epoch(network, sgd, later)
        network.eval()
        judged = slice(len(self.labels) - self.setting.judged, None)
        with torch.no_grad():
            answers = network(self.every.floats(judged)).argmax(1)
        return float((answers == self.labels[judged]).float().mean())

    def _scores(self, network: ImageNetwork) -> dict[str, Tensor]:
        """Taylor scores of all units on the first training images, image by image."""
        count = min(self.setting.scored, self.setting.images)
        learned = Source("real", self.every.images[:count], self.labels[:count])
        ready = copy.deepcopy(network).eval()
        structure = probe(ready.body, torch.zeros(2, *SHAPE))
        scores = gate_scores(ready, structure, learned, images=count, batch_size=1, targets=learned.labels)
        return {group: one.value for group, one in scores.items()}

    def _cut(self, state: _State) -> tuple[ImageNetwork, torch.optim.SGD]:
        """The network that is left, and an optimizer that remembers of it what the whole network's did."""
        body, structure = state.network.body, probe(state.network.body, torch.zeros(2, *SHAPE))
        counts = kept_counts(state.scores, kept=self.setting.kept)
        kept = {
            group: tuple(sorted(state.scores[group].argsort(descending=True, stable=True)[:count].tolist()))
            for group, count in counts.items()
        }
        remembered = copy.deepcopy(body)
        with torch.no_grad():
            for parameter, momentum in zip(remembered.parameters(), state.momentum, strict=True):
                parameter.copy_(momentum)
        (small, _), (left, _) = cut(body, structure, kept), cut(remembered, structure, kept)
        network = copy.deepcopy(state.network.with_body(small)).requires_grad_(True)
        sgd = self._sgd(network)
        for parameter, momentum in zip(network.body.parameters(), left.parameters(), strict=True):
            sgd.state[parameter]["momentum_buffer"] = momentum.detach()
        return network, sgd

    def _sgd(self, network: ImageNetwork) -> torch.optim.SGD:
        rate = self.setting.learning_rate
        return torch.optim.SGD(network.body.parameters(), lr=rate, momentum=0.9, weight_decay=5e-4)

    def _epoch(self, network: ImageNetwork, sgd: torch.optim.SGD, epoch: int) -> None:
        setting = self.setting
        order = torch.randperm(setting.images, generator=generator(self.seed, "order", epoch))
        batches = order.split(setting.batch_size)
        network.train()
        for at, pick in enumerate(batches):
            done = (epoch + at / len(batches)) / setting.epochs
            for group in sgd.param_groups:
                group["lr"] = setting.learning_rate * 0.5 * (1 + float(np.cos(np.pi * done)))
            loss = F.cross_entropy(network(self.every.floats(pick)), self.labels[pick])
            sgd.zero_grad(set_to_none=True)
            loss.backward()
            sgd.step()
