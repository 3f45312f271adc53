"""The figures of choosing: allocator, latency tables and predictions, evidence against the oracle, budgets met."""

from collections.abc import Callable, Mapping

from reverie.bench.allocations import bilinear, diverse, knapsack, resolved, true_latency
from reverie.bench.evidence import SUBJECTS, spearman
from reverie.bench.figure import Ask, Job, Measured, Question, at_least, at_most
from reverie.bench.predictions import budgets_met, predictions, table_time
from reverie.core.errors import ReferenceNotFound
from reverie.core.events import Listener

__all__ = ["CHOOSE"]


def _asked(name: str, unit: str, ask: Ask | None) -> Question:
    return Question(name, unit, ask, f"reverie bench choose --only {name}")


def _not_run(reason: str) -> Callable[[Listener], Mapping[str, Measured]]:
    def run(_: Listener) -> Mapping[str, Measured]:
        raise ReferenceNotFound(f"not run: {reason}")

    return run


CHOOSE: tuple[Job, ...] = (
    Job(
        (
            _asked("knapsack-time", "ms", at_most(50)),
            _asked("knapsack-excess", "share", at_most(1e-6)),
            _asked("knapsack-highs-time", "ms", None),
        ),
        knapsack,
    ),
    Job(
        (
            _asked("bilinear-time", "s", at_most(10)),
            _asked("bilinear-gap", "share", at_most(1e-4)),
        ),
        bilinear,
    ),
    Job(
        (
            _asked("diverse-time", "s", at_most(1)),
            _asked("diverse-plans", "plans", at_least(20)),
            _asked("diverse-worst", "times the best loss", None),
        ),
        diverse,
    ),
    Job((_asked("resolve-time", "ms", at_most(100)),), resolved),
    Job(
        (
            _asked("halp-extra-loss", "times the optimum", None),
            _asked("greedy-extra-loss", "times the optimum", None),
        ),
        true_latency,
    ),
    Job((_asked("table-time-resnet50", "s", at_most(300)),), table_time),
    *(
        Job(
            (
                _asked(f"prediction-median-{backend}", "share", at_most(0.02)),
                _asked(f"prediction-p95-{backend}", "share", at_most(0.05)),
            ),
            predictions(backend),
        )
        for backend in ("onnxruntime", "openvino")
    ),
    *(
        Job(
            (_asked(f"budgets-met-{backend}", "share", at_least(1.0)),),
            budgets_met(backend),
        )
        for backend in ("onnxruntime", "openvino")
    ),
    *(
        Job(
            (
                _asked(f"oracle-{name}-first", "Spearman", at_least(0.93)),
                _asked(f"oracle-{name}-second", "Spearman", at_least(0.93)),
                _asked(f"oracle-{name}-each-image", "Spearman", None),
                _asked(f"oracle-{name}-magnitude", "Spearman", None),
            ),
            spearman(name),
        )
        for name in SUBJECTS
    ),
    Job(
        (_asked("torch-pruning-gain", "points", at_least(1)),),
        _not_run("needs CIFAR-10 and Torch-Pruning, and hours of training"),
    ),
    Job(
        (_asked("deit-gain", "points", at_least(30)),),
        _not_run("needs trained weights of DeiT-tiny, which no package registry holds"),
    ),
    Job(
        (_asked("epi-distance", "epochs", at_most(3)),),
        _not_run("the grid search over epochs takes hours of training"),
    ),
    Job(
        (_asked("detector-map", "share", None),),
        _not_run("needs a trained SSD and labeled boxes"),
    ),
)
