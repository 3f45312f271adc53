"""What weights do not say: image shape, normalization, class names; given by the caller, a file, or a library."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reverie.core.errors import CorruptFile, ShapeError
from reverie.core.modes import frozen
from reverie.core.network import ImageNetwork, Origin
from reverie.core.rng import preserved_rng
from reverie.core.store import read_json

__all__ = ["Preprocessing", "check_network", "from_json", "read_sidecar", "wrap"]


@dataclass(frozen=True)
class Preprocessing:
    """Each part, or None where this origin does not say.

    Attributes:
        image_shape: (channels, height, width).
        mean: Subtracted, one value for each channel or one for all, in units of [0, 1].
        std: Divided by, likewise.
        class_names: One for each logit.
    """

    image_shape: Sequence[int] | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    class_names: Sequence[str] | None = None

    def over(self, other: "Preprocessing") -> "Preprocessing":
        """These parts, and the other's where these say nothing.

        Example:
            >>> Preprocessing(mean=(0.5,)).over(Preprocessing(mean=(0.1,), std=(1.0,)))
            Preprocessing(image_shape=None, mean=(0.5,), std=(1.0,), class_names=None)
        """
        return Preprocessing(
            other.image_shape if self.image_shape is None else self.image_shape,
            other.mean if self.mean is None else self.mean,
            other.std if self.std is None else self.std,
            other.class_names if self.class_names is None else self.class_names,
        )


def from_json(value: Any, *, origin: str) -> Preprocessing:  # noqa: ANN401  any JSON value
    """Read `image_shape`, `mean`, `std` and `class_names` from a JSON object; other keys may be there.

    Raises:
        CorruptFile: A part has the wrong type; `origin` says where.
    """
    try:
        return Preprocessing(
            tuple(int(size) for size in value["image_shape"]) if "image_shape" in value else None,
            tuple(float(entry) for entry in value["mean"]) if "mean" in value else None,
            tuple(float(entry) for entry in value["std"]) if "std" in value else None,
            tuple(str(name) for name in value["class_names"]) if "class_names" in value else None,
        )
    except (TypeError, ValueError, KeyError) as error:
        raise CorruptFile(
            f"{origin} does not describe preprocessing ({error}). It needs lists: "
            '{"image_shape": [3, 32, 32], "mean": [0.5], "std": [0.5], "class_names": [...]}.'
        ) from error


def read_sidecar(weights: Path) -> Preprocessing:
    """What the JSON file beside a file of weights says: `resnet.json` beside `resnet.safetensors`; nothing if none."""
    sidecar = weights.with_suffix(".json")
    return from_json(read_json(sidecar), origin=str(sidecar)) if sidecar.is_file() else Preprocessing()


def wrap(body: nn.Module, known: Preprocessing, *, asked: str, origin: Origin | None) -> ImageNetwork:
    """The network with its preprocessing around it, in evaluation mode.

    Raises:
        ShapeError: The image shape or the normalization is not known, or does not suit the network; `asked` is the
            reference that messages name.
    """
    missing = [name for name in ("image_shape", "mean", "std") if getattr(known, name) is None]
    if known.image_shape is None or known.mean is None or known.std is None:
        raise ShapeError(
            f"{asked} does not say which images it takes: {', '.join(missing)} unknown. Give them as it was trained "
            "with, for example --image-shape 3 32 32 --mean 0.5 --std 0.5 (in Python image_shape=(3, 32, 32), "
            "mean=(0.5,), std=(0.5,)), or as lists in a JSON file beside the weights with the same name and the "
            "ending .json; mean 0 and std 1 stand for images in [0, 1] as they are."
        )
    values, channels = max(len(known.mean), len(known.std)), known.image_shape[0]
    if min(len(known.mean), len(known.std)) > 0 and values not in (1, channels):
        raise ShapeError(
            f"{asked} is normalized for images of {values} channels and cannot take images of shape "
            f"{tuple(known.image_shape)}. Give the image shape that it was trained for, or a network for such images."
        )
    network = ImageNetwork(
        body,
        image_shape=known.image_shape,
        mean=known.mean,
        std=known.std,
        class_names=known.class_names or (),
        origin=origin,
    )
    check_network(network, asked=asked)
    return network.eval()


def check_network(network: ImageNetwork, *, asked: str) -> None:
    """Call the network once, on two blank images, so that a wrong shape is found here and not in the middle of work.

    Raises:
        ShapeError: The network refuses images of its shape, or has another number of logits than class names.
    """
    shape = tuple(network.image_shape)
    if not 2 <= len(shape) <= 4 or min(shape) < 1:
        raise ShapeError(
            f"{asked}: image_shape is {shape}; it must be (channels, height, width), each at least 1, or have one "
            "side or three in place of the last two"
        )
    try:
        with frozen(network), torch.no_grad(), preserved_rng():
            output = network(torch.zeros(2, *shape))
    # A network may fail on a wrong shape with any exception that its author's code raises.
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ShapeError(
            f"{asked} cannot take two images of shape {shape}, channels first: {reason[:200]}. "
            "Give the image_shape that it was trained for."
        ) from error
    names = network.class_names
    if names and isinstance(output, Tensor) and output.ndim == 2 and output.shape[1] != len(names):
        raise ShapeError(
            f"{asked} has {output.shape[1]} logits, but {len(names)} class names were given. Give one for each."
        )
