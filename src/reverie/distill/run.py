"""The moving parts of one distillation.

The caller's networks are copied, so nothing of them needs restoring. Every random choice depends on the seed and the
number of the step alone, so a run that goes on from a checkpoint ends with the bytes of one that was never stopped.
"""

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reverie.core.augment import Augment
from reverie.core.describe import describe
from reverie.core.digest import sha256_json, sha256_network, sha256_tensors
from reverie.core.errors import Diverged, RangeError, ShapeError
from reverie.core.events import Event, Listener
from reverie.core.rng import derive_seed, generator, preserved_rng, seed_global
from reverie.core.source import Source
from reverie.distill.averaging import RunningAverage
from reverie.distill.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from reverie.distill.losses import LogitLoss, soft_label_loss
from reverie.distill.matches import Match, Matched
from reverie.distill.orders import Draw, Order
from reverie.distill.schedules import Schedule
from reverie.distill.workers import current_workers
from reverie.metrics.classify import Share, agreement
from reverie.metrics.evaluate import predict

__all__ = ["Judgement", "Milestone", "Run", "Settings", "check_ranges"]

MILESTONES = 10
STEPS_PER_EVENT = 10
MOMENTUM = 0.9
# Enough images for every loss to be tried before the first step.
TRIED_IMAGES = 4


@dataclass(frozen=True)
class Milestone:
    """The student at one point of its training, judged on images that it does not train on.

    Attributes:
        step: Steps taken; 0 is the student as it was given.
        train_loss: Mean of the training loss since the milestone before; 0 at step 0.
        held_out_loss_nats: Mean KL divergence from the teacher's probabilities, at temperature 1.
        held_out_agreement: Share of images put into the teacher's class.

    Example:
        >>> at = Milestone(step=100, train_loss=0.4, held_out_loss_nats=0.02, held_out_agreement=0.97)
        >>> at.held_out_agreement
        0.97
    """

    step: int
    train_loss: float
    held_out_loss_nats: float
    held_out_agreement: float


@dataclass(frozen=True)
class Judgement:
    """A network on the held-out images: `loss_nats` from the teacher's answers, `agreement` with them."""

    loss_nats: float
    agreement: Share


RANGES: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "steps": ("steps >= 1", lambda steps: steps >= 1),
    "batch_size": ("batch_size >= 2", lambda size: size >= 2),
    "learning_rate": ("learning_rate > 0", lambda rate: rate > 0),
    "weight_decay": ("weight_decay >= 0", lambda decay: decay >= 0),
    "feature_weight": ("feature_weight >= 0", lambda weight: weight >= 0),
    "clip": ("clip > 0", lambda clip: clip is None or clip > 0),
    "average": ("0 <= average < 1", lambda decay: 0 <= decay < 1),
    "patience": ("patience >= 1", lambda patience: patience is None or patience >= 1),
    "held_out": ("0 < held_out < 1", lambda share: 0 < share < 1),
}


def check_ranges(**numbers: float | None) -> None:
    """Refuse numbers that no distillation takes, whoever was given them, before any work.

    Args:
        numbers: Under the names that `distill` has for them.

    Raises:
        RangeError: Naming the first that is out of its range.

    Example:
        >>> check_ranges(steps=10, learning_rate=0.0)
        Traceback (most recent call last):
        reverie.core.errors.RangeError: distillation needs learning_rate > 0, got learning_rate = 0.0
    """
    for name, value in numbers.items():
        need, met = RANGES[name]
        if not met(value):
            raise RangeError(f"distillation needs {need}, got {name} = {value}")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The arguments of `distill` that decide what is computed, checked."""

    loss: LogitLoss
    matches: tuple[Match, ...]
    steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    clip: float | None
    schedule: Schedule
    average: float
    views: Augment
    order: Order
    patience: int | None
    held_out: float
    seed: int
    precision: torch.dtype

    def __post_init__(self) -> None:
        check_ranges(**{name: getattr(self, name) for name in RANGES if hasattr(self, name)})

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON values: settings that differ in anything differ here."""
        functions = {name: describe(getattr(self, name)) for name in ("loss", "schedule", "order", "views")}
        plain = (
            "steps",
            "batch_size",
            "learning_rate",
            "weight_decay",
            "clip",
            "average",
            "patience",
            "held_out",
            "seed",
        )
        values = {name: getattr(self, name) for name in plain}
        matches = [match.describe() for match in self.matches]
        return {
            **functions,
            **values,
            "matches": matches,
            "precision": str(self.precision),
        }


