"""How well cheap evidence ranks units, beside the oracle that takes each of them away.

Taylor scores square the change of the mean loss of a batch, so that is what the oracle does too, over the same batches.
The change of the loss over all images together is kept beside it: most units change that by less than its own error, so
two halves of the images do not agree about it either, which `halves` says.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from scipy.stats import spearmanr
from torch import Tensor

from reverie.bench.dream_data import cifar_images, cifar_judge
from reverie.bench.figure import Measured
from reverie.compress.importance import (
    Scored,
    gate_scores,
    magnitude_scores,
    second_order_scores,
    tangent_changes,
)
from reverie.compress.importance.oracle import logits_without, losses_without
from reverie.compress.importance.scored import over_images
from reverie.core.errors import ReferenceNotFound
from reverie.core.events import Listener, silent
from reverie.core.network import ImageNetwork
from reverie.core.source import Source
from reverie.graph import probe
from reverie.zoo.datasets import test_set
from reverie.zoo.load import load

__all__ = ["COMPARED", "SUBJECTS", "oracle_data", "spearman"]

# Images that make a batch whose change is squared.
BATCH = 16

SUBJECTS: Mapping[str, tuple[Callable[[], tuple[ImageNetwork, Source]], int]] = {
    "fashion-resnet20": (lambda: (load("zoo:fashion-resnet20"), test_set("fashion-mnist")), 1024),
    "cifar10-resnet20": (lambda: (load("zoo:cifar10-resnet20"), cifar_images("test")), 1024),
    "published-resnet20": (lambda: (cifar_judge(20), cifar_images("test")), 1024),
    "published-resnet56": (lambda: (cifar_judge(56), cifar_images("test")), 256),
}
"""Network -> how to load it with labeled images of its task, and how many of them are used.

The published ones were trained by others.
"""

COMPARED: Mapping[str, tuple[str, str]] = {
    "first": ("first", "squared"),
    "second": ("second", "squared"),
    "tangent": ("tangent", "squared"),
    "each-image": ("each_image", "squared_each"),
    "unlabeled": ("tangent_unlabeled", "divergence"),
    "magnitude": ("magnitude", "squared"),
    "whole-set": ("first", "whole_set"),
}
"""Figure -> which score is compared with which oracle; keys of `oracle_data`."""


def oracle_data(name: str, *, images: int | None = None, on_event: Listener = silent) -> dict[str, Any]:
    """The oracle and all scores of a network's units, one list per kind, in the order of the groups.

    Args:
        name: A key of `SUBJECTS`.
        images: Of the test set; None takes as many as `SUBJECTS` says.
        on_event: Called with the stages of the oracle.

    Raises:
        ReferenceNotFound: The network or its images are not here.
    """
    make, usual = SUBJECTS[name]
    network, every = make()
    images = min(images or usual, len(every))
    if every.labels is None:
        raise ReferenceNotFound(f"the images of {name} have no labels, so no loss can be computed")
    source = Source("real", every.images[:images], every.labels[:images])
    structure = probe(network.body, torch.zeros(2, *network.image_shape))
    answered: dict[str, list[Tensor]] = {}
    labeled: dict[str, list[Tensor]] = {}
    for group, logits, asked, whole in logits_without(
        network, structure, source, images=images, targets=source.labels, on_event=on_event
    ):
        labeled.setdefault(group, []).append(losses_without(logits, asked, whole))
        answered.setdefault(group, []).append(losses_without(logits, None, whole))
    changes = torch.cat([torch.cat(parts, dim=1) for parts in labeled.values()])
    divergences = torch.cat([torch.cat(parts, dim=1) for parts in answered.values()])
    half = changes.shape[1] // 2
    asked_for = source.labels
    oracle = {
        "squared": over_images(changes, BATCH).value,
        "squared_each": over_images(changes, 1).value,
        "divergence": over_images(divergences).value,
        "whole_set": over_images(changes).value.abs(),
        "whole_set_signed": over_images(changes).value,
        "whole_set_error": over_images(changes).standard_error,
        "first_half": over_images(changes[:, :half]).value.abs(),
        "second_half": over_images(changes[:, half:]).value.abs(),
    }
    scores = {
        "first": gate_scores(network, structure, source, images=images, batch_size=BATCH, targets=asked_for),
        "each_image": gate_scores(network, structure, source, images=images, batch_size=1, targets=asked_for),
        "second": second_order_scores(network, structure, source, images=images, batch_size=BATCH, targets=asked_for),
        "tangent": tangent_changes(network, structure, source, images=images, square_over=BATCH, targets=asked_for),
        "tangent_unlabeled": tangent_changes(network, structure, source, images=images),
        "magnitude": magnitude_scores(network, structure),
    }
    return {
        "network": name,
        "images": images,
        "batch": BATCH,
        "units": [[group.name, group.units] for group in structure.free],
        **{key: _rounded(value) for key, value in oracle.items()},
        **{key: _rounded(_all(value)) for key, value in scores.items()},
    }


def spearman(name: str) -> Callable[[Listener], Mapping[str, Measured]]:
    """Rank correlation of scores with the oracle's, over all units of a network."""

    def run(on_event: Listener) -> Mapping[str, Measured]:
        data = oracle_data(name, on_event=on_event)
        found = {kind: _correlation(data[score], data[oracle]) for kind, (score, oracle) in COMPARED.items()}
        found["halves"] = _correlation(data["first_half"], data["second_half"])
        return {f"oracle-{name}-{kind}": Measured(value) for kind, value in found.items()}

    return run


def _correlation(first: list[float], second: list[float]) -> float:
    return float(spearmanr(first, second).statistic)


def _all(scores: Mapping[str, Scored]) -> Tensor:
    return torch.cat([one.value for one in scores.values()])


def _rounded(values: Tensor) -> list[float]:
    return [float(f"{value:.5g}") for value in values.tolist()]
