"""The figures of the main job: compress a trained network without its data, and all that it stands on."""

from collections.abc import Mapping

from reverie.bench.figure import Job, Measured, Question, at_most
from reverie.bench.processes import help_seconds, import_ratio
from reverie.core.events import Listener

__all__ = ["MAIN_JOB"]


def _import(on_event: Listener) -> Mapping[str, Measured]:
    return {"import-time": import_ratio(on_event)}


def _help(on_event: Listener) -> Mapping[str, Measured]:
    return {"help-time": help_seconds(on_event)}


MAIN_JOB: tuple[Job, ...] = (
    Job(
        (Question("import-time", "times import torch", at_most(1.5), 'python -c "import reverie"'),),
        _import,
    ),
    Job((Question("help-time", "s", at_most(0.3), "reverie --help"),), _help),
)
