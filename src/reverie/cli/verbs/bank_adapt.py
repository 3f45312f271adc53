"""`reverie bank adapt`: dreams of what a student gets wrong, and the student that they taught."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from reverie.cli.answer import PLAIN, Answer, Manner
from reverie.cli.console import progress
from reverie.cli.dreamt import how
from reverie.cli.finish import finish
from reverie.cli.limits import at_least_one
from reverie.cli.loading import AS_STATED, Loading, load_network
from reverie.core.errors import RangeError, ShapeError

if TYPE_CHECKING:
    from torch import nn

    from reverie.core.events import Listener
    from reverie.core.network import ImageNetwork
    from reverie.core.source import Source
    from reverie.dream import Adapted

__all__ = ["adapt"]


def adapt(
    model: str,
    student: str,
    /,
    *,
    out: Path,
    n: int = 512,
    rounds: int = 3,
    teach_steps: int = 300,
    weight: float = 0.1,
    masked: Annotated[bool, Parameter(negative=())] = False,
    hard: float | None = None,
    steps: int | None = None,
    seed: int = 0,
    loading: Loading = AS_STATED,
    manner: Manner = PLAIN,
) -> Answer:
    """Dream what a student gets wrong: a plain bank first, then round by round, the student taught in between.

    Writes a run folder with a bank and the student after each round; the same command again goes on after a kill.

    Args:
        model: The teacher: zoo:NAME, timm:NAME@WEIGHTS, package.module:factory@WEIGHTS, or the folder of a run.
        student: zoo:NAME, timm:NAME or package.module:factory, built anew; with @WEIGHTS, or a run's folder, as it is.
        out: The run folder; new, empty, or of the same command.
        n: Dreams of each round, at least 1.
        rounds: Rounds, at least 1, the plain first one included.
        teach_steps: Training steps of the student in each round, at least 1.
        weight: Weight of the student's disagreement, at least 0; 0 makes every round plain.
        masked: Count only dreams on which the student still agrees, instead of the Jensen-Shannon divergence.
        hard: Replay every class alike, this share, in [0, 1], the student's hardest; not given: all, once a pass.
        steps: Optimization steps per dream, at least 1; 250 where this is not given.
        seed: Same seed, same bytes.
        loading: How the teacher is read.
        manner: How the answer is given.
    """
    del manner
    from reverie.dream import adaptive_dreams, disagreement_term, masked_disagreement_term

    _check(weight, hard, n=n, rounds=rounds, teach_steps=teach_steps, steps=steps)
    teacher, learner = _networks(model, student, loading, seed=seed)
    lessons = partial(_taught, teacher=teacher, steps=teach_steps, hard=hard, folder=out, seed=seed)
    with progress() as on_event:
        found = adaptive_dreams(
            teacher,
            learner,
            teach=partial(lessons, on_event=on_event),
            lessons={"teach_steps": teach_steps, "hard": hard},
            counts=[n] * rounds,
            disagree=masked_disagreement_term if masked else disagreement_term,
            weight=weight,
            steps=steps,
            seed=seed,
            path=out,
            on_event=on_event,
        )
    source, asked = found.pool.source(), {"model": model, "student": student}
    finish(out, asked=asked, source=source, class_names=teacher.class_names)
    return _adapted(found, out)


def _networks(model: str, student: str, loading: Loading, *, seed: int) -> "tuple[ImageNetwork, ImageNetwork]":
    """Teacher and student, of the same images and classes."""
    from reverie.teach import start_student

    teacher = load_network(model, loading)
    learner = start_student(student, teacher, seed=seed)
    _check_alike(teacher, learner, student)
    return teacher, learner


def _check(weight: float, hard: float | None, **counts: int | None) -> None:
    at_least_one(**counts)
    if not weight >= 0:
        raise RangeError(f"--weight must be at least 0, got {weight:g}")
    if hard is not None and not 0 <= hard <= 1:
        raise RangeError(f"--hard is a share in [0, 1], got {hard:g}")


def _check_alike(teacher: "ImageNetwork", student: "ImageNetwork", reference: str) -> None:
    """Refuse a student of other images or classes before anything is dreamed for it."""
    import torch

    from reverie.core.source import Source
    from reverie.metrics import predict

    if student.image_shape != teacher.image_shape:
        raise ShapeError(
            f"the teacher takes images {teacher.image_shape} and {reference} {student.image_shape}; both see the same "
            "images. Choose a student for the teacher's images."
        )
    blank = Source("blank", torch.zeros(2, *teacher.image_shape, dtype=torch.uint8))
    theirs, ours = (predict(network, blank).shape[1] for network in (teacher, student))
    if theirs != ours:
        raise ShapeError(
            f"{reference} answers for {ours} classes and the teacher for {theirs}. Build the student for as many."
        )


def _taught(
    student: "nn.Module",
    pool: "Source",
    number: int,
    *,
    teacher: "ImageNetwork",
    steps: int,
    hard: float | None,
    folder: Path,
    seed: int,
    on_event: "Listener",
) -> "nn.Module":
    """The lessons of one round; a killed round goes on from the file that they keep."""
    from reverie.distill import distill

    source = pool if hard is None else _replayed(student, pool, hard=hard, seed=seed + number)
    kept = folder / f"teaching-{number}.safetensors"
    lessons = distill(teacher, student, source, steps=steps, seed=seed + number, checkpoint=kept, on_event=on_event)
    return lessons.student


def _adapted(found: "Adapted", out: Path) -> Answer:
    total = len(found.rounds)
    student = out / f"student-{total - 1}.safetensors"
    lines = [f"{len(found.pool)} dreams in {total} rounds, in {out}"]
    lines += [
        f"round {number} of {total}: before it was taught, the student saw the class in {one.student_agrees:.1%} of "
        "the new dreams"
        for number, one in enumerate(found.rounds, 1)
        if one.student_agrees is not None
    ]
    made = how(found.pool.config["joined"][0])
    lines += [f"statistics to match: {made['statistics']}", f"student after the last round: {student}"]
    return Answer({"folder": str(out), "student": str(student), **found.figures(), "how": made}, tuple(lines))


def _replayed(student: "nn.Module", pool: "Source", *, hard: float, seed: int) -> "Source":
    """As many images as the pool has, every class alike, the hardest for the student first among each."""
    import torch.nn.functional as F

    from reverie.core.source import Source
    from reverie.dream import replay
    from reverie.metrics import predict

    labels = pool.labels
    if labels is None:
        return pool
    difficulty = F.cross_entropy(predict(student, pool), labels, reduction="none")
    places = replay(labels, difficulty, count=len(pool), seed=seed, hard=hard)
    return Source(pool.name, pool.images[places], labels[places])
