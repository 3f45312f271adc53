"""`reverie evaluate`: how well a network does on labeled images."""

from typing import TYPE_CHECKING, Any

from reverie.cli.answer import PLAIN, Answer, Manner
from reverie.cli.loading import AS_STATED, Loading, labeled_images, load_beside, load_network

if TYPE_CHECKING:
    from torch import Tensor

    from reverie.core.network import ImageNetwork
    from reverie.core.source import Source

__all__ = ["evaluate"]


def evaluate(
    model: str,
    /,
    *,
    test_set: str,
    against: str | None = None,
    loading: Loading = AS_STATED,
    manner: Manner = PLAIN,
) -> Answer:
    """Measure a network's accuracy on labeled images, alone or against a second network on the same images.

    Args:
        model: The network: zoo:NAME, timm:NAME@WEIGHTS, package.module:factory@WEIGHTS, or the folder of a run.
        test_set: zoo:fashion-mnist, a folder with one subfolder per class, or an .npz file with images and labels.
        against: A second network of the same images; the difference is reported with its 95 % interval.
        loading: How the model is read.
        manner: How the answer is given.
    """
    del manner
    from reverie.metrics import evaluate as evaluated

    network = load_network(model, loading)
    images = labeled_images(test_set, network)
    found = evaluated(network, images)
    share = found.accuracy
    value: dict[str, Any] = {
        "model": model,
        "test_set": test_set,
        "count": share.count,
        "accuracy": share.value,
        "accuracy_95": [share.low, share.high],
        "cross_entropy_nats": found.cross_entropy_nats,
    }
    spread = f"95% interval {share.low:.2%} to {share.high:.2%}"
    said = f"{share.value:.2%} of {share.count:,} images right ({spread})"
    shown = (f"{said}, cross-entropy {found.cross_entropy_nats:.4f} nats",)
    if against is None or images.labels is None:
        return Answer(value, shown)
    other = load_beside(against, loading, image_shape=network.image_shape, first=network)
    difference, sentence = _compared(network, other, images, images.labels, name=against)
    return Answer(value | {"against": difference}, (*shown, sentence))


def _compared(
    network: "ImageNetwork", other: "ImageNetwork", images: "Source", labels: "Tensor", *, name: str
) -> tuple[dict[str, Any], str]:
    from reverie.metrics import accuracy, agreement, paired_difference, predict

    logits, other_logits = predict(network, images), predict(other, images)
    found = paired_difference(logits.argmax(1) == labels, other_logits.argmax(1) == labels)
    value = {
        "model": name,
        "accuracy": accuracy(other_logits, labels).value,
        "difference": found.difference,
        "difference_95": [found.low, found.high],
        "p_value": found.p_value,
        "agreement": agreement(logits, other_logits).value,
    }
    chance = "below 0.0001" if found.p_value < 1e-4 else f"{found.p_value:.2g}"
    points = f"{100 * found.difference:+.2f} points against {name}"
    spread = f"95% interval {100 * found.low:+.2f} to {100 * found.high:+.2f}, p {chance}"
    return value, f"{points} ({spread}); they agree on {value['agreement']:.2%}"
