"""Teach a student to answer as its teacher does, on whatever images there are.

What for: a network that lost channels or blocks gets its accuracy back, from dreams alone where nothing else is left.
Cost: per step one forward pass of the teacher, one forward and backward pass of the student.

Sources: Hinton et al., 2015, arXiv:1503.02531; Beyer et al., 2022, arXiv:2106.05237 (both networks see the same view).
"""

import copy
import hashlib
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from reverie.core.digest import sha256_tensors
from reverie.core.errors import Diverged, RangeError
from reverie.core.events import Event, Listener, silent
from reverie.core.network import ImageNetwork
from reverie.core.precision import choose_precision
from reverie.core.rng import derive_seed, generator, preserved_rng
from reverie.core.source import Source
from reverie.distill.batchnorm import batch_norm_layers, reestimate_batch_norm
from reverie.distill.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from reverie.distill.feature_losses import feature_loss
from reverie.distill.features import Features, Readings, feature_of, select_kept, tapped
from reverie.distill.losses import soft_label_loss
from reverie.distill.views import Views
from reverie.metrics.classify import Share, agreement
from reverie.metrics.evaluate import predict

__all__ = ["Distilled", "Milestone", "distill"]

NO_FEATURES: Features = MappingProxyType({})
USUAL_VIEWS = Views()
MILESTONES = 10
STEPS_PER_EVENT = 10
WARM_UP_SHARE = 0.1
MOMENTUM = 0.9


@dataclass(frozen=True)
class Milestone:
    """The student at one point of its training, judged on images that it does not train on.

    Attributes:
        step: Steps taken; 0 is the student as it was given.
        train_loss: Mean of the training loss since the milestone before; 0 at step 0.
        held_out_loss_nats: Mean KL divergence from the teacher's probabilities, at temperature 1.
        held_out_agreement: Share of images put into the teacher's class.
    """

    step: int
    train_loss: float
    held_out_loss_nats: float
    held_out_agreement: float


@dataclass(frozen=True, eq=False)
class Distilled:
    """A taught student.

    Attributes:
        student: A copy of the student that was passed in, with the weights of the best milestone.
        held_out_agreement: Share of held-out images that it puts into the teacher's class.
        held_out_loss_nats: Mean KL divergence from the teacher on the held-out images.
        best_step: The step whose weights were kept.
        history: All milestones, in order.
    """

    student: nn.Module
    held_out_agreement: Share
    held_out_loss_nats: float
    best_step: int
    history: tuple[Milestone, ...]


@dataclass(frozen=True)
class _Settings:
    features: dict[str, tuple[int, ...] | None]
    steps: int
    batch_size: int
    learning_rate: float
    temperature: float
    feature_weight: float
    views: Views
    held_out: float
    seed: int
    precision: str


def distill(
    teacher: nn.Module,
    student: nn.Module,
    source: Source,
    *,
    features: Features = NO_FEATURES,
    steps: int = 400,
    batch_size: int = 64,
    learning_rate: float = 0.02,
    temperature: float = 4.0,
    feature_weight: float = 30.0,
    views: Views = USUAL_VIEWS,
    held_out: float = 0.1,
    seed: int = 0,
    precision: torch.dtype | None = None,
    checkpoint: Path | None = None,
    on_event: Listener = silent,
) -> Distilled:
    """Train a copy of the student to match the teacher on a source, and keep it at its best.

    loss = T^2 KL(teacher || student) + feature_weight * mean over features of |student - teacher|^2 / |teacher|^2.
    Every step, both networks see the same new view of the same images; the teacher is in evaluation mode, the student
    in training mode. A tenth of the way at a time the student is judged on held-out images, unvaried; the best by KL
    divergence is kept, with its batch-norm statistics counted anew on the source where that lowers the divergence
    further. SGD with Nesterov momentum 0.9, linear warm-up, cosine to zero.

    Args:
        teacher: Takes images in [0, 1], gives logits; untouched.
        student: The same classes; copied, untouched. All its parameters are trained.
        source: The images; labels are not read.
        features: Layer name, the same in both networks -> for each channel of the student's output the teacher's
            channel that it stands for, or None where it has all. Outputs of stages serve well.
        steps: Batches trained on, at least 1.
        batch_size: Images in a batch, at least 2.
        learning_rate: Its peak, above 0.
        temperature: Divides both logits, above 0.
        feature_weight: At least 0; relative errors have the same scale in every network.
        views: How images are varied.
        held_out: Share of the source that only judges, in (0, 1).
        seed: Decides the split, the order and the views.
        precision: Number format of both forward passes; None is the faster one by rule, see `choose_precision`.
        checkpoint: File written at each milestone. Where it exists, the run goes on from it and ends with the bytes
            of a run that was never stopped; a finished one returns at once.
        on_event: Called with the stage "distilling" every few steps.

    Raises:
        RangeError: An argument outside its range.
        ShapeError: Images, logits or features of unequal shapes.
        ReferenceNotFound: A feature is no layer of both networks.
        Diverged: The loss is no longer finite; the message names the step.
        FolderInUse: The checkpoint belongs to a run of other settings, networks or images.
        CorruptFile: The checkpoint is damaged.

    Example:
        >>> from reverie.core.source import noise_source
        >>> teacher, student = (nn.Sequential(nn.Flatten(), nn.Linear(4, 3)) for _ in range(2))
        >>> source = noise_source(count=64, image_shape=(1, 2, 2), seed=0)
        >>> taught = distill(teacher, student, source, steps=20, batch_size=16)
        >>> taught.held_out_loss_nats <= taught.history[0].held_out_loss_nats
        True

    Fails when: the source looks nothing like what the teacher was trained on; held-out agreement is then high, and
    says nothing about real images.

    Reference: Beyer et al., 2022, arXiv:2106.05237. Differs: features are matched too, and views are milder.
    """
    device = next(student.parameters(), torch.empty(0)).device
    chosen = choose_precision(student) if precision is None else precision
    kept = {name: None if indices is None else tuple(indices) for name, indices in features.items()}
    settings = _Settings(
        kept, steps, batch_size, learning_rate, temperature, feature_weight, views, held_out, seed, str(chosen)
    )
    _check(settings)
    if next(student.parameters(), None) is None:
        raise RangeError(f"the student {type(student).__name__} has no parameters, so nothing can be trained")
    for network in (teacher, student):
        if isinstance(network, ImageNetwork):
            network.check_images(source.images)
    with preserved_rng():
        run = _Run(teacher, student, source, settings, device=device, precision=chosen)
        run.resume(checkpoint)
        run.train(checkpoint, on_event)
        return run.result(source)


