"""Run a network over a source, and score what it says against the labels.

Cost: one fp32 forward pass for every image, no gradients.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.core.counts import check_counts
from reverie.core.errors import ReferenceNotFound
from reverie.core.modes import frozen
from reverie.core.network import ImageNetwork
from reverie.core.rng import preserved_rng
from reverie.core.source import Source
from reverie.metrics.classify import Share, accuracy, check_labels, check_logits

__all__ = ["Evaluation", "evaluate", "predict"]


@dataclass(frozen=True)
class Evaluation:
    """How a network does on labeled images.

    Attributes:
        accuracy: Share of images whose highest logit is their label.
        cross_entropy_nats: Mean over images of -log of the probability given to the label; lower is better.

    Example:
        >>> source = Source("real", torch.tensor([[[[0, 255]]], [[[255, 0]]]], dtype=torch.uint8), torch.tensor([1, 1]))
        >>> found = evaluate(nn.Flatten(), source)
        >>> found.accuracy.value, found.accuracy.count, round(found.cross_entropy_nats, 3)
        (0.5, 2, 0.813)
    """

    accuracy: Share
    cross_entropy_nats: float


def predict(network: nn.Module, source: Source, *, batch_size: int = 256) -> Tensor:
    """The logits of a network for every image of a source, in order.

    Evaluation mode, fp32, no gradients; the network is as before afterwards, also after an error.

    Shapes: source images (n, c, h, w) -> (n, classes) float32 on the CPU.

    Args:
        network: Takes images in [0, 1]; an `ImageNetwork` carries its own normalization.
        source: The images; labels are not read.
        batch_size: Images at once, at least 1; changes memory and speed, not the result.

    Raises:
        ShapeError: Images of another shape than the network takes, or an output that is not (n, classes).
        RangeError: A logit is not a number, or the batch size is below 1.

    Example:
        >>> from reverie.core.source import noise_source
        >>> predict(nn.Flatten(), noise_source(count=3, image_shape=(1, 2, 2), seed=0)).shape
        torch.Size([3, 4])
    """
    check_counts(batch_size=batch_size)
    if isinstance(network, ImageNetwork):
        network.check_images(source.images)
    first = next(network.parameters(), None)
    device = first.device if first is not None else torch.device("cpu")
    rows = []
    with frozen(network), torch.no_grad(), preserved_rng(), torch.autocast(device.type, enabled=False):
        for start in range(0, len(source), batch_size):
            logits = network(source.floats(slice(start, start + batch_size)).to(device))
            check_logits(logits)
            rows.append(logits.float().cpu())
    return torch.cat(rows)


def evaluate(network: nn.Module, source: Source, *, batch_size: int = 256) -> Evaluation:
    """Accuracy and cross-entropy of a network on labeled images.

    Args:
        network: Takes images in [0, 1]; an `ImageNetwork` carries its own normalization.
        source: Images with labels.
        batch_size: Images at once, at least 1; changes memory and speed, not the result.

    Raises:
        ReferenceNotFound: The source has no labels.
        ShapeError: Images of another shape than the network takes, or an output that is not (n, classes).
        RangeError: Labels beyond the network's classes, or a logit that is not a number.

    Example:
        >>> images = torch.tensor([[[[0, 255]]], [[[255, 0]]]], dtype=torch.uint8)
        >>> evaluate(nn.Flatten(), Source("two pixels", images, torch.tensor([1, 1]))).accuracy.value
        0.5
    """
    if source.labels is None:
        raise ReferenceNotFound(
            f"evaluation needs labels, source {source.name!r} has {len(source)} images and none. "
            "Give it labels, or compare two networks with reverie.metrics.agreement."
        )
    logits = predict(network, source, batch_size=batch_size)
    check_labels(source.labels, logits.shape[1])
    loss = F.cross_entropy(logits.double(), source.labels)
    return Evaluation(accuracy(logits, source.labels), float(loss))
