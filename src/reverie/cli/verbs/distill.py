"""`reverie distill`: teach a student what a network knows, without its data."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from reverie.cli.answer import PLAIN, Answer, Manner
from reverie.cli.console import progress
from reverie.cli.dreamt import bank_folder
from reverie.cli.finish import finish
from reverie.cli.limits import at_least_one
from reverie.cli.loading import AS_STATED, Loading, labeled_images, load_network, own_images
from reverie.core.errors import RangeError

if TYPE_CHECKING:
    from reverie.report.table import Table
    from reverie.teach import Line, Taught

__all__ = ["distill"]


@Parameter(name="*")
@dataclass(frozen=True)
class Images:
    """Which images teach, and which are compared with or counted.

    Attributes:
        source: Your own images in place of dreams: a folder of image files, or an .npz file; labels are not read.
        bank: A finished bank of this teacher's dreams, or the folder of a run that dreamed one, in place of new ones.
        route: How dreams are made: their pixels, by a generator, or in rounds where the student still errs.
        real: Real images to compare with: a student is also taught on as many of these as there are dreams.
        test_set: Labeled images, read after the last step: zoo:fashion-mnist, a folder, or an .npz file.
    """

    source: str | None = None
    bank: Path | None = None
    route: Literal["pixels", "generator", "adaptive"] = "pixels"
    real: str | None = None
    test_set: str | None = None


@Parameter(name="*")
@dataclass(frozen=True)
class Lessons:
    """How much work is put in.

    Attributes:
        dreams: How many images to synthesize, at least 64.
        dream_steps: Optimization steps per dream, at least 1.
        teach_steps: Training steps of every student, at least 1.
        batch_size: Images in a batch of lessons, at least 2.
        learning_rate: Its peak, above 0.
        weight_decay: Of all parameters, at least 0.
        feature_weight: Of matching feature maps, at least 0; 0 teaches the answers alone.
        control: Teach a student on Gaussian noise as well, to be shown beside.
        seed: Decides everything random.
    """

    dreams: int = 1024
    dream_steps: int = 60
    teach_steps: int = 800
    batch_size: int = 64
    learning_rate: float = 0.05
    weight_decay: float = 5e-4
    feature_weight: float = 100.0
    control: Annotated[bool, Parameter(negative="--no-control")] = True
    seed: int = 0


DREAMED = Images()
USUAL_ROUTE = DREAMED.route
USUAL = Lessons()


def distill(
    teacher: str,
    student: str,
    /,
    *,
    out: Path,
    images: Images = DREAMED,
    seeds: int = 1,
    from_teacher: Annotated[bool, Parameter(negative=())] = False,
    lessons: Lessons = USUAL,
    loading: Loading = AS_STATED,
    manner: Manner = PLAIN,
) -> Answer:
    """Teach a student what a network knows, from dreams of that network unless images are given.

    Writes a run folder; the same command again goes on where it was interrupted.
    Figures are those after the last step of every seed, and the test images choose nothing.

    Args:
        teacher: The network that knows: zoo:NAME, timm:NAME@WEIGHTS, package.module:factory@WEIGHTS, or a run's folder.
        student: zoo:NAME, timm:NAME or package.module:factory, built anew; with @WEIGHTS, or a run's folder, as it is.
        out: The run folder; new, empty, or of the same command.
        images: Which images teach, and which are compared with or counted.
        seeds: How many students are taught, each from a start of its own.
        from_teacher: A new student begins with slices of the teacher's weights.
        lessons: How much work is put in.
        loading: How the teacher is read.
        manner: How the answer is given.
    """
    del manner
    _check(seeds, images, lessons)
    network = load_network(teacher, loading)
    own, real = (None if named is None else own_images(named, network) for named in (images.source, images.real))
    test = None if images.test_set is None else labeled_images(images.test_set, network)
    from reverie.teach import adaptive_route, generator_route, pixel_route, start_student, teach

    routes = {"pixels": pixel_route, "generator": generator_route, "adaptive": adaptive_route}
    starts = [
        start_student(student, network, seed=lessons.seed + index, from_teacher=from_teacher) for index in range(seeds)
    ]
    with progress() as on_event:
        found = teach(
            network,
            starts,
            folder=out,
            source=own,
            bank=None if images.bank is None else bank_folder(images.bank),
            route=routes[images.route],
            real=real,
            test=test,
            **asdict(lessons),
            on_event=on_event,
        )
    asked = {"teacher": teacher, "student": student, "seeds": seeds, "from_teacher": from_teacher}
    given = {name: None if value is None else str(value) for name, value in asdict(images).items()}
    return _handed_over(found, out, {**asked, **given, **asdict(lessons)})


def _check(seeds: int, images: Images, lessons: Lessons) -> None:
    """Refuse, before minutes of dreaming, numbers out of range and options that exclude each other."""
    at_least_one(
        seeds=seeds,
        dream_steps=lessons.dream_steps,
        teach_steps=lessons.teach_steps,
        batch_size=lessons.batch_size,
    )
    if not lessons.learning_rate > 0:
        raise RangeError(f"--learning-rate must be above 0, got {lessons.learning_rate:g}")
    for name, value in (("weight-decay", lessons.weight_decay), ("feature-weight", lessons.feature_weight)):
        if not value >= 0:
            raise RangeError(f"--{name} must be at least 0, got {value:g}")
    given = [f"--{name}" for name in ("source", "bank") if getattr(images, name) is not None]
    if len(given) > 1:
        raise RangeError("--source and --bank both say which images teach: leave one of the two out")
    if given and images.route != USUAL_ROUTE:
        raise RangeError(f"--route {images.route} makes dreams, and {given[0]} brings images: leave one of the two out")


def _handed_over(found: "Taught", out: Path, asked: dict[str, Any]) -> Answer:
    """Write what only the command line knows, draw the dreams, and say where everything is."""
    from reverie.report.table import to_rich

    run = finish(out, asked=asked, source=found.source, class_names=found.network.class_names)
    taught = found.lines[0]
    seeds = "1 seed" if len(taught.agreement) == 1 else f"{len(taught.agreement)} seeds"
    how = (
        f"After the last step, mean of {seeds}; {taught.count} images each. Agreement is that "
        f"with the teacher on {found.judged} images that taught nothing."
    )
    shown: list[object] = [to_rich(_table(found)), how]
    if found.difference is not None and found.network_accuracy is not None:
        gap = found.difference
        shown.append(
            f"The student handed over has {found.network_accuracy.value:.2%} on {found.network_accuracy.count} test "
            f"images, {100 * gap.difference:+.2f} points from the teacher (95 % interval {100 * gap.low:+.2f} to "
            f"{100 * gap.high:+.2f}, paired)."
        )
    return Answer({"folder": str(out), **run}, (*shown, f"network: {out / 'model.onnx'}"))


def _table(found: "Taught") -> "Table":
    """One row per kind of lessons, below the teacher and the student before any; accuracies where they were tested."""
    from reverie.report.table import Table
    from reverie.report.text import percent_text

    def row(name: str, line: "Line") -> tuple[str, ...]:
        agreed = percent_text(sum(line.agreement) / len(line.agreement))
        if line.accuracy is None:
            return name, agreed
        mean = sum(line.accuracy) / len(line.accuracy)
        return name, agreed, percent_text(mean), percent_text(min(line.accuracy))

    tested = found.teacher_accuracy
    teacher = ("teacher", percent_text(1.0))
    rows = [
        teacher if tested is None else (*teacher, *[percent_text(tested.value)] * 2),
        row("student before", found.before),
    ]
    rows += [row(f"taught on {line.images}", line) for line in found.lines]
    columns = ("", "agreement") if tested is None else ("", "agreement", "test accuracy", "lowest seed")
    return Table(columns, tuple(rows))
