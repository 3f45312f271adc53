"""How well cheap evidence ranks units, beside the oracle that takes each of them away."""

from collections.abc import Mapping

import torch
from scipy.stats import spearmanr

from reverie.bench.figure import Measured
from reverie.compress.importance import Scored, gate_scores, magnitude_scores, oracle_changes, second_order_scores
from reverie.core.events import Listener
from reverie.core.source import Source

__all__ = ["spearman"]

IMAGES = 256


def spearman(on_event: Listener) -> Mapping[str, Measured]:
    """Rank correlation with the squared change of the loss, over all units of fashion-resnet20, on labeled images."""
    from reverie.graph import probe
    from reverie.zoo.datasets import test_set
    from reverie.zoo.load import load

    network, images = load("zoo:fashion-resnet20"), test_set("fashion-mnist")
    labels = images.labels
    if labels is None:
        raise TypeError("the embedded test set has labels")
    source = Source("real", images.images[:IMAGES], labels[:IMAGES])
    structure = probe(network.body, torch.zeros(2, *network.image_shape))
    truth = oracle_changes(network, structure, source, images=IMAGES, targets=source.labels, on_event=on_event)
    changes = _all(truth).square()
    kinds = {
        "taylor-oracle-fashion-resnet20": second_order_scores(
            network, structure, source, images=IMAGES, batch_size=64, probes=16, targets=source.labels
        ),
        "taylor-oracle-first-order": gate_scores(
            network, structure, source, images=IMAGES, batch_size=8, targets=source.labels
        ),
        "magnitude-oracle": magnitude_scores(network, structure),
    }
    return {name: Measured(float(spearmanr(_all(scores), changes).statistic)) for name, scores in kinds.items()}


def _all(scores: Mapping[str, Scored]) -> torch.Tensor:
    return torch.cat([one.value for one in scores.values()])
