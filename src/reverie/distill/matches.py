"""Which layer of the student is asked to be like which layer of the teacher, and in what sense."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reverie.core.describe import describe
from reverie.core.errors import RangeError, ReferenceNotFound, ShapeError
from reverie.core.rng import generator, preserved_rng
from reverie.core.tap import Reading, tap
from reverie.distill.adapters import Adapter
from reverie.distill.batchnorm import batch_norm_layers
from reverie.distill.feature_losses import FeatureLoss, feature_loss
from reverie.distill.features import Features, feature_of, map_shapes, select_kept

__all__ = ["Match", "Matched", "same_layers", "stage_matches"]


@dataclass(frozen=True)
class Match:
    """A layer of the student beside one of the teacher.

    Attributes:
        student: Qualified name of the student's layer; its output is the feature.
        teacher: Qualified name of the teacher's.
        loss: Of the two features; see `reverie.distill.feature_losses`.
        weight: Of the loss, at least 0.
        kept: For each of the student's channels the teacher's that it stands for; None compares all.
        adapt: Whether a learned adapter stands between them where the loss refuses the features as they are.

    Raises:
        RangeError: A negative weight.

    Example:
        >>> Match("layer1", "stage1", weight=2.0).weight
        2.0
    """

    student: str
    teacher: str
    loss: FeatureLoss = feature_loss
    weight: float = 1.0
    kept: Sequence[int] | None = None
    adapt: bool = True

    def __post_init__(self) -> None:
        if not self.weight >= 0:
            raise RangeError(f"the weight of a match is at least 0, got {self.weight} for {self.student!r}")

    def describe(self) -> list[object]:
        """The match as JSON values."""
        kept = None if self.kept is None else list(self.kept)
        return [self.student, self.teacher, describe(self.loss), self.weight, kept, self.adapt]


def same_layers(features: Features, *, weight: float = 30.0) -> tuple[Match, ...]:
    """Matches of layers that both networks have under one name, their weights adding up to `weight`.

    The loss is |student - teacher|^2 / |teacher|^2, so a weight means the same in every network. Outputs of stages
    serve well.

    Args:
        features: Name of a layer -> for each channel of the student's output the teacher's channel that it stands for,
            or None where it has all.
        weight: At least 0; of all together.

    Raises:
        RangeError: A negative weight.

    Example:
        >>> [match.weight for match in same_layers({"body.layer1": None, "body.layer2": [0, 2]}, weight=3.0)]
        [1.5, 1.5]
    """
    each = weight / max(1, len(features))
    return tuple(Match(name, name, weight=each, kept=kept, adapt=False) for name, kept in features.items())


class Matched:
    """Matches of two networks that are at hand, with the adapters that they need.

    Args:
        matches: What is compared.
        teacher: Untouched but for the taps while `reading`.
        student: Likewise.
        images: A few images that both take.
        seed: Of the adapters' first weights.

    Raises:
        ReferenceNotFound: A network lacks a layer, or a forward pass does not reach it.
        ShapeError: Features that the loss refuses, with the adapter or where none is wanted.
    """

    def __init__(
        self, matches: Sequence[Match], teacher: nn.Module, student: nn.Module, images: Tensor, *, seed: int
    ) -> None:
        self.matches, self.teacher, self.student = tuple(matches), teacher, student
        self.adapters = nn.ModuleDict()
        self._of_teacher: Mapping[str, Reading] = {}
        self._of_student: Mapping[str, Reading] = {}
        _check_names([match.teacher for match in matches], teacher, role="teacher")
        _check_names([match.student for match in matches], student, role="student")
        if not matches:
            return
        # Batch norms as in training, where they make features as large as they will be; on a copy, which they change.
        trial = copy.deepcopy(student).eval()
        for layer in batch_norm_layers(trial).values():
            layer.training = True
        with self._reading(trial), torch.no_grad(), preserved_rng():
            teacher(images)
            trial(images)
            for index, match in enumerate(self.matches):
                adapter = self._fitting(match, generator(seed, "adapter", index))
                if adapter is not None:
                    self.adapters[str(index)] = adapter.to(images.device)

    def reading(self) -> AbstractContextManager[None]:
        """Read the layers of both networks while the body runs."""
        return self._reading(self.student)

    @contextmanager
    def _reading(self, student: nn.Module) -> Iterator[None]:
        if not self.matches:
            yield
            return
        with ExitStack() as stack:
            names = ({match.teacher for match in self.matches}, {match.student for match in self.matches})
            self._of_teacher = stack.enter_context(tap(self.teacher, names[0]))
            self._of_student = stack.enter_context(tap(student, names[1]))
            yield

    def loss(self) -> Tensor | None:
        """The weighted sum over all matches for what both networks have just computed; None without matches."""
        terms = [
            match.weight * match.loss(*self._pair(match, self._adapter(index)))
            for index, match in enumerate(self.matches)
        ]
        return torch.stack(terms).sum() if terms else None

    def _adapter(self, index: int) -> nn.Module | None:
        name = str(index)
        return self.adapters[name] if name in self.adapters else None  # noqa: SIM401  a ModuleDict has no get

    def _pair(self, match: Match, adapter: nn.Module | None) -> tuple[Tensor, Tensor]:
        student = feature_of(self._of_student, match.student)
        teacher = feature_of(self._of_teacher, match.teacher)
        if match.kept is not None or not match.adapt:
            teacher = select_kept(teacher, student, match.kept, layer=match.teacher)
        if adapter is None:
            return student, teacher
        adapted: tuple[Tensor, Tensor] = adapter(student, teacher)
        return adapted

    def _fitting(self, match: Match, rng: torch.Generator) -> Adapter | None:
        student, teacher = self._pair(match, None)
        try:
            match.loss(student, teacher)
        except ShapeError:
            if not match.adapt:
                raise
            adapter = Adapter(student, teacher, rng=rng)
            match.loss(*adapter(student, teacher))
            return adapter
        return None


def _check_names(names: Sequence[str], network: nn.Module, *, role: str) -> None:
    known = dict(network.named_modules())
    for name in names:
        if name not in known:
            near = sorted(known, key=lambda other: _unlike(name, other))[:3]
            raise ReferenceNotFound(
                f"feature {name!r} is no layer of the {role}; the closest are {', '.join(map(repr, near))}"
            )


def _unlike(name: str, other: str) -> tuple[int, int]:
    shared = len(set(name.split(".")) & set(other.split(".")))
    return -shared, abs(len(name) - len(other))


def stage_matches(
    teacher: nn.Module, student: nn.Module, images: Tensor, *, weight: float = 100.0
) -> tuple[Match, ...]:
    """The last feature map of each resolution of the teacher beside the student's, weights adding up to `weight`.

    Layers are read as they run, so the choice follows the networks and not their classes; where widths differ, the
    matches learn adapters.

    Args:
        teacher: Takes the images; untouched.
        student: Likewise.
        images: (n, c, h, w) in [0, 1].
        weight: At least 0.

    Returns:
        Matches in the order in which the teacher first reaches each resolution; empty where none is common.

    Example:
        >>> teacher, student = (nn.Sequential(nn.Conv2d(1, w, 3), nn.ReLU()) for w in (8, 4))
        >>> [(match.student, match.teacher) for match in stage_matches(teacher, student, torch.zeros(2, 1, 8, 8))]
        [('1', '1')]
    """
    theirs, ours = (
        {shape[2:]: name for name, shape in map_shapes(network, images).items() if shape is not None}
        for network in (teacher, student)
    )
    common = [size for size in theirs if size in ours]
    return tuple(Match(ours[size], theirs[size], weight=weight / len(common)) for size in common)
