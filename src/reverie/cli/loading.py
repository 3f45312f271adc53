"""The options of every verb that reads a network or a test set."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from reverie.core.errors import RangeError

if TYPE_CHECKING:
    from reverie.core.network import ImageNetwork
    from reverie.core.source import Source

__all__ = ["AS_STATED", "Loading", "labeled_images", "load_beside", "load_network", "own_images"]


@Parameter(name="*")
@dataclass(frozen=True)
class Loading:
    """What a model reference leaves unsaid; what its file, its library or the zoo says holds otherwise.

    Attributes:
        image_shape: Channels, height and width of the images that the network takes; dreams may have other sides.
        mean: Subtracted from images in [0, 1]: one value, or one per channel.
        std: Divided by, after the mean: one value, or one per channel.
        trust: "pt2" allows reading a torch.export archive, which runs code from a hostile file.
        positional: Pair the tensors of a PyTorch checkpoint with the network by order instead of by name.
    """

    image_shape: Annotated[tuple[int, ...] | None, Parameter(negative=(), consume_multiple=True)] = None
    mean: Annotated[tuple[float, ...] | None, Parameter(negative=(), consume_multiple=True)] = None
    std: Annotated[tuple[float, ...] | None, Parameter(negative=(), consume_multiple=True)] = None
    trust: Literal["pt2"] | None = None
    positional: Annotated[bool, Parameter(negative=())] = False


AS_STATED = Loading()


def load_network(
    reference: str, loading: Loading = AS_STATED, *, any_axes: bool = False, like: "ImageNetwork | None" = None
) -> "ImageNetwork":
    """The network of a model reference.

    Args:
        reference: See `reverie.zoo.load`.
        loading: What it leaves unsaid.
        any_axes: Whether the verb takes signals and volumes as well as pictures.
        like: A network of the same images, which says what neither of them does.

    Raises:
        RangeError: `--image-shape` has another number of sides than the verb takes.
    """
    shape = loading.image_shape
    if shape is not None and not (len(shape) == 3 or (any_axes and 2 <= len(shape) <= 4)):
        wanted = "channels and one, two or three sides" if any_axes else "channels, height and width"
        raise RangeError(f"--image-shape takes {wanted}, got {' '.join(map(str, shape))}")
    from reverie.zoo.load import load

    return load(
        reference,
        trust=loading.trust,
        image_shape=loading.image_shape,
        mean=loading.mean,
        std=loading.std,
        positional=loading.positional,
        like=like,
    )


def load_beside(
    reference: str, loading: Loading, *, image_shape: Sequence[int], first: "ImageNetwork | None" = None
) -> "ImageNetwork":
    """A second network, for images of a shape.

    Args:
        reference: See `reverie.zoo.load`.
        loading: What was given for the networks of the command.
        image_shape: Of the images that it will see.
        first: The network whose mean and deviation stand where the second states none; None where there is none.
    """
    mean, std = (loading.mean, loading.std) if first is None else (None, None)
    asked = replace(loading, image_shape=tuple(image_shape), mean=mean, std=std)
    return load_network(reference, asked, any_axes=True, like=first)


def labeled_images(reference: str, network: "ImageNetwork") -> "Source":
    """The test set of a reference: `zoo:NAME`, a folder with one subfolder per class, or an .npz file."""
    from reverie.zoo.datasets import folder_source, test_set

    if reference.startswith("zoo:"):
        source = test_set(reference.removeprefix("zoo:"))
        network.check_images(source.images)
        return source
    return folder_source(reference, image_shape=network.image_shape, class_names=network.class_names)


def own_images(reference: str, network: "ImageNetwork") -> "Source":
    """Images whose labels nobody reads: `zoo:NAME`, a folder of image files, or an .npz file."""
    from reverie.zoo.datasets import unlabeled_source

    if reference.startswith("zoo:"):
        return labeled_images(reference, network)
    return unlabeled_source(reference, image_shape=network.image_shape)
