"""The figures of choosing: allocator, latency tables and predictions, evidence against the oracle, budgets met."""

from reverie.bench.against_torch_pruning import against_torch_pruning
from reverie.bench.allocations import BUDGETS, bilinear, diverse, knapsack, resolved, true_latency
from reverie.bench.allocations import COMPARED as ALLOCATED
from reverie.bench.evidence import COMPARED, SUBJECTS, spearman
from reverie.bench.figure import Ask, Job, Question, at_least, at_most
from reverie.bench.predictions import budgets_met, predictions, table_time
from reverie.bench.pruned_detector import pruned_detector
from reverie.bench.vision_transformer import KINDS, cifar_deit, deit, small_transformer
from reverie.bench.when_to_prune import when_to_prune

__all__ = ["CHOOSE"]


def _asked(name: str, unit: str, ask: Ask | None) -> Question:
    return Question(name, unit, ask, f"reverie bench choose --only {name}")


def _beside(*names: str, unit: str) -> tuple[Question, ...]:
    return tuple(_asked(name, unit, None) for name in names)


def _transformer(name: str, ask: Ask | None) -> tuple[Question, ...]:
    shares = _beside(*(f"{name}-{kind}" for kind in KINDS), unit="share")
    return (_asked(f"{name}-gain", "points", ask), _asked(f"{name}-gain-from-dreams", "points", None), *shares)


# The paper's figure is asked of its own criteria; the others are read beside them.
ORACLE_ASKS = {"first": 0.93, "second": 0.93, "tangent": 0.93, "each-image": 0.93, "unlabeled": 0.93}
SIDES = ("reverie", "magnitude", "taylor")


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
    Job((_asked("resolve-time", "ms", at_most(100)), _asked("resolve-time-median", "ms", None)), resolved),
    Job(
        (
            *_beside("halp-extra-loss", "greedy-extra-loss", unit="times the optimum"),
            *_beside(
                *(f"halp-{name}-{100 * share:.0f}" for name in ALLOCATED for share in BUDGETS),
                unit="times the optimum",
            ),
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
            tuple(
                _asked(
                    f"oracle-{name}-{kind}",
                    "Spearman",
                    at_least(ORACLE_ASKS[kind]) if kind in ORACLE_ASKS else None,
                )
                for kind in (*COMPARED, "halves")
            ),
            spearman(name),
        )
        for name in SUBJECTS
    ),
    Job(
        (
            _asked("torch-pruning-gain", "points", at_least(1)),
            *_beside(*(f"torch-pruning-{name}-accuracy" for name in SIDES), unit="share"),
            *_beside(*(f"torch-pruning-{name}-latency" for name in SIDES), unit="share of the whole network's"),
            *_beside(*(f"torch-pruning-{name}-before" for name in SIDES), unit="share"),
        ),
        against_torch_pruning,
        against_torch_pruning,
    ),
    Job(_transformer("deit", at_least(30)), deit),
    Job(_transformer("cifar-deit", at_least(30)), cifar_deit),
    # What magnitude loses of a transformer of six blocks is less than 30 points: beside, and nothing is asked of it.
    Job(_transformer("small-transformer", None), small_transformer),
    Job(
        (
            _asked("epi-distance", "epochs", at_most(3)),
            *_beside("epi-epoch", "epi-best-epoch", unit="epochs"),
            *_beside("epi-points-lost", "epi-first-epoch-lost", "epi-last-epoch-lost", unit="points"),
        ),
        when_to_prune,
    ),
    Job(
        (
            *_beside("detector-map", "detector-map-whole", "detector-map-cut", unit="average precision"),
            _asked("detector-over-budget", "share", at_most(0)),
        ),
        pruned_detector,
    ),
)
