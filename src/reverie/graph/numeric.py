"""Real forward passes for proofs, on a copy with random parameters and statistics.

Random, so that no symmetry of an initialization or of a trained network hides an error.
"""

import copy

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from reverie.core.rng import generator, preserved_rng
from reverie.graph.trace import Example, positional

__all__ = ["distance", "floats", "outputs", "randomized", "settle"]

_SMALL = 1e-6
_LEAST = 0.1
"""Of the mean square of all channels, what that of a channel is taken to be at least."""


def randomized(model: nn.Module, *, seed: int, dtype: torch.dtype) -> nn.Module:
    """A copy in evaluation mode and another precision, with random parameters and running statistics.

    Matrices and kernels get the scale that keeps activations of order one, vectors are drawn around one, biases and
    means around zero. Other buffers stay as they are.
    """
    fresh = copy.deepcopy(model).eval().to(dtype)
    with torch.no_grad():
        for index, (name, tensor) in enumerate([*fresh.named_parameters(), *fresh.named_buffers()]):
            if not tensor.is_floating_point() or not (isinstance(tensor, nn.Parameter) or "running_" in name):
                continue
            rng = generator(seed, "randomized", index)
            drawn = torch.rand(tensor.shape, generator=rng, dtype=dtype)
            if tensor.ndim >= 2:
                fan_in = max(1, tensor[0].numel())
                drawn = (drawn - 0.5) * (24 / fan_in) ** 0.5
            elif name.endswith(("bias", "running_mean")):
                drawn = (drawn - 0.5) * 0.5
            else:
                drawn = drawn + 0.5
            tensor.copy_(drawn)
    return fresh


def settle(model: nn.Module, example: Example) -> None:
    """Bring, in place, the random running statistics of batch normalization to the scale of its input on `example`.

    Without it activations grow with depth until gates saturate and differences drown. The scale is the root mean
    square, not the standard deviation: where examples are few or alike, dividing by what little they differ by would
    blow up rounding errors, layer by layer.
    """

    def before(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        mean, variance = module.running_mean, module.running_var
        if isinstance(mean, Tensor) and isinstance(variance, Tensor):
            found = args[0].square().mean([dim for dim in range(args[0].ndim) if dim != 1])
            found = found.clamp_min(_LEAST * float(found.mean()))
            found = torch.where(found > _SMALL, found, 1.0)
            variance.mul_(found)
            mean.mul_(found.sqrt())

    layers = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    handles = [layer.register_forward_pre_hook(before) for layer in layers]
    try:
        outputs(model, example)
    finally:
        for handle in handles:
            handle.remove()


def outputs(model: nn.Module, example: Example) -> list[Tensor]:
    """The floating-point tensors that a network returns, without gradient and without touching the random state."""
    with torch.no_grad(), preserved_rng():
        return floats(model(*positional(example)))


def floats(answer: object) -> list[Tensor]:
    """The floating-point tensors in what a network returned."""
    return [leaf for leaf in tree_leaves(answer) if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def distance(found: list[Tensor], wanted: list[Tensor]) -> float:
    """Largest absolute difference over the largest magnitude wanted; infinite where shapes or finiteness differ."""
    if [one.shape for one in found] != [one.shape for one in wanted]:
        return float("inf")
    worst = 0.0
    for one, other in zip(found, wanted, strict=True):
        scale = float(other.abs().max()) if other.numel() else 1.0
        gap = float((one - other).abs().max()) if other.numel() else 0.0
        ratio = gap / scale if scale > 0 else gap
        worst = max(worst, ratio if ratio == ratio else float("inf"))
    return worst
