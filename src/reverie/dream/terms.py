"""What a dream should satisfy: named, weighted scalars of what the network reports.

Terms form a small closed algebra: `a + b` joins, `2.0 * a` scales, and `0.0 * a + b == b`. Every built-in loss is
dimensionless and independent of batch size, depth and resolution, so one set of weights serves every network.

Source: class, total variation and norm, Mahendran and Vedaldi 2015, arXiv:1412.0035; batch-norm statistics, Yin et al.
2020, arXiv:1912.08795, section 3.2.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from reverie.core.describe import describe
from reverie.core.errors import RangeError, StatisticsMissing
from reverie.core.tap import Reading
from reverie.dream.statistics import Moments

__all__ = [
    "CrossEntropy",
    "Norm",
    "Part",
    "Statistics",
    "Term",
    "TotalVariation",
    "View",
    "class_term",
    "norm_term",
    "statistics_term",
    "total_variation_term",
]


@dataclass(frozen=True, eq=False)
class View:
    """What a term may look at: one step of one batch.

    Attributes:
        images: (n, c, ...) in [0, 1], as the network saw them in this step: shifted, flipped.
        logits: (n, k) float32, what the network answered; (n, ...) for heads other than a single label.
        targets: (n,) int64 classes asked for, or what the head takes.
        moments: Batch statistics beside stored ones, one for each batch normalization, in order of execution.
        taps: Inputs and outputs of the layers that the caller asked for.
        progress: Share of the steps that are done, in [0, 1).

    Example:
        >>> view = View(torch.zeros(1, 1, 2, 2), torch.tensor([[0.0, 0.0]]), torch.tensor([1]))
        >>> class_term()(view)
        tensor(0.6931)
    """

    images: Tensor
    logits: Tensor
    targets: Tensor
    moments: Sequence[Moments] = ()
    taps: Mapping[str, Reading] = field(default_factory=dict)
    progress: float = 0.0


Loss = Callable[[View], Tensor]


@dataclass(frozen=True)
class Part:
    """One loss with its weight. `name` is what reports call it; `loss` maps a view to a scalar.

    Example:
        >>> part = Part("mean pixel", 0.5, lambda view: view.images.mean())
        >>> view = View(torch.ones(1, 1, 2, 2), torch.zeros(1, 2), torch.tensor([1]))
        >>> Term((part,)).report(view)
        {'mean pixel': tensor(0.5000)}
    """

    name: str
    weight: float
    loss: Loss


@dataclass(frozen=True)
class Term:
    """A weighted sum of named losses.

    Example:
        >>> term = class_term() + 0.1 * norm_term()
        >>> [(part.name, part.weight) for part in term.parts]
        [('class', 1.0), ('norm', 0.1)]
        >>> 0.0 * norm_term() + class_term() == class_term()
        True
    """

    parts: tuple[Part, ...] = ()

    def __add__(self, other: "Term") -> "Term":
        return Term(self.parts + other.parts)

    def __mul__(self, factor: float) -> "Term":
        scaled = (replace(part, weight=part.weight * factor) for part in self.parts)
        return Term(tuple(part for part in scaled if part.weight != 0.0))

    __rmul__ = __mul__

    def report(self, view: View) -> dict[str, Tensor]:
        """Weighted value of each part by name; parts of one name are added. Their sum is the term's value."""
        values: dict[str, Tensor] = {}
        for part in self.parts:
            value = part.weight * part.loss(view)
            values[part.name] = values[part.name] + value if part.name in values else value
        return values

    def __call__(self, view: View) -> Tensor:
        """The scalar to be made small."""
        return torch.stack(list(self.report(view).values())).sum() if self.parts else view.logits.new_zeros(())

    def describe(self) -> list[dict[str, str | float]]:
        """Names, weights and settings as JSON values: two terms that differ in any built-in loss differ here."""
        return [{"name": part.name, "weight": part.weight, "loss": describe(part.loss)} for part in self.parts]


@dataclass(frozen=True)
class CrossEntropy:
    """Mean cross entropy of the logits with the targets, in nats."""

    def __call__(self, view: View) -> Tensor:
        """Mean over images."""
        return F.cross_entropy(view.logits, view.targets)


@dataclass(frozen=True)
class Statistics:
    """Relative distance of the batch moments from the stored ones, averaged over layers.

    For each layer |m - M| / |sqrt(V)| + |v - V| / |V|, with Euclidean norms over channels: m and v of the batch, M and
    V stored. Means are measured in deviations: many layers see centered values, and a stored mean near zero is no
    yardstick (behind linear bottlenecks it is a thousandth of the deviation).
    """

    first_weight: float = 1.0

    def __call__(self, view: View) -> Tensor:
        """Mean over layers."""
        if not view.moments:
            raise StatisticsMissing(
                "the term asks for batch-norm statistics, and no batch normalization with stored statistics ran in the "
                "network. Pass a term without them: class_term() + total_variation_term()."
            )
        layers = _relative_distances(view.moments)
        if self.first_weight == 0 and len(layers) == 1:
            raise StatisticsMissing(
                "first_weight=0 leaves nothing to match: only one batch normalization ran. Give it a weight above 0."
            )
        if self.first_weight != 1.0:
            weights = torch.ones_like(layers)
            weights[0] = self.first_weight
            return (weights * layers).sum() / weights.sum()
        return layers.mean()


