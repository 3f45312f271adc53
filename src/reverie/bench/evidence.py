"""How well cheap evidence ranks units, beside the oracle that takes each of them away."""

from collections.abc import Callable, Mapping

import torch
from scipy.stats import spearmanr
from torch import Tensor

from reverie.bench.dream_data import cifar_images, cifar_judge
from reverie.bench.figure import Measured
from reverie.compress.importance import Scored, gate_scores, magnitude_scores, oracle_changes, second_order_scores
from reverie.core.events import Listener
from reverie.core.network import ImageNetwork
from reverie.core.source import Source
from reverie.graph import probe
from reverie.zoo.datasets import test_set
from reverie.zoo.load import load

__all__ = ["SUBJECTS", "spearman"]

# A forward pass of all of them per unit.
IMAGES = 128

SUBJECTS: Mapping[str, Callable[[], tuple[ImageNetwork, Source]]] = {
    "fashion-resnet20": lambda: (load("zoo:fashion-resnet20"), test_set("fashion-mnist")),
    "cifar10-resnet20": lambda: (load("zoo:cifar10-resnet20"), cifar_images("test")),
    "cifar10-resnet56": lambda: (cifar_judge(56), cifar_images("test")),
}
"""Network -> how to load it with labeled images of its task."""


def spearman(name: str) -> Callable[[Listener], Mapping[str, Measured]]:
    """Rank correlation of scores with the size of the true change of the loss, over all units of a network."""

    def run(on_event: Listener) -> Mapping[str, Measured]:
        network, every = SUBJECTS[name]()
        source = Source("real", every.images[:IMAGES], None if every.labels is None else every.labels[:IMAGES])
        structure = probe(network.body, torch.zeros(2, *network.image_shape))
        truth = _all(
            oracle_changes(network, structure, source, images=IMAGES, targets=source.labels, on_event=on_event)
        ).abs()
        first = gate_scores(network, structure, source, images=IMAGES, batch_size=IMAGES, targets=source.labels)
        alone = gate_scores(network, structure, source, images=IMAGES, batch_size=1, targets=source.labels)
        second = second_order_scores(
            network, structure, source, images=IMAGES, batch_size=IMAGES, probes=32, targets=source.labels
        )
        kinds = {
            "first": first,
            "each-image": alone,
            "second": second,
            "magnitude": magnitude_scores(network, structure),
        }
        return {
            f"oracle-{name}-{kind}": Measured(float(spearmanr(_all(scores), truth).statistic))
            for kind, scores in kinds.items()
        }

    return run


def _all(scores: Mapping[str, Scored]) -> Tensor:
    return torch.cat([one.value for one in scores.values()])
