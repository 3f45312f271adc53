"""`reverie bank`: fill banks by every route. What is done with finished ones is in `bank_upkeep`."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from reverie.cli.answer import PLAIN, Answer, Manner
from reverie.cli.console import progress
from reverie.cli.dreaming import ANYTHING, USUAL, Asked, Craft, dream_arguments, loaded_shape
from reverie.cli.dreamt import agreement, agreement_text, how
from reverie.cli.loading import AS_STATED, Loading, load_beside, load_network
from reverie.cli.verbs.bank_upkeep import exported
from reverie.core.errors import RangeError

if TYPE_CHECKING:
    from torch import nn

    from reverie.core.events import Listener
    from reverie.core.network import ImageNetwork
    from reverie.core.source import Source
    from reverie.dream import Adapted, Bank

__all__ = ["adapt", "dataset", "fill", "generate"]


def fill(
    model: str,
    /,
    *,
    out: Path,
    n: int = 256,
    size: int | None = None,
    asked: Asked = ANYTHING,
    craft: Craft = USUAL,
    batch: int | None = None,
    seed: int = 0,
    loading: Loading = AS_STATED,
    manner: Manner = PLAIN,
) -> Answer:
    """Fill a bank with dreams; the same command in several processes shares the work, and goes on after a kill.

    Args:
        model: The network: zoo:NAME, timm:NAME@WEIGHTS, package.module:factory@WEIGHTS, or the folder of a run.
        out: The bank's folder; new, empty, or of the same command.
        n: How many dreams, at least 1.
        size: Sides of the images in pixels; the network's own where this is not given.
        asked: What is asked of the images.
        craft: How they are optimized.
        batch: Dreams that are optimized together, at least 1; up to 128, fewer the larger they are, where not given.
        seed: Same seed, same bytes.
        loading: How the model is read.
        manner: How the answer is given.
    """
    del manner
    from reverie.dream import dream

    _at_least_one(n=n, batch=batch)
    network = load_network(model, loading, any_axes=True)
    arguments = dream_arguments(network, loaded_shape(network, size), n, asked, craft)
    with progress() as on_event:
        bank = dream(network, **arguments, batch_size=batch, seed=seed, path=out, on_event=on_event)
    return _told(bank, out)


def generate(
    model: str,
    /,
    *,
    out: Path,
    n: int = 2048,
    warm_up: int = 200,
    steps: int = 5,
    seed: int = 0,
    loading: Loading = AS_STATED,
    manner: Manner = PLAIN,
) -> Answer:
    """Fill a bank by a small generator: many dreams, a few steps each; goes on after a kill.

    Args:
        model: The network: zoo:NAME, timm:NAME@WEIGHTS, package.module:factory@WEIGHTS, or the folder of a run.
        out: The bank's folder; new, empty, or of the same command.
        n: How many dreams, at least 1.
        warm_up: Steps on the first batch, at least 1: they teach the generator to draw at all.
        steps: Steps on every later batch, at least 1.
        seed: Same seed, same bytes.
        loading: How the model is read.
        manner: How the answer is given.
    """
    del manner
    from reverie.dream import generate as generated

    _at_least_one(n=n, warm_up=warm_up, steps=steps)
    network = load_network(model, loading, any_axes=True)
    with progress() as on_event:
        bank = generated(network, count=n, warm_up=warm_up, steps=steps, seed=seed, path=out, on_event=on_event)
    return _told(bank, out)


def adapt(
    model: str,
    student: str,
    /,
    *,
    out: Path,
    n: int = 512,
    rounds: int = 3,
    teach_steps: int = 300,
    weight: float = 1.0,
    masked: Annotated[bool, Parameter(negative=())] = False,
    hard: float | None = None,
    steps: int | None = None,
    seed: int = 0,
    loading: Loading = AS_STATED,
    manner: Manner = PLAIN,
) -> Answer:
    """Dream what a student gets wrong: a plain bank first, then round by round, the student taught in between.

    Args:
        model: The teacher: zoo:NAME, timm:NAME@WEIGHTS, package.module:factory@WEIGHTS, or the folder of a run.
        student: The network that is taught, of the same images and classes.
        out: Folder for banks and students; goes on after a kill.
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

    _at_least_one(n=n, rounds=rounds, teach_steps=teach_steps, steps=steps)
    if not weight >= 0 or not 0 <= (hard or 0.0) <= 1:
        raise RangeError(f"--weight is at least 0 and --hard a share in [0, 1]; got {weight:g} and {hard}")
    teacher = load_network(model, loading, any_axes=True)
    learner = load_beside(student, teacher)
    with progress() as on_event:
        found = adaptive_dreams(
            teacher,
            learner,
            teach=partial(
                _taught, teacher=teacher, steps=teach_steps, hard=hard, folder=out, seed=seed, on_event=on_event
            ),
            lessons={"teach_steps": teach_steps, "hard": hard},
            counts=[n] * rounds,
            disagree=masked_disagreement_term if masked else disagreement_term,
            weight=weight,
            steps=steps,
            seed=seed,
            path=out,
            on_event=on_event,
        )
    return _adapted(found, out)


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
    told = [
        {"dreams": one.dreams, "repeats": one.repeats, "student_agrees": one.student_agrees} for one in found.rounds
    ]
    lines = [f"{len(found.pool)} dreams in {len(told)} rounds, in {out}"]
    lines += [
        f"round {number}: before it was taught, the student saw the class in {one.student_agrees:.1%} of the new dreams"
        for number, one in enumerate(found.rounds)
        if one.student_agrees is not None
    ]
    made = how(found.pool.config["joined"][0])
    lines.append(f"statistics to match: {made['statistics']}")
    return Answer({"folder": str(out), "count": len(found.pool), "rounds": told, "how": made}, tuple(lines))


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


