"""Teach students what a network knows, with no data unless some is given, and say what the lessons were worth.

Dream images from the teacher, teach on them, and measure beside it what the same lessons reach on Gaussian noise and,
where real images are given, on as many of those. Test images are read after the last step of the last student.

Cost: the dreams once; each student, and each image source that it is compared with, the steps of one distillation.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reverie.core.counts import check_counts
from reverie.core.describe import describe
from reverie.core.digest import sha256_network, sha256_tensors
from reverie.core.edit import Record
from reverie.core.errors import FolderInUse, RangeError, ReferenceNotFound, ShapeError
from reverie.core.events import Listener, silent
from reverie.core.network import ImageNetwork, as_network
from reverie.core.run_folder import RunFolder, open_run
from reverie.core.source import Source, noise_source
from reverie.core.store import write_bytes
from reverie.cost.onnx import check_onnx, export_onnx
from reverie.distill import Distilled, distill, stage_matches
from reverie.distill.run import check_ranges
from reverie.dream import Bank
from reverie.metrics.classify import PairedDifference, Share, accuracy, agreement, paired_difference
from reverie.metrics.evaluate import predict
from reverie.teach.routes import Route, Wanted, pixel_route
from reverie.zoo.runs import save

__all__ = ["Line", "Taught", "teach"]

JUDGED_SHARE = 0.1
LEAST_DREAMS = 64
PROBED_IMAGES = 4
# A student that starts from nothing is far from its teacher: its first gradients are long, and would throw it further.
LONGEST_GRADIENT = 10.0


@dataclass(frozen=True)
class Line:
    """What one kind of lessons reached, seed by seed, after the last step.

    Attributes:
        images: What was learned from: `"dreams"`, `"noise"`, `"real"`, or the name of the source that was given.
        count: How many images.
        agreement: Of each student with the teacher, on images that taught nothing.
        accuracy: Of each student on the test images; None where there are none.

    Example:
        >>> line = Line("dreams", count=920, agreement=(0.93, 0.95), accuracy=None)
        >>> sum(line.agreement) / len(line.agreement)
        0.94
    """

    images: str
    count: int
    agreement: tuple[float, ...]
    accuracy: tuple[float, ...] | None


@dataclass(frozen=True, eq=False)
class Taught:
    """A student that was taught, and what is known about it.

    Attributes:
        network: The student with the least divergence from the teacher on held-out images: what is handed over.
        lines: What each kind of lessons reached; the first is that of `network`.
        before: The first student before its lessons.
        teacher_accuracy: On the test images; None where there are none.
        network_accuracy: Of `network`, likewise.
        difference: Of `network` from the teacher on the same test images, likewise.
        source: What taught `network`.
        judged: How many images judged the agreement.
        onnx: `network` for ONNX Runtime, checked against PyTorch.
        seconds: Time spent, by stage.

    Example:
        >>> from reverie.core.source import noise_source
        >>> network = ImageNetwork(nn.Flatten(), image_shape=(1, 2, 2))
        >>> source = noise_source(count=1, image_shape=(1, 2, 2), seed=0)
        >>> before, line = Line("nothing", 0, (0.1,), None), Line("dreams", 920, (0.93,), None)
        >>> found = Taught(network, (line,), before, None, None, None, source, 92, b"", {"dreaming": 1.0})
        >>> found.figures()["lines"][0]["agreement"]
        (0.93,)
    """

    network: ImageNetwork
    lines: tuple[Line, ...]
    before: Line
    teacher_accuracy: Share | None
    network_accuracy: Share | None
    difference: PairedDifference | None
    source: Source
    judged: int
    onnx: bytes
    seconds: Mapping[str, float]

    def figures(self) -> dict[str, Any]:
        """Everything as one JSON value."""
        return {
            "lines": [asdict(line) for line in self.lines],
            "before": asdict(self.before),
            "teacher_accuracy": None if self.teacher_accuracy is None else asdict(self.teacher_accuracy),
            "network_accuracy": None if self.network_accuracy is None else asdict(self.network_accuracy),
            "difference": None if self.difference is None else asdict(self.difference),
            "judged": self.judged,
            "seconds": {stage: round(value, 2) for stage, value in self.seconds.items()},
        }


def teach(
    teacher: nn.Module,
    students: Sequence[nn.Module],
    *,
    folder: Path | str | None = None,
    source: Source | None = None,
    bank: Path | str | None = None,
    real: Source | None = None,
    test: Source | None = None,
    route: Route = pixel_route,
    dreams: int = 1024,
    dream_steps: int = 60,
    teach_steps: int = 800,
    batch_size: int = 64,
    learning_rate: float = 0.05,
    weight_decay: float = 5e-4,
    feature_weight: float = 100.0,
    control: bool = True,
    seed: int = 0,
    on_event: Listener = silent,
) -> Taught:
    """Teach students a network's answers and its inner features, on its own dreams unless a source is given.

    Every student has the same lessons but for the seed; the spread over them is that of their starts. Lines are of the
    last step, never of the best one; what is handed over is of the step that held-out images chose, and the test images
    choose nothing. In a folder, a killed call goes on where it was; it ends with `model.safetensors` and
    `record.json`, `model.onnx`, `run.json` and `bank/`.

    Args:
        teacher: A classifier of images; untouched, whatever mode it is in.
        students: One start for each seed; untouched.
        folder: Where to keep the run; None writes nothing.
        source: Images to use in place of dreams; labels are not read.
        bank: A finished bank of this teacher's dreams to use, as `dream` wrote it.
        real: Real images to compare with: as many as there are dreams teach a student of the first start.
        test: Labeled images, counted at the very end.
        route: How dreams are made: `pixel_route`, `generator_route`, or `adaptive_route`, which teaches the first start
            between its rounds.
        dreams: Images to dream, at least 64, where neither source nor bank is given.
        dream_steps: Optimization steps per dream.
        teach_steps: Training steps of every student.
        batch_size: Images in a batch.
        learning_rate: Its peak.
        weight_decay: At least 0.
        feature_weight: Of matching the last feature map at each resolution; 0 teaches the answers alone.
        control: Whether a student of the first start is also taught on Gaussian noise.
        seed: Decides all random choices.
        on_event: Called with every step of every stage.

    Raises:
        RangeError: A number is out of its range, or there is no student.
        ShapeError: Teacher, students or images do not fit each other.
        FolderInUse: The folder holds another run, or the bank holds dreams of another teacher.
        NotWritable: The folder cannot be written.

    Example:
        >>> teach(nn.Flatten(), [])
        Traceback (most recent call last):
        reverie.core.errors.RangeError: there is no student to teach; give at least one

    Fails when: the teacher does not classify, so that there is nothing to dream.
    """
    if not students:
        raise RangeError("there is no student to teach; give at least one")
    if source is None and bank is None:
        _check_dreams(dreams, dream_steps)
    network = as_network(teacher)
    starts = [as_network(student, network.image_shape) for student in students]
    _check(network, starts, (source, real, test))
    lessons = {
        "teach_steps": teach_steps,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "feature_weight": feature_weight,
    }
    check_ranges(**{name.removeprefix("teach_"): value for name, value in lessons.items()})
    config = _config(network, starts, source, bank, real, route)
    config |= {"dreams": dreams, "dream_steps": dream_steps, **lessons, "control": control, "seed": seed}
    with open_run(None if folder is None else Path(folder), verb="distill", config=config) as run:
        school = _School(network, run, lessons, seed, on_event)
        if source is None:
            path = run.file("bank")
            wanted = Wanted(network, starts[0], school.between, dreams, dream_steps, seed, path, on_event)
            source = school.dreams(route, wanted) if bank is None else _loaded(bank, network).source()
        result = school.taught(starts, source, real, test, control=control)
        if run.path is not None:
            _write(result, run.path)
            run.finish(figures=result.figures())
        return result


def _config(
    network: ImageNetwork,
    starts: Sequence[ImageNetwork],
    source: Source | None,
    bank: Path | str | None,
    real: Source | None,
    route: Route,
) -> dict[str, Any]:
    """What a run is about, so that another one in its folder is told from it."""
    return {
        "weights_sha256": sha256_network(network),
        "students_sha256": [sha256_network(start) for start in starts],
        "source": "dreams" if source is None else sha256_tensors({"images": source.images}),
        "bank": None if bank is None else str(bank),
        "route": describe(route),
        "real": None if real is None else sha256_tensors({"images": real.images}),
    }


@dataclass(frozen=True, eq=False)
class _School:
    """What all students have in common."""

    teacher: ImageNetwork
    run: RunFolder
    lessons: Mapping[str, Any]
    seed: int
    on_event: Listener

    def dreams(self, route: Route, wanted: Wanted) -> Source:
        """The images that are learned from, as a route makes them."""
        return self.run.timed("dreaming", lambda: route(wanted)).source()

    def taught(
        self,
        starts: Sequence[ImageNetwork],
        source: Source,
        real: Source | None,
        test: Source | None,
        *,
        control: bool,
    ) -> Taught:
        """All lessons of all students."""
        # A source's own name may be that of any file.
        role = "dreams" if source.name == "dreams" else "images"
        rest, judged = source.split(held_out=JUDGED_SHARE, seed=self.seed)
        found = [self.lesson(start, rest, f"{role}-{i}", seed=self.seed + i) for i, start in enumerate(starts)]
        others = self.others(starts[0], rest, real, control=control)
        return self.result(starts[0], rest, judged, found, others, test)

    def between(self, student: nn.Module, source: Source) -> nn.Module:
        """The lessons between two rounds of an adaptive route: a third of the steps."""
        return self._distilled(student, source, seed=self.seed, steps=max(1, self.lessons["teach_steps"] // 3)).last

    def lesson(self, start: ImageNetwork, source: Source, name: str, *, seed: int) -> Distilled:
        """One distillation, kept in the run's folder while it lasts."""
        checkpoint = self.run.file(f"stages/teaching-{name}.safetensors")
        return self.run.timed(
            f"teaching-{name}", lambda: self._distilled(start, source, seed=seed, checkpoint=checkpoint)
        )

    def others(
        self, start: ImageNetwork, source: Source, real: Source | None, *, control: bool
    ) -> dict[str, Distilled]:
        """What the same lessons make of as much noise, and of as many real images."""
        found = {}
        if control:
            noise = noise_source(count=len(source), image_shape=self.teacher.image_shape, seed=self.seed)
            found["noise"] = self.lesson(start, noise, "noise", seed=self.seed)
        if real is not None:
            found["real"] = self.lesson(start, _as_many(real, source, seed=self.seed), "real", seed=self.seed)
        return found

    def _distilled(
        self,
        start: nn.Module,
        source: Source,
        *,
        seed: int,
        steps: int | None = None,
        checkpoint: Path | None = None,
    ) -> Distilled:
        weight = self.lessons["feature_weight"]
        probed = source.floats(slice(0, PROBED_IMAGES))
        return distill(
            self.teacher,
            start,
            source,
            matches=stage_matches(self.teacher, start, probed, weight=weight) if weight else (),
            steps=steps or self.lessons["teach_steps"],
            batch_size=self.lessons["batch_size"],
            learning_rate=self.lessons["learning_rate"],
            weight_decay=self.lessons["weight_decay"],
            clip=LONGEST_GRADIENT,
            seed=seed,
            checkpoint=checkpoint,
            on_event=self.on_event,
        )

    def line(self, name: str, count: int, networks: Sequence[nn.Module], judged: Source, test: Source | None) -> Line:
        """Networks on the images that judge."""
        expected = predict(self.teacher, judged)
        agreed = tuple(agreement(predict(network, judged), expected).value for network in networks)
        if test is None or test.labels is None:
            return Line(name, count, agreed, None)
        labels = test.labels
        return Line(name, count, agreed, tuple(accuracy(predict(one, test), labels).value for one in networks))

    def result(
        self,
        start: ImageNetwork,
        source: Source,
        judged: Source,
        taught: Sequence[Distilled],
        others: Mapping[str, Distilled],
        test: Source | None,
    ) -> Taught:
        """Measure everything, test images last of all."""
        best = min(taught, key=lambda one: one.held_out_loss_nats).student
        if not isinstance(best, ImageNetwork):
            raise TypeError("distill returns a network of the type that it was given")
        onnx = export_onnx(best)
        check_onnx(onnx, best, judged.floats(slice(0, 7)))
        started = time.monotonic()
        lines = [self.line(source.name, len(source), [one.last for one in taught], judged, test)]
        lines += [self.line(name, len(source), [one.last], judged, test) for name, one in others.items()]
        before = self.line("none", 0, [start], judged, test)
        tested = _tested(self.teacher, best, test)
        self.run.seconds["testing"] = time.monotonic() - started
        return Taught(best, tuple(lines), before, *tested, source, len(judged), onnx, dict(self.run.seconds))


