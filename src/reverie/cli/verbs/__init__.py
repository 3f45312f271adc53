"""One file per verb. A verb is a plain function that returns an `Answer`; it imports torch only in its body."""

from collections.abc import Callable

from reverie.cli.answer import Answer
from reverie.cli.verbs.bench import bench
from reverie.cli.verbs.compress import compress, demo
from reverie.cli.verbs.doctor import doctor
from reverie.cli.verbs.dream import dream
from reverie.cli.verbs.evaluate import evaluate
from reverie.cli.verbs.inspect import inspect
from reverie.cli.verbs.report import report

__all__ = ["ALL"]

ALL: tuple[Callable[..., Answer], ...] = (compress, dream, inspect, evaluate, demo, report, bench, doctor)
