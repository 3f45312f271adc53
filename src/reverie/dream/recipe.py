"""How images are optimized: the recipe that serves all networks, and the published one, to compare with.

A recipe is a term, what the network is shown, how images are parametrized, and the stages from coarse to fine; `dream`
takes each of them by itself.

Source: Yin et al. 2020, arXiv:1912.08795, section 4.1 and supplementary, for the published one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from reverie.core.augment import Augment, RandomAffine, ShiftAndFlip
from reverie.core.network import as_network
from reverie.dream.canvas import PixelCanvas
from reverie.dream.fourier import FourierCanvas
from reverie.dream.layer_statistics import Statistics, StatisticsSource
from reverie.dream.network_canvas import deep_image_prior
from reverie.dream.published import CIFAR, IMAGENET, published_term
from reverie.dream.stages import LEARNING_RATE, MakeCanvas, Stage
from reverie.dream.terms import Term, class_term, norm_term, statistics_term, total_variation_term

__all__ = [
    "Recipe",
    "default_augment",
    "default_batch_size",
    "default_term",
    "prior_term",
    "published_recipe",
    "usual_learning_rate",
    "usual_statistics_weight",
    "white_noise",
]

# Weights of moments that training stored, or that were measured on real images; and of those that are a guess.
KNOWN, GUESSED = 5.0, 0.2
# Memory of a batch: as many pixels as 512 images of 32 by 32.
BATCH_PIXELS = 2**19
LARGEST_BATCH = 128
SMALLEST_BATCH = 8
# A largest shift of one tenth of the side is 3 pixels at 28 and 32, 22 at 224.
SHIFT_SHARE = 1 / 10
# Images of longer sides are dreamed in two stages, with the settings of large images.
LARGE_SIDE = 96


@dataclass(frozen=True)
class Recipe:
    """How images are optimized; its parts are arguments of `dream`.

    Attributes:
        term: What they should satisfy.
        canvas: How they are parametrized.
        stages: From coarse to fine.

    Example:
        >>> recipe = published_recipe(nn.Identity(), image_shape=(3, 32, 32))
        >>> [(stage.share, stage.steps) for stage in recipe.stages]
        [(1.0, 2000)]
    """

    term: Term
    canvas: MakeCanvas
    stages: tuple[Stage, ...]


def default_term(statistics_weight: float = KNOWN) -> Term:
    """The recipe: be recognized, have the right statistics, be smooth, and a trace of the norm.

    class + 5 statistics + total variation + 0.001 norm, each as in `reverie.dream.terms`.

    Args:
        statistics_weight: At least 0; `usual_statistics_weight` says which for a source.

    Example:
        >>> [(part.name, part.weight) for part in default_term().parts]
        [('class', 1.0), ('statistics', 5.0), ('total variation', 1.0), ('norm', 0.001)]
    """
    return class_term() + statistics_weight * statistics_term() + total_variation_term() + 0.001 * norm_term()


def usual_statistics_weight(source: StatisticsSource) -> float:
    """5 where moments of training are known, 0.2 where they are a guess, which should not outvote the class.

    Measured with moments of dead leaves on a CIFAR-10 ResNet-20, 64 dreams of 120 steps: with 5 the network itself
    recognizes 89 %, two others 73 and 64 %; with 0.2 it is 100, 72 and 81 %. A network of gray drawings, which are
    unlike dead leaves, recognizes 30 % with 5, and all with 0.2.
    """
    return GUESSED if isinstance(source, Statistics) and not source.known else KNOWN


def prior_term() -> Term:
    """The recipe without statistics: be recognized, and be smooth.

    class + 10 total variation + 0.001 norm. Of networks whose statistics are known it gives the poorer images; measured
    on a CIFAR-10 ResNet-20, two others recognize 51 % of such dreams, and 84 % of those with statistics.

    Example:
        >>> [(part.name, part.weight) for part in prior_term().parts]
        [('class', 1.0), ('total variation', 10.0), ('norm', 0.001)]
    """
    return class_term() + 10.0 * total_variation_term() + 0.001 * norm_term()


def default_augment(image_shape: Sequence[int]) -> Augment:
    """What a network is shown of images in each step: they are shifted, zoomed, turned and mirrored.

    Args:
        image_shape: (c, h, w); images of other numbers of dimensions are shifted and mirrored only.

    Example:
        >>> default_augment((3, 28, 28))
        RandomAffine(shift=3, zoom=0.2, turn=0.15, flip=True)
    """
    shift = round(SHIFT_SHARE * min(image_shape[1:]))
    return RandomAffine(shift) if len(image_shape) == 3 else ShiftAndFlip(shift)


def default_batch_size(image_shape: Sequence[int]) -> int:
    """As many images as fit in a bounded memory, from 8 to 128."""
    return max(SMALLEST_BATCH, min(LARGEST_BATCH, BATCH_PIXELS // math.prod(image_shape[1:])))


def published_recipe(network: nn.Module, *, image_shape: Sequence[int]) -> Recipe:
    """DeepInversion as it was published: raw sums, shifts and flips, pixels from white noise.

    | sides | weights | stages | shift | learning rate |
    |---|---|---|---|---|
    | below 96 | `CIFAR` | 2,000 steps | 2, not mirrored | 0.05 |
    | from 96 | `IMAGENET` | 2,000 steps at half the sides, 1,000 at the whole | 15 and 30, mirrored | 0.25 |

    Args:
        network: Its normalization is taken over.
        image_shape: (c, ...) of the images.

    Example:
        >>> recipe = published_recipe(nn.Identity(), image_shape=(3, 224, 224))
        >>> [(stage.share, stage.steps, stage.learning_rate) for stage in recipe.stages]
        [(0.5, 2000, 0.25), (1.0, 1000, 0.25)]

    Fails when: the batch or the network is another than the weights were chosen for.
    Reference: Yin et al., 2020, arXiv:1912.08795, section 4.1. Differs: each image has its own shift; pixels are kept
    in [0, 1] in all settings; Adam has betas (0.5, 0.9) and the rate falls as half a cosine without warm-up.
    """
    wrapped = as_network(network, image_shape)
    if min(image_shape[1:]) < LARGE_SIDE:
        stages: tuple[Stage, ...] = (Stage(2000, 1.0, 0.05, ShiftAndFlip(2, flip=False)),)
        return Recipe(published_term(wrapped, weights=CIFAR), white_noise, stages)
    stages = (Stage(2000, 0.5, 0.25, ShiftAndFlip(15)), Stage(1000, 1.0, 0.25, ShiftAndFlip(30)))
    return Recipe(published_term(wrapped, weights=IMAGENET), white_noise, stages)


def white_noise(seeds: Sequence[int], image_shape: Sequence[int], *, device: torch.device | None = None) -> PixelCanvas:
    """Pixels that begin as normal noise of deviation 1/4 around 1/2, each image from a seed of its own.

    Args:
        seeds: One per image.
        image_shape: (c, length), (c, h, w) or (c, d, h, w).
        device: Where the pixels live; the noise is the same everywhere.

    Example:
        >>> white_noise([0, 1], (3, 8, 8)).images().shape
        torch.Size([2, 3, 8, 8])
    """
    starts = [torch.randn(tuple(image_shape), generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return PixelCanvas((torch.stack(starts) / 4 + 0.5).clamp(0, 1).to(device))


# What a step moves differs: coefficients of a spectrum, pixels, weights of a network.
RATES = ((FourierCanvas, 0.05), (PixelCanvas.noise, 0.1), (white_noise, 0.1), (deep_image_prior, 0.01))


def usual_learning_rate(canvas: MakeCanvas) -> float:
    """The rate that a canvas was tried with; that of a spectrum for any other.

    Example:
        >>> usual_learning_rate(FourierCanvas), usual_learning_rate(deep_image_prior)
        (0.05, 0.01)
    """
    return next((rate for make, rate in RATES if make is canvas), LEARNING_RATE)
