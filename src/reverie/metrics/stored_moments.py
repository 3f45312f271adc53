"""Do images have the moments that a network's batch normalization stored? On a mix that was not optimized together.

What for: a batch that was optimized as one may meet the moments as a whole while no image looks real. Fresh batches,
mixed from all images, say what a user of the bank meets. Cost: one forward pass.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reverie.core.counts import check_counts
from reverie.core.errors import StatisticsMissing
from reverie.core.modes import frozen
from reverie.core.rng import generator, preserved_rng
from reverie.core.source import Source
from reverie.metrics.feature_space import reading_inputs

__all__ = ["STORED", "MomentFit", "moment_fit", "stored_layers"]

# What batch normalization of any class stores.
STORED = ("running_mean", "running_var")
# Below this a variance is that of a channel without content.
SMALLEST = 1e-12


@dataclass(frozen=True)
class MomentFit:
    """Mean over layers and channels; 0 is a perfect fit.

    Attributes:
        mean_error: |mean - stored mean| in stored deviations.
        log_variance_error: |log(variance / stored variance)|.

    Example:
        >>> norm = nn.BatchNorm2d(1, momentum=1.0)
        >>> source = Source("few", torch.randint(0, 256, (64, 1, 4, 4), dtype=torch.uint8))
        >>> _ = norm(source.floats())  # stores what these images have
        >>> found = moment_fit(norm, source)
        >>> found.mean_error < 1e-5, found.log_variance_error < 0.01
        (True, True)
    """

    mean_error: float
    log_variance_error: float


def stored_layers(network: nn.Module) -> dict[str, nn.Module]:
    """The layers that store batch statistics, of whatever class, by qualified name.

    Instance normalization is none of them: what it stores are means over the moments of single images.

    Example:
        >>> list(stored_layers(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))))
        ['1']
    """
    return {
        name: module
        for name, module in network.named_modules()
        if all(isinstance(getattr(module, buffer, None), Tensor) for buffer in STORED)
        and not isinstance(module, nn.modules.instancenorm._InstanceNorm)
    }


def moment_fit(network: nn.Module, source: Source, *, batch_size: int = 256, seed: int = 0) -> MomentFit:
    """How far the moments of a random mix of images lie from those that batch normalization stored.

    Args:
        network: Takes images in [0, 1]; as before afterwards.
        source: The images.
        batch_size: Images in the mix, at least 1; all of them where there are fewer.
        seed: Of the mix.

    Raises:
        RangeError: `batch_size` below 1.
        StatisticsMissing: No layer stores moments.

    Example:
        >>> source = Source("two", torch.tensor([[[[0, 255]]]], dtype=torch.uint8))
        >>> moment_fit(nn.BatchNorm2d(1, eps=0), source)
        MomentFit(mean_error=0.5, log_variance_error=1.3862943649291992)
    """
    check_counts(batch_size=batch_size)
    modules = stored_layers(network)
    if not modules:
        raise StatisticsMissing(f"{type(network).__name__} has no layer with stored moments to be compared with")
    pick = torch.randperm(len(source), generator=generator(seed, "moment fit"))[:batch_size]
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    means: list[Tensor] = []
    variances: list[Tensor] = []

    def read(name: str, x: Tensor) -> None:
        variance, mean = torch.var_mean(x.float(), [0, *range(2, x.ndim)], correction=0)
        stored_mean, stored = (modules[name].get_buffer(buffer) for buffer in STORED)
        means.append(((mean - stored_mean).abs() / stored.clamp_min(SMALLEST).sqrt()).mean())
        variances.append((variance.clamp_min(SMALLEST) / stored.clamp_min(SMALLEST)).log().abs().mean())

    with frozen(network), torch.no_grad(), preserved_rng(), reading_inputs(network, list(modules), read):
        network(source.floats(pick).to(device))
    return MomentFit(float(torch.stack(means).mean()), float(torch.stack(variances).mean()))
