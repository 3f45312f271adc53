"""Statistics of any network's layers: captured once from images, kept in a file, matched while dreaming.

What for: batch normalization stores the moments of the training data; layer, group and weight normalization store
nothing, so such networks get their moments from elsewhere. A *source of statistics* is a function of a network that
collects, while its body runs, the moments of chosen layers beside the moments they should have. Three are built in:
`BatchNormStatistics` (what the weights hold), `Statistics` (captured from real images, or from images without a camera,
see `reverie.dream.calibrate`), `NoStatistics` (image priors alone).

Cost: one pass over the activations of the chosen layers per step; a captured file has 8 bytes per channel.
Source: matching batch-norm statistics, Yin et al. 2020, arXiv:1912.08795, section 3.2. Differs: any layer, any origin.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from reverie.core.counts import check_counts
from reverie.core.digest import sha256_tensors
from reverie.core.errors import CorruptFile, ReferenceNotFound, ShapeError, StatisticsMissing
from reverie.core.modes import frozen
from reverie.core.rng import preserved_rng
from reverie.core.source import Source
from reverie.core.store import write_bytes
from reverie.dream.channel_moments import channel_axis, channel_moments
from reverie.dream.statistics import Moments, moments
from reverie.metrics.stored_moments import STORED, stored_layers

__all__ = [
    "BatchNormStatistics",
    "NoStatistics",
    "Statistics",
    "StatisticsSource",
    "capture_statistics",
    "statistics_layers",
]

FORMAT = "reverie statistics 1"


class StatisticsSource(Protocol):
    """Where the moments that a dream should have come from.

    Example:
        >>> sources: list[StatisticsSource] = [BatchNormStatistics(), NoStatistics()]
        >>> [source.origin for source in sources]
        ['batch normalization', 'none: image priors alone']
    """

    @property
    def origin(self) -> str:
        """In words, for reports."""

    def describe(self) -> str:
        """In words that are the same for the same moments only, for a bank's configuration."""

    def __call__(self, network: nn.Module) -> AbstractContextManager[list[Moments]]:
        """Collect moments while the body runs; the list grows as the network is called, empty it between calls."""


@dataclass(frozen=True)
class BatchNormStatistics:
    """The moments that batch normalization stored during training.

    Recognized: every layer that calls `torch.nn.functional.batch_norm` in evaluation mode (BatchNorm1d to 3d,
    SyncBatchNorm, BatchNormAct2d of timm), and every layer with buffers `running_mean` and `running_var` that computes
    the same by itself (FrozenBatchNorm2d of torchvision and detectron2, FrozenBatchNormAct2d of timm).

    Example:
        >>> BatchNormStatistics().origin
        'batch normalization'
    """

    @property
    def origin(self) -> str:
        """Always the same words."""
        return "batch normalization"

    def describe(self) -> str:
        """The origin."""
        return self.origin

    @contextmanager
    def __call__(self, network: nn.Module) -> Iterator[list[Moments]]:
        """Collect moments in order of execution, the stored ones beside them."""
        handles = []
        with moments(network) as seen:
            try:
                for name, module in _own_batch_norms(network).items():
                    handles.append(module.register_forward_hook(_stored_reader(name, seen)))
                yield seen
            finally:
                for handle in handles:
                    handle.remove()


@dataclass(frozen=True)
class NoStatistics:
    """Nothing to match: dreams are shaped by the class and by image priors alone.

    Example:
        >>> NoStatistics().origin
        'none: image priors alone'
    """

    @property
    def origin(self) -> str:
        """Always the same words."""
        return "none: image priors alone"

    def describe(self) -> str:
        """The origin."""
        return self.origin

    @contextmanager
    def __call__(self, network: nn.Module) -> Iterator[list[Moments]]:
        """Collect nothing."""
        del network
        yield []