def _tested(
    teacher: ImageNetwork, student: ImageNetwork, test: Source | None
) -> tuple[Share | None, Share | None, PairedDifference | None]:
    if test is None or test.labels is None:
        return None, None, None
    logits: dict[str, Tensor] = {"teacher": predict(teacher, test), "student": predict(student, test)}
    right = {name: mine.argmax(1) == test.labels for name, mine in logits.items()}
    return (
        accuracy(logits["teacher"], test.labels),
        accuracy(logits["student"], test.labels),
        paired_difference(right["student"], right["teacher"]),
    )


def _loaded(bank: Path | str, network: ImageNetwork) -> Bank:
    """The bank that was given, checked to be this teacher's."""
    loaded = Bank.load(bank)
    if loaded.teacher_sha256 != sha256_network(network):
        raise FolderInUse(
            f"the bank {bank} holds dreams of another network than this teacher (its weights differ). "
            "Give a bank of this teacher, or none to dream anew."
        )
    return loaded


def _as_many(real: Source, source: Source, *, seed: int) -> Source:
    if len(real) <= len(source):
        return real
    share = len(source) / len(real)
    return real.split(held_out=share, seed=seed)[1]


def _check_dreams(dreams: int, dream_steps: int) -> None:
    check_counts(dream_steps=dream_steps)
    if dreams < LEAST_DREAMS:
        raise RangeError(f"dreams must be at least {LEAST_DREAMS} to teach and to judge with, got {dreams}")


def _check(teacher: ImageNetwork, students: Sequence[ImageNetwork], sources: Sequence[Source | None]) -> None:
    for student in students:
        if tuple(student.image_shape) != tuple(teacher.image_shape):
            raise ShapeError(
                f"the teacher takes images {tuple(teacher.image_shape)} and the student {tuple(student.image_shape)}; "
                "both see the same images. Choose a student for the teacher's images."
            )
    blank = Source("blank", torch.zeros(2, *teacher.image_shape, dtype=torch.uint8))
    asked, *answered = (predict(network, blank).shape[1] for network in (teacher, *students))
    for classes in answered:
        if classes != asked:
            raise ShapeError(
                f"the student answers for {classes} classes and the teacher for {asked}. Give the student a last layer "
                "with the teacher's classes."
            )
    for images in sources:
        if images is not None:
            teacher.check_images(images.images)
    test = sources[-1]
    if test is not None and test.labels is None:
        raise ReferenceNotFound(f"the test images {test.name!r} have no labels, so accuracy cannot be measured")


def _write(result: Taught, folder: Path) -> None:
    if result.network.origin is not None:
        save(result.network, folder, record=Record())
    write_bytes(folder / "model.onnx", result.onnx)
