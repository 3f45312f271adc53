"""Images as what a network makes of codes: the deep image prior, generators, and which code made an image.

Cost: one pass of the network, forward and back, per step.
Source: Ulyanov et al. 2018, arXiv:1711.10925; recovering codes, Creswell and Bharath 2016, arXiv:1611.05644.
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from reverie.core.augment import still
from reverie.core.errors import ShapeError
from reverie.core.events import Listener, renamed, silent
from reverie.core.rng import derive_seed, preserved_rng, seed_global
from reverie.dream.conditional import CODE, ConditionalGenerator
from reverie.dream.heads import embedding
from reverie.dream.layer_statistics import NoStatistics
from reverie.dream.loop import optimize

__all__ = ["CodesCanvas", "NetworkCanvas", "deep_image_prior", "recover_codes"]


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


class CodesCanvas:
    """Images as what a fixed generator makes of codes that are optimized.

    Args:
        generator: Codes -> images; a frozen copy is kept.
        codes: Start values; copied.

    Example:
        >>> CodesCanvas(nn.Sequential(nn.Linear(2, 4), nn.Unflatten(1, (1, 2, 2))), torch.zeros(3, 2)).images().shape
        torch.Size([3, 1, 2, 2])
    """

    def __init__(self, generator: nn.Module, codes: Tensor) -> None:
        self.generator = copy.deepcopy(generator).eval().requires_grad_(False)
        self.codes = codes.detach().clone().requires_grad_()

    def parameters(self) -> Sequence[Tensor]:
        """The codes."""
        return (self.codes,)

    def images(self) -> Tensor:
        """What the generator makes of the codes."""
        images: Tensor = self.generator(self.codes)
        return images

    def settle(self) -> None:
        """Nothing to do: every code is allowed."""


def deep_image_prior(
    seeds: Sequence[int], image_shape: Sequence[int], *, device: torch.device | None = None
) -> NetworkCanvas:
    """Images as what an untrained convolutional network makes of random codes: smooth shapes are easier than noise.

    The images of a batch share the network; its weights and the codes are optimized.

    Args:
        seeds: One for each image: its code. The first also decides the network's first weights.
        image_shape: (c, h, w).
        device: Where all of it lives.

    Raises:
        ShapeError: Images that are not (c, h, w).

    Example:
        >>> deep_image_prior([0, 1], (3, 9, 10)).images().shape
        torch.Size([2, 3, 9, 10])

    Fails when: images of a batch should have nothing in common. Reference: Ulyanov et al., 2018, arXiv:1711.10925.
    Differs: one network for a batch, of codes without positions.
    """
    if len(image_shape) != 3:
        raise ShapeError(
            f"the deep image prior draws images (c, h, w), asked for {tuple(image_shape)}. "
            "Optimize pixels or a spectrum."
        )
    with preserved_rng():
        seed_global(derive_seed(seeds[0], "deep image prior"))
        maker = ConditionalGenerator(classes=0, image_shape=image_shape)
    codes = [torch.randn(CODE, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return NetworkCanvas(maker.to(device), torch.stack(codes).to(device), optimize_codes=True)


def recover_codes(
    generator: nn.Module,
    images: Tensor,
    *,
    codes: Tensor,
    steps: int = 200,
    learning_rate: float = 0.1,
    on_event: Listener = silent,
) -> Tensor:
    """Which codes make these images? By descent from given codes on the relative squared error.

    Shapes: images (n, c, ...) -> codes (n, ...).

    Args:
        generator: Codes -> images; as before afterwards.
        images: What it made, or should make.
        codes: Where to begin: one for each image, such as noise.
        steps: Of the loop, >= 1.
        learning_rate: Of the first step, in units of the codes.
        on_event: Told of every step, under the stage "recovering codes".

    Raises:
        ShapeError: The generator makes images of another shape, or the codes are not as many.
        RangeError: `steps` or `learning_rate` is not positive.

    Example:
        >>> generator = nn.Sequential(nn.Linear(1, 2, bias=False), nn.Unflatten(1, (1, 2)))
        >>> made = generator(torch.tensor([[0.7]])).detach()
        >>> found = recover_codes(generator, made, codes=torch.zeros(1, 1), steps=100)
        >>> bool((found - 0.7).abs().max() < 0.01)
        True

    Fails when: many codes make one image, or the generator makes no such image; the nearest found is returned.
    Reference: Creswell and Bharath, 2016, arXiv:1611.05644, algorithm 1. Differs: Adam, relative squared error.
    """
    canvas = CodesCanvas(generator, codes)
    with torch.no_grad(), preserved_rng():
        made = canvas.images()
    if made.shape != images.shape:
        raise ShapeError(
            f"the generator makes images {tuple(made.shape)} of these codes, asked for {tuple(images.shape)}"
        )
    optimize(
        nn.Identity(),
        canvas,
        term=embedding().term,
        targets=images,
        steps=steps,
        augment=still,
        seed=0,
        learning_rate=learning_rate,
        precision=torch.float32,
        statistics=NoStatistics(),
        on_event=renamed("recovering codes", on_event),
    )
    return canvas.codes.detach()
