"""The figures of the main job: compress a trained network without its data, and all that it stands on."""

from collections.abc import Callable, Mapping

from reverie.bench.demo import demo_figures
from reverie.bench.dreams import agreement_figures
from reverie.bench.figure import Job, Measured, Question, at_least, at_most
from reverie.bench.processes import help_seconds, import_ratio
from reverie.bench.steps import step_ratios
from reverie.core.events import Listener

__all__ = ["MAIN_JOB"]

BENCH = "reverie bench main-job --only"
FASHION = "reverie dream zoo:fashion-resnet20 --n 256 --judge zoo:fashion-vgg --out DIR"
IMAGENET = (
    "reverie dream zoo:imagenet-efficientnet-lite0 --n 32 --side 128 --judge zoo:imagenet-efficientnet-lite1 --out DIR"
)


def _one(name: str, measure: Callable[[Listener], Measured]) -> Callable[[Listener], Mapping[str, Measured]]:
    return lambda on_event: {name: measure(on_event)}


MAIN_JOB: tuple[Job, ...] = (
    Job(
        (Question("import-time", "times import torch", at_most(1.5), 'python -c "import reverie"'),),
        _one("import-time", import_ratio),
    ),
    Job((Question("help-time", "s", at_most(0.3), "reverie --help"),), _one("help-time", help_seconds)),
    Job(
        (
            Question("cifar-step", "bare passes", at_most(0.8), f"{BENCH} cifar-step"),
            Question("cifar-step-textbook", "bare passes", None, f"{BENCH} cifar-step"),
        ),
        step_ratios("zoo:cifar10-resnet20", batch=128, names="cifar-step"),
    ),
    Job(
        (
            Question("imagenet-step", "bare passes", at_most(0.9), f"{BENCH} imagenet-step"),
            Question("imagenet-step-textbook", "bare passes", None, f"{BENCH} imagenet-step"),
        ),
        step_ratios("zoo:imagenet-efficientnet-lite0", batch=8, size=224, names="imagenet-step"),
    ),
    Job(
        (
            Question("demo-time", "s", at_most(300), "make demo"),
            Question("demo-latency", "of the teacher's", at_most(0.6), "make demo"),
            Question("demo-accuracy-drop", "points", at_most(1.5), "make demo"),
        ),
        demo_figures,
    ),
    Job(
        (
            Question("fashion-dreams-time", "s", at_most(180), FASHION),
            Question("fashion-dreams-teacher", "share", at_least(1.0), FASHION),
            Question("fashion-dreams-judge", "share", at_least(0.95), FASHION),
        ),
        agreement_figures("zoo:fashion-resnet20", "zoo:fashion-vgg", count=256, size=None, names="fashion-dreams"),
    ),
    Job(
        (
            Question("imagenet-dreams-time", "s", at_most(600), IMAGENET),
            Question("imagenet-dreams-judge", "share", at_least(0.7), IMAGENET),
        ),
        agreement_figures(
            "zoo:imagenet-efficientnet-lite0",
            "zoo:imagenet-efficientnet-lite1",
            count=32,
            size=128,
            names="imagenet-dreams",
        ),
    ),
)