class _Run:
    """The moving parts of one distillation; the caller's networks are copied, so nothing of them needs restoring."""

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module,
        source: Source,
        settings: _Settings,
        *,
        device: torch.device,
        precision: torch.dtype,
    ) -> None:
        self.settings, self.device, self.precision, self.given = settings, device, precision, student
        self.source, self.held = source.split(held_out=settings.held_out, seed=settings.seed)
        self.teacher = _working_copy(teacher).eval().requires_grad_(False)
        self.student = _working_copy(student).train().requires_grad_(True)
        self.expected = predict(self.teacher, self.held)
        self.optimizer = torch.optim.SGD(
            self.student.parameters(), lr=settings.learning_rate, momentum=MOMENTUM, nesterov=True
        )
        states = (teacher.state_dict(), student.state_dict(), {"images": source.images})
        identity = [repr(settings), *map(sha256_tensors, states)]
        self.digest = hashlib.sha256("\n".join(identity).encode()).hexdigest()
        self.best: dict[str, Tensor] = {}
        self.history: list[Milestone] = []
        self.losses: list[Tensor] = []
        self.step = 0

    def train(self, checkpoint: Path | None, on_event: Listener) -> None:
        """Take the steps that are left."""
        settings = self.settings
        milestones = {settings.steps * part // MILESTONES for part in range(MILESTONES + 1)}
        if not self.history:
            self._judge()
        with tapped(self.teacher, self.student, settings.features) as readings:
            batches = self.source.batches(batch_size=settings.batch_size, seed=settings.seed)
            for pick in islice(batches, self.step, settings.steps):
                self.losses.append(self._advance(pick, readings))
                self.step += 1
                if self.step in milestones:
                    self._judge()
                    if checkpoint is not None:
                        write_checkpoint(checkpoint, self._state())
                if self.step in milestones or self.step % STEPS_PER_EVENT == 0:
                    on_event(Event("distilling", self.step, settings.steps, self._figures()))

    def result(self, source: Source) -> Distilled:
        """The best student, in the memory layout, modes and flags of the one that was given."""
        kept = copy.deepcopy(self.given)
        kept.load_state_dict(self.best)
        best = min(self.history, key=lambda milestone: milestone.held_out_loss_nats)
        logits = predict(kept, self.held)
        loss = float(soft_label_loss(logits, self.expected, temperature=1.0))
        if batch_norm_layers(kept):
            counted = reestimate_batch_norm(kept, source)
            counted_logits = predict(counted, self.held)
            counted_loss = float(soft_label_loss(counted_logits, self.expected, temperature=1.0))
            if counted_loss < loss:
                kept, logits, loss = counted, counted_logits, counted_loss
        return Distilled(kept, agreement(logits, self.expected), loss, best.step, tuple(self.history))

    def resume(self, checkpoint: Path | None) -> None:
        """Go on from a checkpoint where there is one."""
        found = None if checkpoint is None else read_checkpoint(checkpoint, digest=self.digest)
        if found is None:
            return
        parts: dict[str, dict[str, Tensor]] = {"student": {}, "best": {}, "momentum": {}}
        for name, tensor in found.tensors.items():
            part, _, rest = name.partition("/")
            parts[part][rest] = tensor
        self.student.load_state_dict(parts["student"])
        self.best = parts["best"]
        for name, parameter in self.student.named_parameters():
            if name in parts["momentum"]:
                buffer = torch.empty_like(parameter).copy_(parts["momentum"][name])
                self.optimizer.state[parameter]["momentum_buffer"] = buffer.detach()
        self.step = int(found.values["step"])
        self.history = [Milestone(**milestone) for milestone in found.values["history"]]

    def _state(self) -> Checkpoint:
        momentum = {
            name: self.optimizer.state[parameter]["momentum_buffer"]
            for name, parameter in self.student.named_parameters()
            if self.optimizer.state[parameter].get("momentum_buffer") is not None
        }
        parts = {"student": self.student.state_dict(), "best": self.best, "momentum": momentum}
        tensors = {f"{part}/{name}": tensor for part, state in parts.items() for name, tensor in state.items()}
        values: dict[str, Any] = {"step": self.step, "history": [asdict(milestone) for milestone in self.history]}
        return Checkpoint(self.digest, tensors, values)

    def _advance(self, pick: Tensor, readings: Readings) -> Tensor:
        """One step of training; its loss."""
        settings = self.settings
        # Dropout and its like draw from the global state; setting it makes a step depend on nothing but its number.
        torch.manual_seed(derive_seed(settings.seed, "distill", self.step))
        rng = generator(settings.seed, "views", self.step)
        images = settings.views.draw(self.source.floats(pick), rng).to(self.device)
        images = images.contiguous(memory_format=torch.channels_last) if images.ndim == 4 else images
        with torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32):
            with torch.no_grad():
                wanted = self.teacher(images)
            given = self.student(images)
        loss = soft_label_loss(given, wanted, temperature=settings.temperature)
        if settings.features:
            errors = _feature_errors(settings.features, readings)
            loss = loss + settings.feature_weight * torch.stack(list(errors)).mean()
        for group in self.optimizer.param_groups:
            group["lr"] = settings.learning_rate * _rate(self.step, settings.steps)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def _judge(self) -> None:
        """Add a milestone, and keep the weights where they are the best so far."""
        train_loss = self._finite_mean()
        try:
            logits = predict(self.student, self.held)
            loss = float(soft_label_loss(logits, self.expected, temperature=1.0))
        except RangeError as error:
            raise _diverged(self.step, self.settings.learning_rate) from error
        if not math.isfinite(loss):
            raise _diverged(self.step, self.settings.learning_rate)
        agreed = agreement(logits, self.expected).value
        if not self.history or loss < min(milestone.held_out_loss_nats for milestone in self.history):
            self.best = {name: tensor.detach().clone() for name, tensor in self.student.state_dict().items()}
        self.history.append(Milestone(self.step, train_loss, loss, agreed))

    def _finite_mean(self) -> float:
        """Mean of the losses since last asked; one look at the device for all of them."""
        if not self.losses:
            return 0.0
        losses = torch.stack(self.losses).cpu()
        self.losses.clear()
        broken = (~losses.isfinite()).nonzero().flatten().tolist()
        if broken:
            raise _diverged(self.step - len(losses) + broken[0] + 1, self.settings.learning_rate)
        return float(losses.mean())

    def _figures(self) -> dict[str, float]:
        last = self.history[-1]
        return {
            "held_out_loss_nats": last.held_out_loss_nats,
            "held_out_agreement_share": last.held_out_agreement,
        }


