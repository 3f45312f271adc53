"""Batch-norm statistics counted anew on a source.

What for: after training on shifted images, or after a cut, the running statistics lag behind the weights,
or belong to other images. Cost: one forward pass of the source.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from reverie.core.errors import RangeError, StatisticsMissing
from reverie.core.rng import preserved_rng
from reverie.core.source import Source

__all__ = ["batch_norm_layers", "reestimate_batch_norm"]


@dataclass
class _Moments:
    """Count, mean and summed squared deviation per channel, in float64, joined batch by batch without cancellation."""

    count: int
    mean: Tensor
    deviation: Tensor

    def add(self, values: Tensor) -> None:
        axes = [axis for axis in range(values.ndim) if axis != 1]
        count = values.numel() // values.shape[1]
        variance, mean = torch.var_mean(values.double(), axes, correction=0)
        total, delta = self.count + count, mean - self.mean
        self.deviation += variance * count + delta.square() * (self.count * count / total)
        self.mean += delta * (count / total)
        self.count = total


def batch_norm_layers(network: nn.Module) -> dict[str, _BatchNorm]:
    """The layers that keep running statistics of their batches, by qualified name."""
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None and module.running_var is not None
    }


def reestimate_batch_norm(network: nn.Module, source: Source, *, batch_size: int = 256) -> nn.Module:
    """A copy whose batch-norm statistics are the moments that the source has at each layer.

    Every image counts once: the moments of the batches are joined exactly (mean, and unbiased variance over all
    images and positions), whatever their sizes. Each layer reads what the layers before it give when they normalize
    with their batch, as in training; dropout is off. Modes, weights and the batch counter stay as they are.

    Args:
        network: Takes images in [0, 1].
        source: Images as the network will meet them: not augmented.
        batch_size: Images at once, at least 2; large ones come closer to moments of the whole source in deep layers.

    Raises:
        StatisticsMissing: The network has no batch norm with running statistics.
        RangeError: `batch_size` below 2.

    Example:
        >>> from reverie.core.source import noise_source
        >>> source = noise_source(count=64, image_shape=(1, 4, 4), seed=0)
        >>> network = reestimate_batch_norm(nn.Sequential(nn.BatchNorm2d(1)), source)
        >>> torch.allclose(network[0].running_mean, source.floats().mean())
        True

    Fails when: fewer than a few hundred images and positions reach a layer; its variance is then noise.
    """
    if batch_size < 2:
        raise RangeError(f"batch statistics need batches of at least 2 images, got batch_size {batch_size}")
    counted = copy.deepcopy(network)
    layers = batch_norm_layers(counted)
    if not layers:
        raise StatisticsMissing(
            f"{type(network).__name__} has no batch norm with running statistics, so there is nothing to re-estimate"
        )
    modes = {module: module.training for module in counted.modules()}
    counters = {name: _clone(layer.num_batches_tracked) for name, layer in layers.items()}
    moments: dict[str, _Moments] = {}
    handles = [layer.register_forward_pre_hook(_reader(name, moments)) for name, layer in layers.items()]
    try:
        _pass(counted, layers, source, batch_size)
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes.items():
            module.training = mode
    for name, layer in layers.items():
        layer.num_batches_tracked = counters[name]
        if name in moments and layer.running_mean is not None and layer.running_var is not None:
            seen = moments[name]
            layer.running_mean.copy_(seen.mean)
            layer.running_var.copy_(seen.deviation / max(seen.count - 1, 1))
    return counted


def _pass(network: nn.Module, layers: dict[str, _BatchNorm], source: Source, batch_size: int) -> None:
    network.eval()
    for layer in layers.values():
        layer.training = True
    first = next(network.parameters(), None)
    device = first.device if first is not None else torch.device("cpu")
    # A last batch of one image has no variance where the map is 1x1, so the batches are made nearly equal instead.
    parts = max(1, -(-len(source) // batch_size))
    with torch.no_grad(), preserved_rng(), torch.autocast(device.type, enabled=False):
        for pick in torch.arange(len(source)).tensor_split(parts):
            network(source.floats(pick).to(device))


def _reader(name: str, moments: dict[str, _Moments]) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    def read(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        values: Tensor = inputs[0]
        if name not in moments:
            zeros = torch.zeros(values.shape[1], dtype=torch.float64, device=values.device)
            moments[name] = _Moments(0, zeros, zeros.clone())
        moments[name].add(values)

    return read


def _clone(counter: Tensor | None) -> Tensor | None:
    return None if counter is None else counter.clone()
