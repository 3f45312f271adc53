"""How good dreams are: judged by independent networks, beside real images, noise and a textbook's dreams.

Definitions: `docs/benchmarks/dream.md`. Every figure is of images as they are after 8 bits.
"""

import copy
import time
from collections.abc import Mapping
from functools import cache

import torch
from torch import Tensor

from reverie.bench.dream_data import cifar_images, cifar_judge
from reverie.bench.figure import Measured
from reverie.bench.textbook import textbook_dreams
from reverie.core.events import Event, Listener
from reverie.core.network import ImageNetwork
from reverie.core.rng import preserved_rng
from reverie.core.source import Source, noise_source
from reverie.core.tap import tap
from reverie.distill import Views, distill, reestimate_batch_norm
from reverie.dream import Bank, adaptive_dreams, dream, refine_inversion, train_inverter
from reverie.metrics import (
    coverage,
    duplicates,
    evaluate,
    features,
    frechet_distance,
    inception_score,
    kernel_distance,
    moment_fit,
    predict,
    relative_diversity,
)
from reverie.zoo.load import load
from reverie.zoo.networks import CifarResNet, Shortcut

__all__ = ["adaptive_figures", "image_figures", "inversion_figures", "recovery_figures", "student_figures"]

TEACHER = "zoo:cifar10-resnet20"
JUDGES = (32, 56)
COUNT = 256
# Inputs of the second and third stage and of the head's average: early, middle and late features.
DIVERSITY_LAYERS = ("body.layer1.0", "body.layer2.0", "body.layer3.0")
STAGES = ("body.layer1", "body.layer2", "body.layer3")
MANY = 1024
# Of the disagreement that adaptive dreams look for, beside the class; with more the student recognizes hardly any, and
# learns less of real images from them than from plain ones.
ADAPTIVE_WEIGHT = 0.1
# Every image is covered in part by another and mixed with a third, as for the other students of dreams.
MIXED = Views(patches=1.0, blend=0.5)


def image_figures(on_event: Listener) -> Mapping[str, Measured]:
    """256 dreams and what others see in them; then the textbook's, in the same time."""
    real = cifar_images("test")
    judges = [cifar_judge(depth) for depth in JUDGES]
    teacher = load(TEACHER)
    began = time.monotonic()
    bank = dream(teacher, count=COUNT, on_event=on_event)
    seconds = time.monotonic() - began
    textbook = textbook_dreams(copy.deepcopy(teacher), bank.labels, seconds=seconds, seed=0)
    made = {"dreams": bank.source(), "textbook": Source("textbook", textbook, bank.labels)}
    rows = features(judges[0], real)
    half, other = rows[0::2], rows[1::2]
    figures = {
        "dreams-time": Measured(seconds),
        "dreams-teacher": Measured(float(bank.agrees.float().mean())),
        "dreams-duplicates": Measured(duplicates(bank.images)),
        "dreams-diversity": Measured(relative_diversity(judges[0], made["dreams"], _few(real), DIVERSITY_LAYERS)),
        "dreams-moment-fit": Measured(moment_fit(teacher, made["dreams"]).mean_error),
        "real-kernel": Measured(kernel_distance(half[:COUNT], other)),
    }
    for name, source in made.items():
        seen = features(judges[0], source)
        answers = [predict(judge, source) for judge in judges]
        figures |= {
            f"{name}-judges": Measured(_mean([_share(answer, bank.labels) for answer in answers])),
            f"{name}-kernel": Measured(kernel_distance(seen, rows)),
            f"{name}-frechet": Measured(frechet_distance(seen, rows)),
            f"{name}-coverage": Measured(coverage(seen, rows[:1000])),
            f"{name}-score": Measured(inception_score(answers[0])),
        }
    figures["kernel-share"] = Measured(figures["dreams-kernel"].value / figures["textbook-kernel"].value)
    return figures


@cache
def _many_dreams(on_event: Listener) -> Bank:
    """1,024 dreams by the default recipe, made once for the figures that need many."""
    return dream(load(TEACHER), count=MANY, on_event=on_event)


def recovery_figures(on_event: Listener) -> Mapping[str, Measured]:
    """Accuracy with batch-norm statistics counted anew on dreams, and on noise, over that of the network as it is."""
    real, teacher = cifar_images("test"), load(TEACHER)
    whole = evaluate(teacher, real).accuracy.value
    noise = noise_source(count=MANY, image_shape=(3, 32, 32), seed=0)
    return {
        f"recovery-{source.name}": Measured(
            evaluate(reestimate_batch_norm(teacher, source), real).accuracy.value / whole
        )
        for source in (_many_dreams(on_event).source(), noise)
    }


