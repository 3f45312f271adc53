"""A prior for vision transformers: patches of a real image are unlike each other, patches of noise are all alike.

Cost: one p by p similarity per image and attention layer, p patches; small beside the layer.
Source: Li et al. 2022, "Patch similarity aware data-free quantization for vision transformers" (PSAQ-ViT),
arXiv:2203.02250, section 3.2. Differs: entropy by a kernel density on a fixed grid with one bandwidth for all layers.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.core.errors import RangeError, ShapeError, StatisticsMissing
from reverie.dream.terms import Part, Term, View

__all__ = ["PatchSimilarity", "attention_layers", "patch_similarity_term", "similarity_entropy"]

GRID = 64
BANDWIDTH = 0.05
# Tokens that are no patches, such as the class token, stand in front; there are never more than these.
LARGEST_EXTRA = 8


@dataclass(frozen=True)
class PatchSimilarity:
    """Minus the entropy of the patches' cosine similarities, averaged over attention layers and images, in nats.

    Reads the outputs of attention layers from the view's taps; see `attention_layers`.
    """

    bandwidth: float = BANDWIDTH

    def __call__(self, view: View) -> Tensor:
        """Mean over layers."""
        outputs = [_tokens(reading.output) for reading in view.taps.values()]
        if not outputs:
            raise StatisticsMissing(
                "the patch-similarity term reads attention layers, and none is tapped. "
                "Pass taps=attention_layers, and dream from a transformer."
            )
        return -torch.stack([similarity_entropy(_patches(x), bandwidth=self.bandwidth) for x in outputs]).mean()


def patch_similarity_term(*, bandwidth: float = BANDWIDTH) -> Term:
    """Have patches as diverse as those of a photograph; see `PatchSimilarity`.

    Args:
        bandwidth: Of the kernel density over similarities, > 0, in units of the cosine.

    Raises:
        RangeError: `bandwidth` is not positive.

    Example:
        >>> patch_similarity_term(bandwidth=0.1).describe()[0]["name"]
        'patch similarity'
    """
    if not bandwidth > 0:
        raise RangeError(f"bandwidth must be positive, got {bandwidth}")
    return Term((Part("patch similarity", 1.0, PatchSimilarity(bandwidth)),))


def attention_layers(name: str, module: nn.Module) -> bool:
    """Whether a layer is an attention whose output holds one vector per patch: a selector for taps.

    Example:
        >>> attention_layers("attn", nn.MultiheadAttention(4, 2)), attention_layers("fc", nn.Linear(2, 2))
        (True, False)
    """
    del name
    return type(module).__name__.endswith("Attention")


def similarity_entropy(patches: Tensor, *, bandwidth: float = BANDWIDTH) -> Tensor:
    """Differential entropy, in nats, of the density of cosine similarities between the patches of one image.

    f(t) = mean over pairs i != j of a normal density at t around cos(x_i, x_j) with deviation `bandwidth`;
    the value is -sum over a grid on [-1, 1] of f log f times the spacing, averaged over images.

    Shapes: patches (n, p, d) with p >= 2 -> scalar, at most log 2 + a little for the kernel's tails.

    Example:
        >>> alike = similarity_entropy(torch.ones(1, 4, 3))
        >>> unlike = similarity_entropy(torch.randn(1, 64, 3, generator=torch.Generator().manual_seed(0)))
        >>> bool(unlike > alike)
        True
    """
    p = patches.shape[1]
    unit = F.normalize(patches.float(), dim=-1)
    rows, columns = torch.triu_indices(p, p, offset=1, device=patches.device)
    cosine = (unit @ unit.mT)[:, rows, columns]
    grid = torch.linspace(-1 - 3 * bandwidth, 1 + 3 * bandwidth, GRID, device=patches.device)
    bins = _soft_histogram(cosine, grid)
    kernel = torch.exp(-0.5 * ((grid[:, None] - grid[None, :]) / bandwidth).square())
    density = bins @ (kernel / (bandwidth * math.sqrt(2 * math.pi)))
    spacing = float(grid[1] - grid[0])
    return -(density * density.clamp_min(1e-12).log()).sum(1).mean() * spacing


def _soft_histogram(values: Tensor, grid: Tensor) -> Tensor:
    """(n, m) values -> (n, g) shares, each value spread over its two neighbors, so that it has a gradient."""
    spacing = grid[1] - grid[0]
    place = (values - grid[0]) / spacing
    low = place.detach().floor().long().clamp(0, len(grid) - 2)
    upper = place - low
    shares = torch.zeros(len(values), len(grid), device=values.device, dtype=values.dtype)
    shares = shares.scatter_add(1, low, 1 - upper).scatter_add(1, low + 1, upper)
    return shares / values.shape[1]


def _tokens(output: object) -> Tensor:
    first = output[0] if isinstance(output, tuple) else output
    if not isinstance(first, Tensor) or first.ndim < 3:
        found = f"shape {tuple(first.shape)}" if isinstance(first, Tensor) else type(first).__name__
        raise ShapeError(f"patch similarity reads tokens (n, p, d) of attention layers, a tapped layer gave {found}")
    return first.flatten(1, -2)


def _patches(tokens: Tensor) -> Tensor:
    """The tokens without those in front that are no patches: patches come in a square number."""
    count = tokens.shape[1]
    for extra in range(min(LARGEST_EXTRA, count - 1)):
        if math.isqrt(count - extra) ** 2 == count - extra:
            return tokens[:, extra:]
    return tokens