@dataclass(frozen=True, eq=False)
class Statistics:
    """Mean and variance of each channel at named layers, and where they come from.

    Calling it on a network collects the moments of the same layers, in order of execution, beside these. What is read
    is a layer's input; of layer normalization, whose input has a scale for each token, the output.

    Attributes:
        origin: Where the moments come from, in words.
        layers: Qualified layer name -> (mean, variance), each (c,) float32.
        known: Whether they were measured on images like those of training; False where they are a guess.

    Example:
        >>> source = Statistics("two channels, by hand", {"0": (torch.zeros(2), torch.ones(2))})
        >>> network = nn.Sequential(nn.Conv2d(2, 3, 1))
        >>> with source(network) as seen:
        ...     _ = network(torch.full((1, 2, 4, 4), 0.5))
        >>> seen[0].mean, seen[0].stored_variance
        (tensor([0.5000, 0.5000]), tensor([1., 1.]))
    """

    origin: str
    layers: Mapping[str, tuple[Tensor, Tensor]]
    known: bool = True

    @contextmanager
    def __call__(self, network: nn.Module) -> Iterator[list[Moments]]:
        """Collect the moments of the named layers while the body runs.

        Raises:
            ReferenceNotFound: The network lacks a layer.
        """
        seen: list[Moments] = []
        modules = dict(network.named_modules())
        with ExitStack() as stack:
            for name, stored in self.layers.items():
                # The same network with its preprocessing around it, or without: its body's layers are meant.
                module = next(
                    (modules[one] for one in (name, f"body.{name}", name.removeprefix("body.")) if one in modules), None
                )
                if module is None:
                    raise ReferenceNotFound(
                        f"the statistics ({self.origin}) name a layer {name!r} that {type(network).__name__} lacks. "
                        "Capture them anew on this network with capture_statistics."
                    )
                stack.callback(_attach(module, _matching_reader(name, stored, seen)).remove)
            yield seen

    def describe(self) -> str:
        """The origin, and which moments."""
        tensors = {f"{name}:{place}": one for name, pair in self.layers.items() for place, one in enumerate(pair)}
        return f"{self.origin} ({sha256_tensors(tensors)[:16]})"

    def save(self, path: Path | str) -> None:
        """Write a safetensors file, whole or not at all.

        Raises:
            NotWritable: The file cannot be written.
        """
        tensors = {
            f"{name}:{kind}": tensor.float().cpu().contiguous()
            for name, pair in self.layers.items()
            for kind, tensor in zip(("mean", "variance"), pair, strict=True)
        }
        write_bytes(
            Path(path), save(tensors, metadata={"format": FORMAT, "origin": self.origin, "known": str(self.known)})
        )

    @staticmethod
    def load(path: Path | str) -> "Statistics":
        """Read what `save` wrote.

        Raises:
            ReferenceNotFound: There is no such file.
            CorruptFile: It holds something else.
        """
        path = Path(path)
        if not path.is_file():
            raise ReferenceNotFound(f"no statistics file {path}. Write one with capture_statistics(...).save(path).")
        advice = "Capture the statistics anew."
        try:
            content = path.read_bytes()
            tensors, metadata = load(content), _metadata(content)
        except (SafetensorError, ValueError) as error:
            raise CorruptFile(f"{path} is no statistics file ({error}). {advice}") from error
        names = [name.removesuffix(":mean") for name in tensors if name.endswith(":mean")]
        whole = metadata.get("format") == FORMAT and len(tensors) == 2 * len(names) > 0
        if not whole or any(f"{name}:variance" not in tensors for name in names):
            raise CorruptFile(f"{path} holds other tensors than means and variances of layers. {advice}")
        layers = {name: (tensors[f"{name}:mean"], tensors[f"{name}:variance"]) for name in names}
        for name, (mean, variance) in layers.items():
            sound = mean.shape == variance.shape and bool(torch.isfinite(mean).all()) and bool((variance >= 0).all())
            if not sound:
                raise CorruptFile(f"{path}: layer {name} has no mean and variance of one finite length. {advice}")
        return Statistics(metadata["origin"], layers, known=metadata.get("known") == str(True))


def capture_statistics(network: nn.Module, source: Source, *, batch_size: int = 64) -> Statistics:
    """Measure once, on images, the moments of a network's layers; ship the moments instead of the images.

    Mean and biased variance of each channel over all images and positions, joined exactly over batches. Which layers:
    `statistics_layers`.

    Args:
        network: Takes images in [0, 1]; it is as before afterwards.
        source: The images; their name becomes part of the origin.
        batch_size: Images at once, >= 1; changes memory, not the result.

    Raises:
        RangeError: `batch_size` below 1.
        StatisticsMissing: The network has no layer whose moments could be taken.

    Example:
        >>> from reverie.core.source import noise_source
        >>> source = noise_source(count=8, image_shape=(1, 4, 4), seed=0)
        >>> found = capture_statistics(nn.Sequential(nn.Flatten(), nn.LayerNorm(16)), source)
        >>> found.origin, found.layers["1"][0].shape
        ('captured from 8 images of noise', torch.Size([16]))

    Fails when: there are fewer images than a few per class; the moments are then those of the few.
    """
    check_counts(batch_size=batch_size)
    layers = statistics_layers(network)
    joined: dict[str, _Joined] = {}
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    with ExitStack() as stack:
        stack.enter_context(frozen(network))
        stack.enter_context(preserved_rng())
        stack.enter_context(torch.no_grad())
        for name, module in layers.items():
            stack.callback(_attach(module, _joining_reader(joined.setdefault(name, _Joined()))).remove)
        for start in range(0, len(source), batch_size):
            network(source.floats(slice(start, start + batch_size)).to(device))
    found = {name: one.result() for name, one in joined.items() if one.count}
    if not found:
        raise StatisticsMissing(f"no layer of {type(network).__name__} was reached by a forward pass of its images")
    return Statistics(f"captured from {len(source)} images of {source.name}", found)