def _check(settings: _Settings) -> None:
    needs = {
        "steps >= 1": settings.steps >= 1,
        "batch_size >= 2": settings.batch_size >= 2,
        "learning_rate > 0": settings.learning_rate > 0,
        "temperature > 0": settings.temperature > 0,
        "feature_weight >= 0": settings.feature_weight >= 0,
        "0 < held_out < 1": 0 < settings.held_out < 1,
    }
    for need, met in needs.items():
        if not met:
            name = next(word for word in need.split() if word.isidentifier())
            raise RangeError(f"distillation needs {need}, got {name} = {getattr(settings, name)}")


def _working_copy(network: nn.Module) -> nn.Module:
    """A copy laid out channels-last, which convolutions on CPUs and tensor cores prefer."""
    return copy.deepcopy(network).to(memory_format=torch.channels_last)


def _rate(step: int, steps: int) -> float:
    """Share of the peak learning rate: a linear rise over the first tenth, then half a cosine down to zero."""
    rise = max(1.0, WARM_UP_SHARE * steps)
    return (
        (step + 1) / rise if step + 1 < rise else 0.5 * (1 + math.cos(math.pi * (step + 1 - rise) / (steps - rise + 1)))
    )


def _feature_errors(features: Features, readings: Readings) -> Iterator[Tensor]:
    of_teacher, of_student = readings
    for name, kept in features.items():
        student = feature_of(of_student, name)
        yield feature_loss(student, select_kept(feature_of(of_teacher, name), student, kept, layer=name))


def _diverged(step: int, learning_rate: float) -> Diverged:
    return Diverged(
        f"distillation left the finite numbers at step {step}, learning rate {learning_rate:g} at its peak. "
        "Take a lower learning rate, or a lower feature weight."
    )
