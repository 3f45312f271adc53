"""One file per verb. A verb is a plain function that returns an `Answer`; it imports torch only in its body."""

from collections.abc import Callable, Mapping

from reverie.cli.answer import Answer
from reverie.cli.verbs.bank import fill, generate
from reverie.cli.verbs.bank_adapt import adapt
from reverie.cli.verbs.bank_dataset import dataset
from reverie.cli.verbs.bank_measure import measure
from reverie.cli.verbs.bank_recover import recover
from reverie.cli.verbs.bank_upkeep import capture, export, picture, verify
from reverie.cli.verbs.bench import bench
from reverie.cli.verbs.compress import compress, demo
from reverie.cli.verbs.distill import distill
from reverie.cli.verbs.doctor import doctor
from reverie.cli.verbs.dream import dream
from reverie.cli.verbs.evaluate import evaluate
from reverie.cli.verbs.inspect import inspect
from reverie.cli.verbs.invert import invert
from reverie.cli.verbs.latency import build, compare, show, solve
from reverie.cli.verbs.prune import prune
from reverie.cli.verbs.report import report

__all__ = ["ALL", "GROUPS"]

ALL: tuple[Callable[..., Answer], ...] = (
    compress,
    prune,
    dream,
    distill,
    inspect,
    evaluate,
    demo,
    report,
    bench,
    doctor,
)

# Verbs of two words: the first word -> what it is about, and the verbs behind it.
GROUPS: Mapping[str, tuple[str, tuple[Callable[..., Answer], ...]]] = {
    "bank": (
        "Banks of dreams: fill them by every route, check them, look at them, hand them on.",
        (fill, generate, adapt, dataset, invert, recover, verify, measure, picture, export, capture),
    ),
    "latency": (
        "Latency of layers and networks, measured in the runtimes of this machine.",
        (build, show, compare, solve),
    ),
}