def dataset(
    model: str,
    /,
    *,
    out: Path,
    per_class: int = 10,
    views: int = 20,
    steps: int = 200,
    layout: Literal["folder", "webdataset"] = "folder",
    seed: int = 0,
    loading: Loading = AS_STATED,
    manner: Manner = PLAIN,
) -> Answer:
    """Dream a small data set with soft labels for every view, and export it; goes on after a kill.

    Args:
        model: The network: zoo:NAME, timm:NAME@WEIGHTS, package.module:factory@WEIGHTS, or the folder of a run.
        out: Folder: OUT/made holds the banks, OUT/data the export.
        per_class: Images of each class, at least 1.
        views: Labeled random views of each image, at least 1: as many passes can be taught without the teacher.
        steps: Optimization steps per image, at least 1.
        layout: PNG files in one folder per class, or tar files as webdataset reads them.
        seed: Same seed, same bytes.
        loading: How the model is read.
        manner: How the answer is given.
    """
    del manner
    from reverie.dream import distill_dataset

    _at_least_one(per_class=per_class, views=views, steps=steps)
    network = load_network(model, loading, any_axes=True)
    with progress() as on_event:
        bank, labels = distill_dataset(
            network, per_class=per_class, views=views, steps=steps, seed=seed, path=out / "made", on_event=on_event
        )
    written = exported(bank, out / "data", layout, network.class_names, labels)
    made = how(bank.config["joined"][0])
    told = {"folder": str(out), "count": len(bank), "views": len(labels.boxes), "written": written, "how": made}
    lines = (
        f"{len(bank)} images, {len(labels.boxes)} labeled views of each, in {out / 'data'}",
        f"statistics to match: {made['statistics']}",
    )
    return Answer(told, lines)


def _at_least_one(**numbers: int | None) -> None:
    """Refuse counts below one, in the options' own words."""
    for name, value in numbers.items():
        if value is not None and value < 1:
            raise RangeError(f"--{name.replace('_', '-')} must be at least 1, got {value}")


def _told(bank: "Bank", out: Path) -> Answer:
    found = agreement(bank)
    told = {"folder": str(out), "count": len(bank), "teacher_agreement": found, "config": dict(bank.config)}
    lines = (
        f"{len(bank)} dreams in {out}",
        agreement_text(bank.config, found),
        f"statistics to match: {bank.config['statistics']}",
    )
    return Answer(told, lines)