def inversion_figures(on_event: Listener) -> Mapping[str, Measured]:
    """Share of real images whose reconstruction from a stage's features keeps the teacher's decision.

    What the inverse gives in one pass is `-direct`; the other is moved toward the features afterwards.
    """
    real, teacher = _few(cifar_images("test")), load(TEACHER)
    bank = dream(teacher, count=COUNT, on_event=on_event)
    inverter = train_inverter(teacher, bank.source(), layers=STAGES, steps=300, on_event=on_event)
    decided = predict(teacher, real).argmax(1)
    with torch.no_grad(), tap(teacher, STAGES) as seen:
        teacher(real.floats())
    kept = {}
    for place, stage in enumerate(STAGES, start=1):
        direct = inverter(seen[stage].output, stage)
        refined = refine_inversion(teacher, direct, seen[stage].output, layer=stage, on_event=on_event)
        for name, images in (("", refined), ("-direct", direct)):
            shown = Source("reconstructed", (images * 255).round().to(torch.uint8))
            kept[f"inversion-stage{place}{name}"] = Measured(_share(predict(teacher, shown), decided))
    return kept


def adaptive_figures(on_event: Listener, *, seeds: int = 3) -> Mapping[str, Measured]:
    """Points of real accuracy that adaptive dreams add to a student, over plain ones, at an equal count of images.

    The student is a third as deep as the published ResNet-20, from random weights; lessons and steps are equal too.
    """
    real, teacher = cifar_images("test"), cifar_judge(20)
    scores: dict[str, list[float]] = {"adaptive": [], "plain": []}
    for seed in range(seeds):
        student = _fresh_student(teacher, seed, shortcut="pad")
        for name, weight in (("adaptive", ADAPTIVE_WEIGHT), ("plain", 0.0)):
            found = _student_accuracy(teacher, student, real, weight=weight, seed=seed, on_event=on_event)
            scores[name].append(100 * found)
    gains = [one - other for one, other in zip(scores["adaptive"], scores["plain"], strict=True)]
    kind = f"range of {seeds} seeds"
    return {
        f"adaptive-{name}": Measured(_mean(values), (min(values), max(values)), kind)
        for name, values in {"gain": gains, "plain": scores["plain"]}.items()
    }


def student_figures(on_event: Listener) -> Mapping[str, Measured]:
    """Real accuracy of a student taught on dreams, and on as many real images, in equal steps."""
    real, teacher = cifar_images("test"), load(TEACHER)
    photographs = cifar_images("train")
    sources = {
        "student-real": Source("real", photographs.images[:MANY]),
        "student-dreams": _many_dreams(on_event).source(),
    }
    found = {}
    for name, source in sources.items():
        student = _fresh_student(teacher, 0)
        taught = distill(teacher, student, source, steps=600, seed=0, on_event=on_event).student
        found[name] = Measured(evaluate(taught, real).accuracy.value)
    return {**found, "student-share": Measured(found["student-dreams"].value / found["student-real"].value)}


def _fresh_student(teacher: ImageNetwork, seed: int, *, shortcut: Shortcut = "project") -> ImageNetwork:
    """A third as deep as the teacher, from random weights."""
    with preserved_rng():
        torch.manual_seed(seed)
        return teacher.with_body(CifarResNet(blocks=1, shortcut=shortcut))


def _student_accuracy(
    teacher: ImageNetwork, student: ImageNetwork, real: Source, *, weight: float, seed: int, on_event: Listener
) -> float:
    def teach(taught: torch.nn.Module, pool: Source, number: int) -> torch.nn.Module:
        found = distill(
            teacher,
            taught,
            pool,
            steps=400,
            learning_rate=0.05,
            views=MIXED,
            seed=seed + number,
            on_event=on_event,
        )
        return found.last

    counts = [COUNT] * 3
    found = adaptive_dreams(
        teacher, student, teach=teach, counts=counts, weight=weight, steps=60, seed=seed, on_event=on_event
    )
    on_event(Event("students", 1, 1))
    return evaluate(found.student, real).accuracy.value


def _few(real: Source) -> Source:
    """As many real images as dreams, so that neighbors are as far apart for want of images in both."""
    return Source(real.name, real.images[:COUNT], None if real.labels is None else real.labels[:COUNT])


def _share(answer: Tensor, labels: Tensor) -> float:
    return float((answer.argmax(1) == labels).float().mean())


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
