"""A network whose answer is what one of its layers gives: dreams that match features, of any depth.

Cost: the layers behind the chosen one still run; their statistics are matched as well.
"""

from typing import Any

from torch import Tensor

from reverie.core.errors import ReferenceNotFound, ShapeError
from reverie.core.network import ImageNetwork
from reverie.core.tap import select_layers, tap

__all__ = ["answering"]


class _Answering(ImageNetwork):
    """Shares its body with another network, and returns the output of one layer."""

    def __init__(self, network: ImageNetwork, layer: str) -> None:
        super().__init__(network.body, image_shape=network.image_shape, class_names=network.class_names)
        self.mean, self.std = network.mean, network.std
        self.layer = layer
        self.training = network.training

    def forward(self, images: Tensor) -> Tensor:
        """What the layer gives."""
        with tap(self, [self.layer]) as seen:
            super().forward(images)
        if self.layer not in seen:
            raise ReferenceNotFound(f"layer {self.layer!r} was not reached by the network's images")
        return _one_tensor(seen[self.layer].output, self.layer)


def answering(network: ImageNetwork, layer: str) -> ImageNetwork:
    """The same network, whose answer is the output of one layer; its parts keep their names.

    Args:
        network: It shares its body with what is returned, and is as before.
        layer: Qualified name, as `named_modules` gives it, such as `body.layer3`.

    Raises:
        ReferenceNotFound: There is no such layer; the message lists some.

    Example:
        >>> from torch import nn, ones
        >>> network = ImageNetwork(nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Linear(3, 2)), image_shape=(1, 2, 2))
        >>> answering(network, "body.1")(ones(1, 1, 2, 2)).shape
        torch.Size([1, 3])
    """
    select_layers(network, [layer])
    return _Answering(network, layer)


def _one_tensor(output: Any, layer: str) -> Tensor:  # noqa: ANN401  whatever a layer gives
    if not isinstance(output, Tensor):
        raise ShapeError(f"layer {layer!r} gives a {type(output).__name__}, no tensor to be matched. Choose another.")
    return output
