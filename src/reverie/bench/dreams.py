"""Do others see what a network dreamed? Agreement after a round trip through PNG files, and the time it took."""

import io
import time
from collections.abc import Callable, Mapping

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from reverie.bench.figure import Measured
from reverie.core.events import Listener
from reverie.core.network import ImageNetwork
from reverie.core.source import Source
from reverie.dream import dream
from reverie.metrics import Share, accuracy, predict
from reverie.report.picture import png_bytes
from reverie.zoo.load import load

__all__ = ["agreement_figures", "through_png"]


def through_png(images: Tensor) -> Tensor:
    """What is left of images after they were PNG files.

    Shapes: (n, c, h, w) uint8, c 1 or 3 -> the same.

    Example:
        >>> image = torch.arange(12, dtype=torch.uint8).view(1, 3, 2, 2)
        >>> torch.equal(through_png(image), image)
        True
    """
    return torch.stack([_one_through_png(image) for image in images])


def agreement_figures(
    teacher: str, judge: str, *, count: int, size: int | None, names: str
) -> Callable[[Listener], Mapping[str, Measured]]:
    """A job that dreams and asks two networks what they see.

    Args:
        teacher: Reference of the network that dreams.
        judge: Reference of a network of another family, trained on the same classes.
        count: Dreams.
        size: Height and width; the teacher's own where None.
        names: What the figures' names begin with.

    Returns:
        A function whose figures are `NAMES-time` (seconds), `NAMES-teacher` and `NAMES-judge` (shares).
    """

    def run(on_event: Listener) -> Mapping[str, Measured]:
        network = load(teacher)
        channels, height, width = network.image_shape
        shape = (channels, height, width) if size is None else (channels, size, size)
        began = time.monotonic()
        bank = dream(network, count=count, image_shape=shape, on_event=on_event)
        seconds = time.monotonic() - began
        seen = Source("dreams", through_png(bank.images), bank.labels)
        return {
            f"{names}-time": Measured(seconds),
            f"{names}-teacher": _agreement(load(teacher, image_shape=shape), seen, bank.labels),
            f"{names}-judge": _agreement(load(judge, image_shape=shape), seen, bank.labels),
        }

    return run


def _agreement(network: ImageNetwork, seen: Source, labels: Tensor) -> Measured:
    found: Share = accuracy(predict(network, seen), labels)
    return Measured(found.value, (found.low, found.high), "95% Wilson interval")


def _one_through_png(image: Tensor) -> Tensor:
    pixels = image.permute(1, 2, 0).contiguous().numpy()
    content = png_bytes(Image.fromarray(pixels[:, :, 0] if len(image) == 1 else pixels))
    with Image.open(io.BytesIO(content)) as read:
        array = np.array(read)
    return torch.from_numpy(array).view(*image.shape[1:], len(image)).permute(2, 0, 1).contiguous()
