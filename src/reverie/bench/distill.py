"""The figures of distillation: data-free students beside their controls, cut networks, detectors, several teachers.

What is not embedded is read from the folder `data` where the command runs: `cifar10-test.npz` and `cifar10-train.npz`
(arrays `images`, uint8 (n, 3, 32, 32), and `labels`), and the published weights `cifar10_resnet20.safetensors`,
`-32` and `-56` of CIFAR-10 networks with padded shortcuts. A figure whose file is not there has no value, and says so.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from reverie.bench.figure import Job, Measured, Question, at_least, at_most
from reverie.bench.published_scale import pair_figures
from reverie.core.events import Listener
from reverie.core.network import ImageNetwork
from reverie.core.rng import preserved_rng
from reverie.core.source import Source, noise_source
from reverie.distill import Averaged, Distilled, Views, distill, same_layers
from reverie.distill.detector import (
    ClassifierLessons,
    SmallDetector,
    detector_precision,
    make_scenes,
    teach_detector,
)
from reverie.dream import dream
from reverie.graph import bypass, probe
from reverie.metrics.evaluate import evaluate
from reverie.teach import start_student, teach
from reverie.zoo.datasets import folder_source, test_set
from reverie.zoo.load import load

__all__ = ["DISTILL"]

DATA = Path("data")
BENCH = "reverie bench distill --only"
CIFAR_SHAPE = (3, 32, 32)
# What the published CIFAR-10 networks were trained with.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SEEDS = 3
FASHION_STUDENT = "reverie.zoo.networks:CifarResNet(widths=[22, 34, 44], in_channels=1)"
RESNET56 = "reverie.zoo.networks:CifarResNet(blocks=9, shortcut='pad')@data/cifar10_resnet56.safetensors"
RESNET20 = "reverie.zoo.networks:CifarResNet(shortcut='pad')"
# Of the usual loss, which both teachers' answers are averaged at.
TEMPERATURE = 4.0
# A trained student is thrown out of its minimum by the usual rate.
FINE_TUNING: dict[str, Any] = {"steps": 200, "learning_rate": 0.002}
CUT = {"dreams": 1024, "dream_steps": 60, "teach_steps": 3100}
# Every image is covered in part by another and mixed with a third: dreams resemble each other, and this is cheap.
MIXED = Views(patches=1.0, blend=0.5)


def _cifar(part: str) -> Source:
    return folder_source(DATA / f"cifar10-{part}.npz", image_shape=CIFAR_SHAPE)


def _published(blocks: int) -> ImageNetwork:
    depth = 6 * blocks + 2
    file = DATA / f"cifar10_resnet{depth}.safetensors"
    reference = f"reverie.zoo.networks:CifarResNet(blocks={blocks}, shortcut='pad')@{file}"
    return load(reference, image_shape=CIFAR_SHAPE, mean=MEAN, std=STD)


def _cut(on_event: Listener) -> Mapping[str, Measured]:
    """A network without the middle block of each stage, taught on dreams; and the same on noise and on real images."""
    test = _cifar("test")
    teacher = _published(3)
    structure = probe(teacher.body, (torch.zeros(2, *CIFAR_SHAPE) - teacher.mean) / teacher.std)
    stages = ("layer1", "layer2", "layer3")
    body, _ = bypass(teacher.body, structure, [f"{stage}.1" for stage in stages])
    student = teacher.with_body(body).eval()

    def lessons(source: Source, seed: int) -> Distilled:
        return distill(
            teacher,
            student,
            source,
            matches=same_layers({f"body.{stage}": None for stage in stages}, weight=100.0),
            steps=CUT["teach_steps"],
            learning_rate=0.05,
            views=MIXED,
            seed=seed,
            on_event=on_event,
        )

    accuracies, seconds = [], []
    for seed in range(SEEDS):
        began = time.monotonic()
        bank = dream(teacher, count=CUT["dreams"], steps=CUT["dream_steps"], seed=seed, on_event=on_event)
        taught = lessons(bank.source(), seed)
        seconds.append(time.monotonic() - began)
        accuracies.append(evaluate(taught.last, test).accuracy.value)
    noise = noise_source(count=CUT["dreams"], image_shape=CIFAR_SHAPE, seed=0)
    real = Source("real", _cifar("train").images[: CUT["dreams"]])
    return {
        "cut-accuracy": _spread(accuracies),
        "cut-lowest": Measured(min(accuracies)),
        "cut-time": _spread(seconds),
        "cut-before": Measured(evaluate(student, test).accuracy.value),
        "cut-noise": Measured(evaluate(lessons(noise, 0).last, test).accuracy.value),
        "cut-real": Measured(evaluate(lessons(real, 0).last, test).accuracy.value),
    }


def _student(
    questions: tuple[Question, ...],
    names: str,
    *,
    teacher: Callable[[], ImageNetwork],
    student: str,
    test: Callable[[], Source],
    real: Callable[[], Source | None],
    dreams: int,
    dream_steps: int,
    teach_steps: int,
) -> Job:
    """Figures `NAMES-share`, `-lowest`, `-noise` and `-real`, of the teacher's accuracy, and `-time` of one student."""

    def run(on_event: Listener, folder: Path | None) -> Mapping[str, Measured]:
        knows, tested, compared = teacher(), test(), real()
        went_on = folder is not None and folder.exists()
        starts = [start_student(student, knows, seed=seed, from_teacher=True) for seed in range(SEEDS)]
        found = teach(
            knows,
            starts,
            folder=folder,
            test=tested,
            real=compared,
            dreams=dreams,
            dream_steps=dream_steps,
            teach_steps=teach_steps,
            on_event=on_event,
        )
        whole = found.teacher_accuracy.value if found.teacher_accuracy is not None else float("nan")
        shares = {line.images: [value / whole for value in line.accuracy or ()] for line in found.lines}
        ours = shares["dreams"]
        lessons = [value for stage, value in found.seconds.items() if stage.startswith("teaching-dreams")]
        figures = {
            f"{names}-share": _spread(ours),
            f"{names}-lowest": Measured(min(ours)),
            f"{names}-noise": Measured(shares["noise"][0]),
        }
        if not went_on:  # what a killed run had spent on its last stage is not known
            figures[f"{names}-time"] = Measured(found.seconds["dreaming"] + sum(lessons) / len(lessons))
        if "real" in shares:
            figures[f"{names}-real"] = Measured(shares["real"][0])
        return figures

    return Job(questions, lambda on_event: run(on_event, None), run)


