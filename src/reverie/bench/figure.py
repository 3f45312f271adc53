"""What a benchmark asks and finds: figures with a unit, the figure asked for, and whether it was met."""

import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from reverie.core.environment import environment
from reverie.core.errors import CorruptFile, ReferenceNotFound, ReverieError
from reverie.core.events import Event, Listener, silent
from reverie.core.store import read_json, write_json

__all__ = ["Ask", "Figure", "Job", "Measured", "Question", "at_least", "at_most", "run_bench"]


@dataclass(frozen=True)
class Ask:
    """A bound on a figure; both ends belong to it."""

    bound: float
    upper: bool

    def holds(self, value: float) -> bool:
        """Whether a value meets it."""
        return value <= self.bound if self.upper else value >= self.bound

    def __str__(self) -> str:
        return f"{'<=' if self.upper else '>='} {self.bound:g}"


def at_most(bound: float) -> Ask:
    """Lower is better, up to and including `bound`."""
    return Ask(bound, upper=True)


def at_least(bound: float) -> Ask:
    """Higher is better, from `bound` on."""
    return Ask(bound, upper=False)


@dataclass(frozen=True)
class Question:
    """One figure before it is measured.

    Attributes:
        name: What is measured; lower case and hyphens.
        unit: Of the value: `"s"`, `"ratio"`, `"share"`, `"points"`.
        ask: What the value should be; None for a figure that others are read beside.
        command: What a person runs to see it.
    """

    name: str
    unit: str
    ask: Ask | None
    command: str


@dataclass(frozen=True)
class Measured:
    """One figure after it was measured.

    Attributes:
        value: In the unit of its question.
        spread: A range of it, such as the 10th and 90th percentile or a 95 % interval; None where there is one run.
        spread_kind: What the range is.
    """

    value: float
    spread: tuple[float, float] | None = None
    spread_kind: str | None = None


@dataclass(frozen=True)
class Job:
    """Questions that one run answers.

    Attributes:
        questions: What is answered.
        run: Measures; returns a `Measured` for each question's name, but for those that it cannot tell.
        resume: The same in a folder of its own, where it goes on after a kill; None for what starts over.
    """

    questions: tuple[Question, ...]
    run: Callable[[Listener], Mapping[str, Measured]]
    resume: Callable[[Listener, Path], Mapping[str, Measured]] | None = None


@dataclass(frozen=True)
class Figure:
    """A question and its answer, or the reason why there is none.

    Attributes:
        question: What was asked.
        measured: What was found.
        reason: Why nothing was found.
        commit: Of the source tree it was measured with, where that is not the one of the run that tells it.
    """

    question: Question
    measured: Measured | None
    reason: str | None = None
    commit: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The figure as `reverie bench --json` prints it."""
        question, measured = self.question, self.measured
        return {
            "name": question.name,
            "value": None if measured is None else measured.value,
            "unit": question.unit,
            "ask": None
            if question.ask is None
            else {"at_most" if question.ask.upper else "at_least": question.ask.bound},
            "holds": None if measured is None or question.ask is None else question.ask.holds(measured.value),
            "spread": None if measured is None or measured.spread is None else list(measured.spread),
            "spread_kind": None if measured is None else measured.spread_kind,
            "command": question.command,
            **({} if self.reason is None else {"reason": self.reason}),
            **({} if self.commit is None else {"commit": self.commit}),
        }


def run_bench(
    name: str, jobs: Sequence[Job], *, only: Sequence[str] = (), folder: Path | None = None, on_event: Listener = silent
) -> tuple[dict[str, Any], tuple[Figure, ...]]:
    """Run the jobs of a benchmark, one after the other.

    A job that cannot run, because an extra is missing or a network does not load, leaves figures without a value and
    with the reason; the other jobs run.

    Args:
        name: The benchmark.
        jobs: What it measures.
        only: Names of the figures wanted; empty for all. A job runs where one of its figures is wanted, and tells all
            of them.
        folder: Where answers are kept, a file per job: a job whose file is there is read and not run again. A figure
            that was measured at another commit says at which. Long jobs also keep a folder there and go on in it.
        on_event: Hears the stage of every job.

    Returns:
        The JSON object, and the same figures as values.

    Raises:
        ReferenceNotFound: A name in `only` is no figure of this benchmark.
        CorruptFile: An answer that the folder keeps is damaged.
    """
    known = [question.name for job in jobs for question in job.questions]
    for wanted in only:
        if wanted not in known:
            raise ReferenceNotFound(f"{name} has no figure {wanted!r}; it has {', '.join(known)}")
    facts = environment()
    figures: list[Figure] = []
    for index, job in enumerate(jobs):
        on_event(Event(f"bench {name}", index, len(jobs)))
        kept = None if folder is None else folder / f"{job.questions[0].name}.json"
        if kept is not None and kept.exists():
            figures += _recall(job, kept, facts["commit"])
        elif only and not any(question.name in only for question in job.questions):
            figures += [Figure(question, None, "not asked for in this run") for question in job.questions]
        else:
            answered = _answer(job, None if kept is None else kept.with_suffix(""), on_event)
            figures += answered
            if kept is not None:
                _keep(answered, kept, facts["commit"])
    on_event(Event(f"bench {name}", len(jobs), len(jobs)))
    return {"bench": name, **facts, "figures": [figure.to_json() for figure in figures]}, tuple(figures)


def _answer(job: Job, folder: Path | None, on_event: Listener) -> list[Figure]:
    try:
        measured = job.run(on_event) if folder is None or job.resume is None else job.resume(on_event, folder)
    except (ReverieError, ImportError, OSError, subprocess.SubprocessError) as error:
        return [Figure(question, None, f"{type(error).__name__}: {error}") for question in job.questions]
    return [
        Figure(question, measured[question.name])
        if question.name in measured
        else Figure(question, None, "this run could not tell it")
        for question in job.questions
    ]


def _keep(figures: Sequence[Figure], path: Path, commit: str | None) -> None:
    """Answers only: what could not run is tried again."""
    answers = {figure.question.name: asdict(figure.measured) for figure in figures if figure.measured is not None}
    if answers:
        write_json(path, {"commit": commit, "answers": answers})


def _recall(job: Job, path: Path, commit: str | None) -> list[Figure]:
    kept = read_json(path)
    if not isinstance(kept, dict) or not kept.keys() >= {"commit", "answers"}:
        raise CorruptFile(f"{path} is not what a benchmark kept. Delete it to measure again.")
    elsewhere = None if kept["commit"] == commit else kept["commit"]
    found = {name: _measured(answer) for name, answer in kept["answers"].items()}
    return [
        Figure(question, found[question.name], commit=elsewhere)
        if question.name in found
        else Figure(question, None, f"not in {path.name}, which was kept before; remove it to measure again")
        for question in job.questions
    ]


def _measured(answer: Mapping[str, Any]) -> Measured:
    spread = answer["spread"]
    return Measured(answer["value"], None if spread is None else (spread[0], spread[1]), answer["spread_kind"])
