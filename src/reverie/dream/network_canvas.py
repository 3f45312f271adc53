"""Images as what a network makes of codes: the deep image prior, and generators.

Cost: one pass of the network, forward and back, per step.
Source: Ulyanov et al. 2018, arXiv:1711.10925.
"""

from collections.abc import Sequence

from torch import Tensor, nn

__all__ = ["NetworkCanvas"]


class NetworkCanvas:
    """Images as what a network makes of fixed or optimized codes: deep image prior, or a generator.

    Args:
        network: Codes -> images in [0, 1]; its parameters are optimized.
        codes: What it is given.
        optimize_codes: Whether the codes are optimized as well.

    Example:
        >>> import torch
        >>> network = nn.Sequential(nn.Linear(2, 4), nn.Sigmoid(), nn.Unflatten(1, (1, 2, 2)))
        >>> NetworkCanvas(network, torch.zeros(3, 2)).images().shape
        torch.Size([3, 1, 2, 2])
    """

    def __init__(self, network: nn.Module, codes: Tensor, *, optimize_codes: bool = False) -> None:
        self.network = network
        self.codes = codes.detach().clone().requires_grad_(optimize_codes)

    def parameters(self) -> Sequence[Tensor]:
        """The network's parameters, and the codes where they are optimized."""
        return [*self.network.parameters(), *([self.codes] if self.codes.requires_grad else [])]

    def images(self) -> Tensor:
        """Whatever the network makes of the codes."""
        images: Tensor = self.network(self.codes)
        return images

    def settle(self) -> None:
        """Nothing to do: the network's last layer keeps images in [0, 1]."""