def _detectors(on_event: Listener) -> Mapping[str, Measured]:
    """Points of average precision over the plain detector at equal steps, of each term and of both, seed by seed."""
    classifier = load("zoo:cifar10-resnet20")
    learned = make_scenes(_cifar("train"), count=1500, seed=0)
    judged = make_scenes(_cifar("test"), count=500, seed=1)
    kinds = {
        "plain": None,
        "classes": ClassifierLessons(classifier, box_weight=0.0),
        "boxes": ClassifierLessons(classifier, class_weight=0.0, stem="body.bn1"),
        "both": ClassifierLessons(classifier, stem="body.bn1"),
    }
    points: dict[str, list[float]] = {name: [] for name in kinds}
    for seed in range(SEEDS):
        with preserved_rng():
            torch.manual_seed(seed)
            start = SmallDetector(classes=10)
        for name, lessons in kinds.items():
            taught = teach_detector(start, learned, lessons=lessons, steps=400, seed=seed, on_event=on_event)
            points[name].append(100 * detector_precision(taught, judged))
    gains = {
        name: [one - plain for one, plain in zip(points[name], points["plain"], strict=True)]
        for name in kinds
        if name != "plain"
    }
    return {"detector-plain": _spread(points["plain"])} | {f"detector-{name}": _spread(gains[name]) for name in gains}


def _two_teachers(on_event: Listener) -> Mapping[str, Measured]:
    """Points of a student of two teachers' mean over that of the better one, on the same unlabeled images.

    The student was trained already, as in Shen and Savvides, 2020, arXiv:2009.08453: what teachers add is then not lost
    in what a start from nothing adds by chance.
    """
    test, images = _cifar("test"), _cifar("train")
    teachers = {"a": _published(5), "b": _published(9)}
    reached: dict[str, list[float]] = {}
    student, both = _published(3), Averaged(list(teachers.values()), temperature=TEMPERATURE)
    for seed in range(SEEDS):
        for name, teacher in {**teachers, "both": both}.items():
            taught = distill(teacher, student, images, **FINE_TUNING, seed=seed, on_event=on_event)
            reached.setdefault(name, []).append(100 * evaluate(taught.last, test).accuracy.value)
    better = max(("a", "b"), key=lambda name: sum(reached[name]))
    gains = [both - single for both, single in zip(reached["both"], reached[better], strict=True)]
    return {"two-teachers": _spread(gains), "two-teachers-better": _spread(reached[better])}