def statistics_layers(network: nn.Module) -> dict[str, nn.Module]:
    """The layers whose moments describe a network's data: its normalizations, else its convolutions and linear maps.

    Raises:
        StatisticsMissing: The network has none of them.

    Example:
        >>> list(statistics_layers(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))))
        ['1']
    """
    modules = dict(network.named_modules())
    norms = {name: module for name, module in modules.items() if _is_norm(module)}
    kinds = (nn.Linear, nn.modules.conv._ConvNd)
    maps: dict[str, nn.Module] = {name: module for name, module in modules.items() if isinstance(module, kinds)}
    if not (norms or maps):
        raise StatisticsMissing(
            f"{type(network).__name__} has no normalization, convolution or linear layer whose moments could be taken"
        )
    return norms or maps


class _Joined:
    """Count, mean and summed squared deviation per channel, in float64, joined without cancellation."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = torch.zeros(())
        self.deviation = torch.zeros(())

    def add(self, mean: Tensor, variance: Tensor, count: int) -> None:
        mean, variance = mean.double().cpu(), variance.double().cpu()
        total, delta = self.count + count, mean - self.mean.double()
        self.deviation = self.deviation.double() + variance * count + delta.square() * (self.count * count / total)
        self.mean = self.mean.double() + delta * (count / total)
        self.count = total

    def result(self) -> tuple[Tensor, Tensor]:
        return self.mean.float(), (self.deviation / self.count).float()


Read = Callable[[nn.Module, Tensor], None]


def _attach(module: nn.Module, read: Read) -> Any:  # noqa: ANN401  torch's handle of a hook
    """Read the input of a layer, or the output of layer normalization."""
    if _reads_output(module):

        def after(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:  # noqa: ANN401
            read(module, _tensor(output))

        return module.register_forward_hook(after)

    def before(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        read(module, _tensor(inputs[0] if inputs else None))

    return module.register_forward_pre_hook(before)


def _matching_reader(name: str, stored: tuple[Tensor, Tensor], seen: list[Moments]) -> Read:
    def read(module: nn.Module, x: Tensor) -> None:
        mean, variance = channel_moments(x, channel_axis(module, x))
        if mean.shape != stored[0].shape:
            raise ShapeError(
                f"the statistics hold {len(stored[0])} channels for layer {name}, which has {len(mean)}. "
                "Capture them anew on this network."
            )
        seen.append(Moments(name, mean, variance, stored[0].to(mean.device), stored[1].to(mean.device)))

    return read


def _joining_reader(joined: _Joined) -> Read:
    def read(module: nn.Module, x: Tensor) -> None:
        axis = channel_axis(module, x)
        mean, variance = channel_moments(x, axis)
        joined.add(mean, variance, x.numel() // x.shape[axis])

    return read


def _stored_reader(name: str, seen: list[Moments]) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
    def read(module: nn.Module, inputs: tuple[Any, ...], _: Any) -> None:  # noqa: ANN401  whatever the layer gives
        # Some of these layers do call the function, but not always.
        if seen and seen[-1].name == name:
            return
        mean, variance = channel_moments(_tensor(inputs[0]), 1)
        seen.append(Moments(name, mean, variance, module.get_buffer(STORED[0]), module.get_buffer(STORED[1])))

    return read


def _own_batch_norms(network: nn.Module) -> dict[str, nn.Module]:
    """Layers with stored statistics that do not go through `torch.nn.functional.batch_norm`."""
    return {
        name: module
        for name, module in stored_layers(network).items()
        if not isinstance(module, nn.modules.batchnorm._BatchNorm)
    }


def _is_norm(module: nn.Module) -> bool:
    own = isinstance(module, nn.modules.batchnorm._NormBase | nn.GroupNorm | nn.LayerNorm | nn.RMSNorm)
    return own or (type(module).__name__.endswith(("Norm", "Norm2d")) and next(module.children(), None) is None)


def _reads_output(module: nn.Module) -> bool:
    return isinstance(module, nn.LayerNorm | nn.RMSNorm) or type(module).__name__.startswith(("LayerNorm", "RmsNorm"))


def _tensor(value: Any) -> Tensor:  # noqa: ANN401  whatever a layer takes or gives
    if not isinstance(value, Tensor):
        raise ShapeError(f"moments are taken of one tensor, a layer of statistics holds {type(value).__name__}")
    return value


def _metadata(content: bytes) -> dict[str, str]:
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    return dict(header.get("__metadata__", {}))