class Run:
    """One distillation.

    Attributes:
        history: Milestones so far.
        best_step: The step of the best of them.
    """

    def __init__(self, teacher: nn.Module, student: nn.Module, source: Source, settings: Settings) -> None:
        self.settings, self.given = settings, student
        self.device = next(student.parameters()).device
        self.workers = current_workers()
        self.source, self.held = source.split(held_out=settings.held_out, seed=settings.seed)
        self.teacher = _working_copy(teacher).eval().requires_grad_(False)
        self.student = _working_copy(student).train().requires_grad_(True)
        self.expected = predict(self.teacher, self.held)
        self._check_classes()
        tried = source.floats(slice(0, TRIED_IMAGES)).to(self.device)
        self.matched = Matched(settings.matches, self.teacher, self.student, tried, seed=settings.seed)
        self.average = RunningAverage(self.student, decay=settings.average) if settings.average else None
        self.trained = {
            **{f"student/{name}": parameter for name, parameter in self.student.named_parameters()},
            **{f"adapters/{name}": parameter for name, parameter in self.matched.adapters.named_parameters()},
        }
        self.optimizer = torch.optim.SGD(
            self.trained.values(),
            lr=settings.learning_rate,
            momentum=MOMENTUM,
            nesterov=True,
            weight_decay=settings.weight_decay,
        )
        identity = {"teacher": sha256_network(teacher), "student": sha256_network(student)}
        identity["images"] = sha256_tensors({"": source.images})
        self.digest = sha256_json({"settings": settings.to_json(), **identity})
        self.best: dict[str, Tensor] = {}
        self.history: list[Milestone] = []
        self.losses: list[Tensor] = []
        self.step = 0

    @property
    def best_step(self) -> int:
        """The step of the best milestone."""
        return min(self.history, key=lambda milestone: milestone.held_out_loss_nats).step

    def train(self, checkpoint: Path | None, on_event: Listener) -> None:
        """Take the steps that are left, after those of a checkpoint where there is one."""
        settings = self.settings
        self._resume(checkpoint)
        milestones = {settings.steps * part // MILESTONES for part in range(MILESTONES + 1)}
        if not self.history:
            self._judge()
        draw = Draw(self.source, self._answers, settings.batch_size, settings.steps, settings.seed)
        with self.matched.reading(), preserved_rng():
            # The iterator is asked for batches that a resumed run has already seen: it may count on that.
            for pick in islice(settings.order(draw), self.step, settings.steps):
                if self._out_of_patience():
                    on_event(Event("distilling", settings.steps, settings.steps, self._figures()))
                    return
                self.losses.append(self._advance(pick))
                self.step += 1
                if self.step in milestones:
                    self._judge()
                    if checkpoint is not None and self.workers.index == 0:
                        write_checkpoint(checkpoint, self._state())
                if self.step in milestones or self.step % STEPS_PER_EVENT == 0:
                    on_event(Event("distilling", self.step, settings.steps, self._figures()))

    def kept(self) -> nn.Module:
        """The best student, in the memory layout, modes and flags of the one that was given."""
        return self._like_given(self.best)

    def last(self) -> nn.Module:
        """The student after its last step, likewise."""
        return self._like_given(self._shown().state_dict())

    def judgement(self, network: nn.Module) -> Judgement:
        """A network on the held-out images."""
        logits = predict(network, self.held)
        loss = float(soft_label_loss(logits, self.expected, temperature=1.0))
        return Judgement(loss, agreement(logits, self.expected))

    def _resume(self, checkpoint: Path | None) -> None:
        found = None if checkpoint is None else read_checkpoint(checkpoint, digest=self.digest)
        if found is None:
            return
        parts: dict[str, dict[str, Tensor]] = {name: {} for name in ("now", "best", "average", "adapters", "momentum")}
        for name, tensor in found.tensors.items():
            part, _, rest = name.partition("/")
            parts[part][rest] = tensor
        self.student.load_state_dict(parts["now"])
        self.matched.adapters.load_state_dict(parts["adapters"])
        self.best = parts["best"]
        if self.average is not None:
            self.average.network.load_state_dict(parts["average"])
        for name, parameter in self.trained.items():
            if name in parts["momentum"]:
                buffer = torch.empty_like(parameter).copy_(parts["momentum"][name])
                self.optimizer.state[parameter]["momentum_buffer"] = buffer.detach()
        self.step = int(found.values["step"])
        self.history = [Milestone(**milestone) for milestone in found.values["history"]]

    def _state(self) -> Checkpoint:
        momentum = {
            name: self.optimizer.state[parameter]["momentum_buffer"]
            for name, parameter in self.trained.items()
            if self.optimizer.state[parameter].get("momentum_buffer") is not None
        }
        parts: dict[str, Mapping[str, Tensor]] = {
            "now": self.student.state_dict(),
            "best": self.best,
            "average": {} if self.average is None else self.average.state_dict(),
            "adapters": self.matched.adapters.state_dict(),
            "momentum": momentum,
        }
        tensors = {f"{part}/{name}": tensor for part, state in parts.items() for name, tensor in state.items()}
        values: dict[str, Any] = {"step": self.step, "history": [asdict(milestone) for milestone in self.history]}
        return Checkpoint(self.digest, tensors, values)

    def _advance(self, pick: Tensor) -> Tensor:
        """One step of training; its loss, and whether the teacher's answers were finite numbers."""
        settings = self.settings
        # Dropout and its like draw from the global state; setting it makes a step depend on nothing but its number.
        seed_global(derive_seed(settings.seed, "distill", self.step))
        rng = generator(settings.seed, "views", self.step)
        images = self.workers.share(settings.views(self.source.floats(pick), rng)).to(self.device)
        images = images.contiguous(memory_format=torch.channels_last) if images.ndim == 4 else images
        with torch.autocast(self.device.type, settings.precision, enabled=settings.precision != torch.float32):
            with torch.no_grad():
                wanted = self.teacher(images)
            given = self.student(images)
        loss = settings.loss(given, wanted)
        matched = self.matched.loss()
        loss = loss if matched is None else loss + matched
        for group in self.optimizer.param_groups:
            group["lr"] = settings.learning_rate * settings.schedule(self.step, settings.steps)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.workers.average(parameter.grad for parameter in self.trained.values() if parameter.grad is not None)
        if settings.clip is not None:
            nn.utils.clip_grad_norm_(self.trained.values(), settings.clip)
        self.optimizer.step()
        if self.average is not None:
            self.average.follow(self.student, steps=self.step + 1)
        return torch.stack([loss.detach(), wanted.isfinite().all().to(loss.dtype)])

    def _judge(self) -> None:
        """Add a milestone, and keep the weights where they are the best so far."""
        shown = self._shown()
        for network in {id(one): one for one in (self.student, shown)}.values():
            self.workers.average(buffer for buffer in network.buffers() if buffer.is_floating_point())
        train_loss = self._finite_mean()
        try:
            judged = self.judgement(shown)
        except RangeError as error:
            raise self._diverged(self.step) from error
        if not math.isfinite(judged.loss_nats):
            raise self._diverged(self.step)
        if not self.history or judged.loss_nats < min(one.held_out_loss_nats for one in self.history):
            self.best = {name: tensor.detach().clone() for name, tensor in shown.state_dict().items()}
        self.history.append(Milestone(self.step, train_loss, judged.loss_nats, judged.agreement.value))

    def _finite_mean(self) -> float:
        """Mean of the losses since last asked; one look at the device for all of them."""
        if not self.losses:
            return 0.0
        losses, answered = torch.stack(self.losses).cpu().unbind(1)
        self.losses.clear()
        broken = (~losses.isfinite()).nonzero().flatten().tolist()
        if broken:
            step = self.step - len(losses) + broken[0] + 1
            if not answered[broken[0]]:
                raise Diverged(
                    f"the teacher's answers at step {step} are not finite numbers, so nothing can be learned from "
                    "them. Check the teacher's weights, and its preprocessing."
                )
            raise self._diverged(step)
        return float(losses.mean())

    def _shown(self) -> nn.Module:
        """The network that is judged and kept."""
        return self.student if self.average is None else self.average.network

    def _answers(self) -> Tensor:
        return predict(self.teacher, self.source)

    def _out_of_patience(self) -> bool:
        if self.settings.patience is None:
            return False
        later = [milestone for milestone in self.history if milestone.step > self.best_step]
        return len(later) >= self.settings.patience

    def _like_given(self, state: Mapping[str, Tensor]) -> nn.Module:
        network = copy.deepcopy(self.given)
        network.load_state_dict(state)
        return network

    def _check_classes(self) -> None:
        answered = predict(self.student, Source(self.held.name, self.held.images[:1])).shape[1]
        if answered != self.expected.shape[1]:
            raise ShapeError(
                f"the student answers for {answered} classes and the teacher for {self.expected.shape[1]}. "
                "Give the student a last layer with the teacher's classes."
            )

    def _diverged(self, step: int) -> Diverged:
        return Diverged(
            f"distillation left the finite numbers at step {step}, learning rate {self.settings.learning_rate:g} at "
            "its peak. Take a lower learning rate, or a lower feature weight."
        )

    def _figures(self) -> dict[str, float]:
        last = self.history[-1]
        return {
            "held_out_loss_nats": last.held_out_loss_nats,
            "held_out_agreement_share": last.held_out_agreement,
        }


def _working_copy(network: nn.Module) -> nn.Module:
    """A copy laid out channels-last, which convolutions on CPUs and tensor cores prefer."""
    return copy.deepcopy(network).to(memory_format=torch.channels_last)