def _published_scale(name: str, *, ask: float) -> Job:
    command = f"{BENCH} gpu-{name}"
    questions = (
        Question(f"gpu-{name}", "share", at_least(ask), command),
        Question(f"gpu-{name}-lowest", "share", None, command),
        Question(f"gpu-{name}-teacher", "share", None, command),
        Question(f"gpu-{name}-time", "s", at_most(7200), command),
    )
    return Job(questions, pair_figures(name, real=lambda: _cifar("train"), test=lambda: _cifar("test")))


def _spread(values: Sequence[float]) -> Measured:
    kind = f"lowest and highest of {len(values)} seeds"
    return Measured(sum(values) / len(values), (min(values), max(values)), kind)


def _command(teacher: str, student: str, *, teach_steps: int, images: str) -> str:
    asked = f"--from-teacher --seeds {SEEDS} --teach-steps {teach_steps} {images}"
    return f'reverie distill "{teacher}" "{student}" {asked} --out DIR'


def _words(values: Sequence[float]) -> str:
    return " ".join(map(str, values))


FASHION_STEPS, CIFAR_STEPS = 1500, 3000
FASHION = _command(
    "zoo:fashion-resnet20", FASHION_STUDENT, teach_steps=FASHION_STEPS, images="--test-set zoo:fashion-mnist"
)
CIFAR = _command(
    RESNET56,
    RESNET20,
    teach_steps=CIFAR_STEPS,
    images=f"--image-shape {_words(CIFAR_SHAPE)} --mean {_words(MEAN)} --std {_words(STD)} "
    "--real data/cifar10-train.npz --test-set data/cifar10-test.npz",
)

DISTILL: tuple[Job, ...] = (
    Job(
        (
            Question("cut-accuracy", "share", at_least(0.88), f"{BENCH} cut-accuracy"),
            Question("cut-lowest", "share", None, f"{BENCH} cut-accuracy"),
            Question("cut-time", "s", at_most(300), f"{BENCH} cut-accuracy"),
            Question("cut-before", "share", None, f"{BENCH} cut-accuracy"),
            Question("cut-noise", "share", None, f"{BENCH} cut-accuracy"),
            Question("cut-real", "share", None, f"{BENCH} cut-accuracy"),
        ),
        _cut,
    ),
    _student(
        (
            Question("fashion-half-share", "of the teacher's accuracy", at_least(0.97), FASHION),
            Question("fashion-half-lowest", "of the teacher's accuracy", None, FASHION),
            Question("fashion-half-noise", "of the teacher's accuracy", None, FASHION),
            Question("fashion-half-time", "s", at_most(1800), FASHION),
        ),
        "fashion-half",
        teacher=lambda: load("zoo:fashion-resnet20"),
        student=FASHION_STUDENT,
        test=lambda: test_set("fashion-mnist"),
        real=lambda: None,
        dreams=1024,
        dream_steps=60,
        teach_steps=FASHION_STEPS,
    ),
    _student(
        (
            Question("cifar-56-to-20-share", "of the teacher's accuracy", at_least(0.93), CIFAR),
            Question("cifar-56-to-20-lowest", "of the teacher's accuracy", None, CIFAR),
            Question("cifar-56-to-20-noise", "of the teacher's accuracy", None, CIFAR),
            Question("cifar-56-to-20-real", "of the teacher's accuracy", None, CIFAR),
            Question("cifar-56-to-20-time", "s", at_most(1800), CIFAR),
        ),
        "cifar-56-to-20",
        teacher=lambda: _published(9),
        student=RESNET20,
        test=lambda: _cifar("test"),
        real=lambda: _cifar("train"),
        dreams=1024,
        dream_steps=60,
        teach_steps=CIFAR_STEPS,
    ),
    Job(
        (
            Question("detector-both", "points of AP over the plain detector", at_least(1.0), f"{BENCH} detector-both"),
            Question("detector-classes", "points of AP over the plain detector", None, f"{BENCH} detector-both"),
            Question("detector-boxes", "points of AP over the plain detector", None, f"{BENCH} detector-both"),
            Question("detector-plain", "points of AP", None, f"{BENCH} detector-both"),
        ),
        _detectors,
    ),
    Job(
        (
            Question(
                "two-teachers", "points over the better teacher's student", at_least(-0.1), f"{BENCH} two-teachers"
            ),
            Question("two-teachers-better", "points", None, f"{BENCH} two-teachers"),
        ),
        _two_teachers,
    ),
    _published_scale("34-to-18", ask=0.9532),
    _published_scale("40-2-to-16-1", ask=0.9005),
)
