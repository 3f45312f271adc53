"""Other canvases: the spectrum of an image, and the output of a small network.

What for: image priors by construction. Optimizing Fourier coefficients that are scaled as photographs are gives large
shapes the same chance as fine texture; optimizing the weights of a convolutional network (the deep image prior) gives
images that such a network produces easily. Either replaces `PixelCanvas` in the loop.

Cost: one FFT per step; or one pass of a small network, forward and back.
Source: Olah et al. 2017, "Feature visualization", Distill (preconditioning); Ulyanov et al. 2018, arXiv:1711.10925.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from reverie.core.errors import RangeError
from reverie.core.rng import generator

__all__ = ["FourierCanvas", "NetworkCanvas"]


class FourierCanvas:
    """Images as scaled spectra, any number of dimensions: sigmoid of the inverse FFT of c / frequency.

    Args:
        seeds: One per image.
        image_shape: (c, ...).
        deviation: Of the start, before the sigmoid; > 0.
        device: Where the spectra live.

    Raises:
        RangeError: `deviation` is not positive.

    Example:
        >>> FourierCanvas([0, 1], (3, 8, 8)).images().shape
        torch.Size([2, 3, 8, 8])

    Fails when: the network's images have hard edges everywhere, as writing has; they need many coefficients at once.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        image_shape: Sequence[int],
        *,
        deviation: float = 1.0,
        device: torch.device | None = None,
    ) -> None:
        if not deviation > 0:
            raise RangeError(f"deviation must be positive, got {deviation}")
        self.sides = tuple(image_shape[1:])
        half = (*self.sides[:-1], self.sides[-1] // 2 + 1)
        starts = [torch.randn(image_shape[0], *half, 2, generator=generator(seed, "fourier")) for seed in seeds]
        self.coefficients = (torch.stack(starts) * deviation).to(device).requires_grad_()
        axes = [torch.fft.fftfreq(side) for side in self.sides[:-1]] + [torch.fft.rfftfreq(self.sides[-1])]
        frequency = torch.stack([axis.square() for axis in torch.meshgrid(*axes, indexing="ij")]).sum(0).sqrt()
        scale = 1 / frequency.clamp_min(1 / max(self.sides))
        # Unit variance of the image for unit variance of the coefficients.
        self.scale = (scale / scale.square().sum().mul(2).sqrt()).to(device)

    def parameters(self) -> Sequence[Tensor]:
        """The coefficients, real and imaginary."""
        return (self.coefficients,)

    def images(self) -> Tensor:
        """(n, c, ...) in (0, 1)."""
        spectrum = torch.view_as_complex(self.coefficients) * self.scale
        axes = tuple(range(2, 2 + len(self.sides)))
        # norm="forward" leaves the inverse unscaled: the scale above is the only one.
        return torch.sigmoid(torch.fft.irfftn(spectrum, s=self.sides, dim=axes, norm="forward"))

    def settle(self) -> None:
        """Nothing to do: every spectrum is allowed."""


class NetworkCanvas:
    """Images as what a network makes of fixed or optimized codes: deep image prior, or a generator.

    Args:
        network: Codes -> images in [0, 1]; its parameters are optimized.
        codes: What it is given.
        optimize_codes: Whether the codes are optimized as well.

    Example:
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