@dataclass(frozen=True)
class TotalVariation:
    """Mean over pixels of |x[i+1] - x[i]|^power, summed over axes: 2 gives smooth images, 1 flat ones with edges."""

    power: float = 2.0

    def __call__(self, view: View) -> Tensor:
        """Mean over pixels."""
        if self.power == 2.0:
            squared: Tensor = _SquaredSteps.apply(view.images)
            return squared
        steps = [_step(view.images, axis).abs() for axis in range(2, view.images.ndim)]
        return torch.stack([_mean(step if self.power == 1.0 else step.pow(self.power)) for step in steps]).sum()


@dataclass(frozen=True)
class Norm:
    """Mean over pixels of the squared distance from `center`."""

    center: float = 0.5

    def __call__(self, view: View) -> Tensor:
        """Mean over pixels."""
        return (view.images - self.center).square().mean()


def class_term() -> Term:
    """Be recognized: mean cross entropy, in nats, weight 1.

    Example:
        >>> class_term().describe()
        [{'name': 'class', 'weight': 1.0, 'loss': 'CrossEntropy()'}]
    """
    return Term((Part("class", 1.0, CrossEntropy()),))


def statistics_term(*, first_weight: float = 1.0) -> Term:
    """Have the statistics of the data the network was trained on; see `Statistics`.

    Args:
        first_weight: How many ordinary layers the first one counts for, >= 0; it sees colors and contrast.

    Raises:
        RangeError: `first_weight` is negative.

    Example:
        >>> statistics_term(first_weight=2.0).describe()[0]["loss"]
        'Statistics(first_weight=2.0)'
    """
    if first_weight < 0:
        raise RangeError(f"first_weight must be at least 0, got {first_weight}")
    return Term((Part("statistics", 1.0, Statistics(first_weight)),))


def total_variation_term(*, power: float = 2.0) -> Term:
    """Be smooth; see `TotalVariation`.

    Raises:
        RangeError: `power` is not positive.

    Example:
        >>> edge = torch.tensor([[[[0.0, 1.0], [0.0, 1.0]]]])
        >>> total_variation_term()(View(edge, torch.zeros(1, 2), torch.tensor([1])))
        tensor(1.)
    """
    if power <= 0:
        raise RangeError(f"power must be positive, got {power}")
    return Term((Part("total variation", 1.0, TotalVariation(power)),))


def norm_term(*, center: float = 0.5) -> Term:
    """Stay near one gray value; see `Norm`.

    Example:
        >>> norm_term()(View(torch.ones(1, 1, 2, 2), torch.zeros(1, 2), torch.tensor([1])))
        tensor(0.2500)
    """
    return Term((Part("norm", 1.0, Norm(center)),))


def _relative_distances(moments: Sequence[Moments]) -> Tensor:
    """(layers,): the distance of each layer. All at once: a network has a hundred layers, each of a few numbers."""
    variances = torch.cat([one.stored_variance for one in moments])
    deltas = [
        torch.cat([one.mean for one in moments]) - torch.cat([one.stored_mean for one in moments]),
        torch.cat([one.variance for one in moments]) - variances,
    ]
    lengths = torch.tensor([len(one.mean) for one in moments], device=variances.device)
    squares = _sums(torch.stack(deltas, 1).square(), lengths)
    # Where the moments are met exactly the root has no slope; its gradient there is zero, as that of a norm.
    distances = torch.where(squares > 0, squares, 1.0).sqrt() * (squares > 0)
    # A layer that saw one constant has no deviation at all.
    smallest = torch.finfo(variances.dtype).tiny
    scales = _sums(torch.stack([variances, variances.square()], 1), lengths).sqrt().clamp_min(smallest)
    return (distances / scales).sum(1)


def _sums(rows: Tensor, lengths: Tensor) -> Tensor:
    """(channels, 2) -> (layers, 2). The lengths are right by construction; to check them would wait for the device."""
    return torch.segment_reduce(rows, "sum", lengths=lengths, unsafe=True)


class _SquaredSteps(torch.autograd.Function):
    """Sum over axes of the mean of (x[i+1] - x[i])^2, with its gradient in as many passes: a third of autograd's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ANN401  torch's context object
        ctx.save_for_backward(x)
        return torch.stack([_mean(_step(x, axis).square_()) for axis in range(2, x.ndim)]).sum()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # noqa: ANN401  torch's context object
        (x,) = ctx.saved_tensors
        total = torch.zeros_like(x)
        for axis in range(2, x.ndim):
            step = _step(x, axis)
            step.mul_(grad * (2 / max(step.numel(), 1)))
            total.narrow(axis, 1, x.shape[axis] - 1).add_(step)
            total.narrow(axis, 0, x.shape[axis] - 1).sub_(step)
        return total


def _mean(steps: Tensor) -> Tensor:
    """0 along an axis of one pixel, which has no steps."""
    return steps.mean() if steps.numel() else steps.sum()


def _step(x: Tensor, axis: int) -> Tensor:
    return x.narrow(axis, 1, x.shape[axis] - 1) - x.narrow(axis, 0, x.shape[axis] - 1)
