"""What a network sees in images, as vectors: the input of its last linear layer, or channel means of chosen layers.

Cost: one forward pass without gradients.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from reverie.core.counts import check_counts
from reverie.core.errors import ReferenceNotFound, ShapeError
from reverie.core.modes import frozen
from reverie.core.rng import preserved_rng
from reverie.core.source import Source

__all__ = ["features", "layer_features", "reading_inputs"]


def features(network: nn.Module, source: Source, *, batch_size: int = 256) -> Tensor:
    """The input of the network's last linear layer for every image: what its decision is made of.

    Shapes: images (n, c, ...) -> (n, d) float32 on the CPU.

    Args:
        network: Takes images in [0, 1]; as before afterwards.
        source: The images.
        batch_size: Images at once, at least 1.

    Raises:
        ReferenceNotFound: The network has no linear layer.
        ShapeError: The last one does not run exactly once for each image.
        RangeError: `batch_size` below 1.

    Example:
        >>> from reverie.core.source import noise_source
        >>> noise = noise_source(count=3, image_shape=(1, 2, 2), seed=0)
        >>> features(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), noise).shape
        torch.Size([3, 4])
    """
    linear = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise ReferenceNotFound(
            f"{type(network).__name__} has no linear layer whose input could be its features. "
            "Name layers for reverie.metrics.layer_features."
        )
    return _read(network, source, linear[-1:], batch_size=batch_size)[linear[-1]]


def layer_features(
    network: nn.Module, source: Source, layers: Sequence[str], *, batch_size: int = 256
) -> dict[str, Tensor]:
    """The input of named layers for every image, as it is.

    Shapes: images (n, c, ...) -> name: (n, ...) float32 on the CPU.

    Args:
        network: Takes images in [0, 1]; as before afterwards.
        source: The images.
        layers: Qualified names.
        batch_size: Images at once, at least 1.

    Raises:
        ReferenceNotFound: The network lacks one of these layers.
        ShapeError: One of them does not run exactly once for each image.
        RangeError: `batch_size` below 1.

    Example:
        >>> from reverie.core.source import noise_source
        >>> noise = noise_source(count=3, image_shape=(1, 2, 2), seed=0)
        >>> layer_features(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), noise, ["1"])["1"].shape
        torch.Size([3, 4])
    """
    return _read(network, source, layers, batch_size=batch_size)


@contextmanager
def reading_inputs(network: nn.Module, layers: Sequence[str], read: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Call `read` with the input of each named layer when it is about to run, while the body runs.

    When it is about to run, not afterwards: what comes after a layer may write into its input.

    Raises:
        ReferenceNotFound: The network lacks a layer.
    """
    modules = dict(network.named_modules())
    with ExitStack() as stack:
        for name in layers:
            if name not in modules:
                raise ReferenceNotFound(f"{type(network).__name__} has no layer {name!r} to read")

            def before(_: nn.Module, inputs: tuple[Any, ...], name: str = name) -> None:
                read(name, inputs[0])

            stack.callback(modules[name].register_forward_pre_hook(before).remove)
        yield


def _read(network: nn.Module, source: Source, layers: Sequence[str], *, batch_size: int) -> dict[str, Tensor]:
    check_counts(batch_size=batch_size)
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    rows: dict[str, list[Tensor]] = {name: [] for name in layers}

    def read(name: str, x: Tensor) -> None:
        rows[name].append(x.detach().float().cpu().clone())

    with frozen(network), torch.no_grad(), preserved_rng(), reading_inputs(network, layers, read):
        for start in range(0, len(source), batch_size):
            network(source.floats(slice(start, start + batch_size)).to(device))
    for name, parts in rows.items():
        found = sum(map(len, parts))
        if found != len(source):
            raise ShapeError(
                f"layer {name!r} of {type(network).__name__} read {found} rows for {len(source)} images. Name a layer "
                "for reverie.metrics.layer_features that runs once in every pass."
            )
    return {name: torch.cat(parts) for name, parts in rows.items()}
