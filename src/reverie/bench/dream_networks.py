"""Does one recipe serve every architecture? Dreams of ten networks, two of them without batch normalization.

Those two do not travel with the package: they are trained here, on the embedded test images of Fashion-MNIST, for a
minute each. Only whether a teacher sees what it dreamed is asked of them.
"""

from collections.abc import Callable, Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.bench.figure import Measured
from reverie.core.errors import ReverieError
from reverie.core.events import Event, Listener
from reverie.core.network import ImageNetwork
from reverie.core.rng import preserved_rng
from reverie.dream import dream
from reverie.zoo.datasets import test_set
from reverie.zoo.load import load

__all__ = ["NETWORKS", "architecture_figures", "trained_here"]

EMBEDDED = ("fashion-resnet20", "fashion-vgg", "cifar10-resnet20", "cifar10-vgg")
IMAGENET = ("imagenet-efficientnet-lite0", "imagenet-efficientnet-lite1", "imagenet-efficientnet-lite2")
ENOUGH = 0.99
# 40 images in batches of 40; 16 of ImageNet's, at half their size.
COUNT, IMAGENET_COUNT, IMAGENET_SIZE = 40, 16, 128
STEPS, BATCH, RATE = 300, 64, 1e-3


class TinyTransformer(nn.Module):
    """Patches of 4 by 4, two layers of attention with layer normalization, an average."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 48, 4, 4)
        self.places = nn.Parameter(torch.zeros(1, 49, 48))
        layer = nn.TransformerEncoderLayer(48, 4, 96, dropout=0.0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(48), nn.Linear(48, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of images (n, 1, 28, 28)."""
        tokens = self.patches(images).flatten(2).mT + self.places
        return self.head(self.norm(self.layers(tokens)).mean(1))


def grouped() -> nn.Module:
    """Convolutions with group normalization."""
    return nn.Sequential(
        *(nn.Conv2d(1, 24, 3, padding=1), nn.GroupNorm(4, 24), nn.ReLU()),
        *(nn.Conv2d(24, 32, 3, stride=2, padding=1), nn.GroupNorm(4, 32), nn.ReLU()),
        *(nn.Conv2d(32, 48, 3, stride=2, padding=1), nn.GroupNorm(4, 48), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 10)),
    )


def trained_here(build: Callable[[], nn.Module]) -> ImageNetwork:
    """A network that has learned the embedded test images."""
    source = test_set("fashion-mnist")
    with preserved_rng():
        torch.manual_seed(0)
        network = ImageNetwork(build(), image_shape=(1, 28, 28), mean=[0.286], std=[0.353])
    adam = torch.optim.AdamW(network.parameters(), lr=RATE)
    batches = source.batches(batch_size=BATCH, seed=0)
    for _ in range(STEPS):
        pick = next(batches)
        adam.zero_grad()
        F.cross_entropy(network(source.floats(pick)), _labels(source.labels, pick)).backward()
        adam.step()
    return network.eval()


NETWORKS: dict[str, Callable[[], ImageNetwork]] = {
    **{name: partial(load, f"zoo:{name}") for name in (*EMBEDDED, *IMAGENET)},
    "transformer-layernorm": partial(trained_here, TinyTransformer),
    "convolutions-groupnorm": partial(trained_here, grouped),
}


def architecture_figures(on_event: Listener) -> Mapping[str, Measured]:
    """Teacher agreement of each network's dreams by the default recipe, and how many reach 99 %."""
    found: dict[str, Measured] = {}
    for turn, (name, build) in enumerate(NETWORKS.items()):
        try:
            network = build()
        except (ReverieError, ImportError) as error:
            on_event(Event(f"{name} left out: {type(error).__name__}", 1, 1))
            continue
        large = max(network.image_shape) > IMAGENET_SIZE
        shape = (3, IMAGENET_SIZE, IMAGENET_SIZE) if large else network.image_shape
        bank = dream(network, count=IMAGENET_COUNT if large else COUNT, image_shape=shape, on_event=on_event)
        found[f"agreement-{name}"] = Measured(float(bank.agrees.float().mean()))
        on_event(Event("architectures", turn + 1, len(NETWORKS)))
    reached = [name for name, measured in found.items() if measured.value >= ENOUGH]
    return {**found, "architectures": Measured(float(len(reached)))}


def _labels(labels: Tensor | None, pick: Tensor) -> Tensor:
    if labels is None:
        raise TypeError("the embedded test set has labels")
    return labels[pick]
