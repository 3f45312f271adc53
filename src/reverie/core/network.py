"""A network together with what its weights do not say: preprocessing, image shape, class names, where it came from."""

import importlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from reverie.core.errors import RangeError, ReferenceNotFound, ShapeError

__all__ = ["ImageNetwork", "Origin", "as_network", "build_origin"]


@dataclass(frozen=True)
class Origin:
    """How to build the untouched architecture again: an importable factory and its keyword arguments, JSON values."""

    factory: str
    arguments: Mapping[str, Any]


def build_origin(origin: Origin) -> nn.Module:
    """Call the factory of an origin.

    Raises:
        ReferenceNotFound: The module cannot be imported, or holds no function of that name that returns a network.
    """
    module_name, _, attribute = origin.factory.partition(":")
    try:
        module = importlib.import_module(module_name)
    except (ImportError, ValueError) as error:
        raise ReferenceNotFound(
            f"cannot import the factory {origin.factory} ({error}). Install the package that holds it, or run this "
            "where it lies."
        ) from error
    factory = getattr(module, attribute, None)
    if isinstance(factory, nn.Module) or not callable(factory):
        found = "no such name" if factory is None else f"a {type(factory).__name__} of that name"
        raise ReferenceNotFound(
            f"{module_name} has {found}: {attribute!r}. Name a function or class of it that returns a torch.nn.Module."
        )
    built = factory(**origin.arguments)
    if not isinstance(built, nn.Module):
        raise ReferenceNotFound(
            f"{origin.factory} returned {type(built).__name__}, not a torch.nn.Module. Name a function that builds one."
        )
    return built


class ImageNetwork(nn.Module):
    """A network that takes images in [0, 1]: normalization first, then the body.

    Shapes: images (n, *image_shape) in [0, 1], RGB where there are three channels -> whatever the body returns.

    Attributes:
        body: The network as its author wrote it; it sees normalized images.
        image_shape: (channels, height, width) the network is meant for.
        class_names: One name per logit, or empty.
        origin: How to build `body` anew, or None where that is unknown.

    Example:
        >>> network = ImageNetwork(nn.Flatten(), image_shape=(1, 2, 2), mean=[0.5], std=[0.5])
        >>> network(torch.ones(1, 1, 2, 2))
        tensor([[1., 1., 1., 1.]])
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        body: nn.Module,
        *,
        image_shape: Sequence[int],
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
        class_names: Sequence[str] = (),
        origin: Origin | None = None,
    ) -> None:
        super().__init__()
        channels = image_shape[0]
        for name, values in (("mean", mean), ("std", std)):
            if len(values) not in (1, channels):
                raise ShapeError(
                    f"{name} has {len(values)} values for images of {channels} channels; give one for all, or one "
                    "for each"
                )
        if not all(-1 <= value <= 2 for value in mean):
            raise RangeError(
                f"mean {list(mean)} lies far outside [0, 1], where the values of images lie. If it is meant for 0 to "
                "255, divide it and std by 255."
            )
        if not all(0 < value < math.inf for value in std):
            raise RangeError(f"std must be positive and finite, got {list(std)}")
        self.body = body
        self.image_shape = tuple(image_shape)
        self.class_names = tuple(class_names)
        self.origin = origin
        one_per_channel = (-1,) + (1,) * (len(image_shape) - 1)
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(one_per_channel), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(one_per_channel), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Normalize, then run the body."""
        return self.body((images - self.mean) / self.std)

    def with_body(self, body: nn.Module) -> "ImageNetwork":
        """The same preprocessing and names around another body."""
        network = ImageNetwork(body, image_shape=self.image_shape, class_names=self.class_names, origin=self.origin)
        # Copied, not built anew: they may live on another device, in another precision.
        network.mean, network.std = self.mean.clone(), self.std.clone()
        network.training = self.training
        return network

    def check_images(self, images: Tensor) -> None:
        """Refuse images of another shape than the network is meant for.

        Raises:
            ShapeError: Saying both shapes.
        """
        if tuple(images.shape[1:]) != tuple(self.image_shape):
            raise ShapeError(
                f"images have shape (n, {', '.join(map(str, images.shape[1:]))}), "
                f"the network takes (n, {', '.join(map(str, self.image_shape))}). Resize or convert them."
            )


def as_network(model: nn.Module, image_shape: Sequence[int] | None = None) -> ImageNetwork:
    """The model itself where it carries its preprocessing, else the model with none around it.

    Raises:
        ShapeError: A plain module came without an image shape.
    """
    if isinstance(model, ImageNetwork):
        return model
    if image_shape is None:
        raise ShapeError(
            f"{type(model).__name__} does not say which images it takes. Wrap it: "
            "reverie.ImageNetwork(model, image_shape=(3, 32, 32), mean=[...], std=[...])"
        )
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    network = ImageNetwork(model, image_shape=image_shape)
    network.mean, network.std = network.mean.to(device), network.std.to(device)
    return network
