"""EPI against a grid search: in which epoch of a small training run to prune, and which epoch would have been best.

A residual network of three blocks learns four thousand images of the embedded test set, and is judged on two thousand
others. After every epoch half of its units could go; the grid tries each of these epochs and trains on to the end.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.bench.figure import Measured
from reverie.compress.pruners import EarlyPruning, Silenced, kept_counts
from reverie.compress.pruners.silenced import gate_score
from reverie.core.errors import ReferenceNotFound
from reverie.core.events import Event, Listener
from reverie.core.rng import derive_seed, generator, preserved_rng
from reverie.graph import probe
from reverie.graph.structure import Structure
from reverie.zoo.datasets import test_set
from reverie.zoo.networks import CifarResNet

__all__ = ["Setting", "when_to_prune"]


@dataclass(frozen=True)
class Setting:
    """How small the small training run is."""

    epochs: int = 16
    images: int = 4000
    judged: int = 2000
    batch_size: int = 64
    learning_rate: float = 0.1
    kept: float = 0.5
    seeds: int = 2
    widths: tuple[int, int, int] = (16, 32, 64)


@dataclass(frozen=True, eq=False)
class _State:
    """A training run after an epoch, with the scores that were gathered in it."""

    network: nn.Module
    momentum: Mapping[str, object]
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
        self.images, self.labels = every.images.float() / 255 - 0.5, every.labels

    def dense(self) -> tuple[list[_State], int]:
        """The run without pruning: its state after every epoch, and when EPI would prune."""
        torch.manual_seed(derive_seed(self.seed, "network"))
        network = CifarResNet(blocks=1, widths=self.setting.widths, in_channels=1)
        structure = probe(network, torch.zeros(2, 1, 28, 28))
        sgd, policy = self._sgd(network), EarlyPruning()
        states, trigger = [], self.setting.epochs - 1
        for epoch in range(self.setting.epochs):
            silenced = Silenced(network, structure, score=gate_score)
            self._epoch(network, sgd, epoch, silenced, watch=True)
            scores = silenced.take()
            states.append(_State(copy.deepcopy(network), copy.deepcopy(sgd.state_dict()), scores))
            now = policy.epoch(kept_counts(scores, kept=self.setting.kept))
            if now and trigger == self.setting.epochs - 1:
                trigger = epoch
        return states, trigger

    def pruned_after(self, epoch: int, state: _State) -> float:
        """Accuracy at the end of the run that was pruned after an epoch."""
        network = copy.deepcopy(state.network)
        sgd = self._sgd(network)
        sgd.load_state_dict(copy.deepcopy(dict(state.momentum)))
        silenced = Silenced(network, _structure(network), score=gate_score)
        silenced.keep_best(kept_counts(state.scores, kept=self.setting.kept), dict(state.scores))
        silenced.hush(sgd)
        for later in range(epoch + 1, self.setting.epochs):
            self._epoch(network, sgd, later, silenced, watch=False)
        network.eval()
        with torch.no_grad():
            answers = network(self.images[-self.setting.judged :]).argmax(1)
        return float((answers == self.labels[-self.setting.judged :]).float().mean())

    def _sgd(self, network: nn.Module) -> torch.optim.SGD:
        rate = self.setting.learning_rate
        return torch.optim.SGD(network.parameters(), lr=rate, momentum=0.9, weight_decay=5e-4)

    def _epoch(self, network: nn.Module, sgd: torch.optim.SGD, epoch: int, silenced: Silenced, *, watch: bool) -> None:
        setting = self.setting
        order = torch.randperm(setting.images, generator=generator(self.seed, "order", epoch))
        batches = order.split(setting.batch_size)
        network.train()
        for at, pick in enumerate(batches):
            done = (epoch + at / len(batches)) / setting.epochs
            for group in sgd.param_groups:
                group["lr"] = setting.learning_rate * 0.5 * (1 + float(np.cos(np.pi * done)))
            loss = F.cross_entropy(network(self.images[pick]), self.labels[pick])
            sgd.zero_grad(set_to_none=True)
            loss.backward()
            if watch:
                silenced.observe()
            sgd.step()
            silenced.hush(sgd)


def _structure(network: nn.Module) -> Structure:
    return probe(network, torch.zeros(2, 1, 28, 28))
