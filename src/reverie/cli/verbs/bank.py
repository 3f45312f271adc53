"""`reverie bank`: fill banks by every route, check them, look at them, hand them to other programs."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from reverie.cli.answer import PLAIN, Answer, Manner
from reverie.cli.console import progress
from reverie.cli.loading import AS_STATED, Loading, labeled_images, load_network

if TYPE_CHECKING:
    from reverie.dream import Bank

__all__ = ["adapt", "capture", "dataset", "export", "fill", "generate", "picture", "verify"]

PER_ROW = 10


def fill(
    model: str,
    /,
    *,
    out: Path,
    n: int = 256,
    steps: int | None = None,
    batch: int | None = None,
    statistics: Path | None = None,
    seed: int = 0,
    loading: Loading = AS_STATED,
    manner: Manner = PLAIN,
) -> Answer:
    """Fill a bank with dreams; the same command in several processes shares the work, and goes on after a kill.

    Args:
        model: The network: zoo:NAME, timm:NAME@WEIGHTS, package.module:factory@WEIGHTS, or the folder of a run.
        out: The bank's folder; new, empty, or of the same command.
        n: How many dreams.
        steps: Optimization steps per batch; the recipe's own where this is not given.
        batch: Dreams that are optimized together; as many as memory takes where this is not given.
        statistics: A file of moments from `reverie bank capture`; what the network stores where this is not given.
        seed: Same seed, same bytes.
        loading: How the model is read.
        manner: How the answer is given.
    """
    del manner
    from reverie.dream import Statistics, dream

    moments = None if statistics is None else Statistics.load(statistics)
    network = load_network(model, loading)
    with progress() as on_event:
        bank = dream(
            network, count=n, steps=steps, batch_size=batch, statistics=moments, seed=seed, path=out, on_event=on_event
        )
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
        n: How many dreams.
        warm_up: Steps on the first batch.
        steps: Steps on every later batch.
        seed: Same seed, same bytes.
        loading: How the model is read.
        manner: How the answer is given.
    """
    del manner
    from reverie.dream import generate as generated

    network = load_network(model, loading)
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
    masked: bool = False,
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
        n: Dreams of each round.
        rounds: Rounds, the plain one included.
        teach_steps: Training steps of the student in each round.
        weight: Of disagreement; 0 makes every round plain.
        masked: Count only dreams on which the student still agrees, instead of the Jensen-Shannon divergence.
        steps: Optimization steps per batch; the recipe's own where this is not given.
        seed: Same seed, same bytes.
        loading: How the teacher is read.
        manner: How the answer is given.
    """
    del manner
    from reverie.distill import distill
    from reverie.dream import adaptive_dreams, disagreement_term, masked_disagreement_term

    teacher, learner = load_network(model, loading), load_network(student)
    with progress() as on_event:

        def teach(one: Any, pool: Any, number: int) -> Any:  # noqa: ANN401  torch may not be imported for annotations
            kept = out / f"teaching-{number}.safetensors"
            return distill(
                teacher, one, pool, steps=teach_steps, seed=seed + number, checkpoint=kept, on_event=on_event
            ).student

        found = adaptive_dreams(
            teacher,
            learner,
            teach=teach,
            counts=[n] * rounds,
            disagree=masked_disagreement_term if masked else disagreement_term,
            weight=weight,
            steps=steps,
            seed=seed,
            path=out,
            on_event=on_event,
        )
    told = [
        {"dreams": one.dreams, "repeats": one.repeats, "student_agrees": one.student_agrees} for one in found.rounds
    ]
    lines = [f"{len(found.pool)} dreams in {rounds} rounds, in {out}"]
    lines += [
        f"round {number}: before it was taught, the student saw the class in {one.student_agrees:.1%} of the new dreams"
        for number, one in enumerate(found.rounds)
        if one.student_agrees is not None
    ]
    return Answer({"folder": str(out), "count": len(found.pool), "rounds": told}, tuple(lines))


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
        per_class: Images of each class.
        views: Labeled random views of each image.
        steps: Optimization steps per batch.
        layout: PNG files in one folder per class, or tar files as webdataset reads them.
        seed: Same seed, same bytes.
        loading: How the model is read.
        manner: How the answer is given.
    """
    del manner
    from reverie.dream import distill_dataset

    network = load_network(model, loading)
    with progress() as on_event:
        bank, labels = distill_dataset(
            network, per_class=per_class, views=views, steps=steps, seed=seed, path=out / "made", on_event=on_event
        )
    written = _export(bank, out / "data", layout, network.class_names, labels)
    told = {"folder": str(out), "count": len(bank), "views": len(labels.boxes), "written": written}
    return Answer(told, (f"{len(bank)} images, {len(labels.boxes)} labeled views of each, in {out / 'data'}",))


def verify(bank: Path, /, *, model: str | None = None, loading: Loading = AS_STATED, manner: Manner = PLAIN) -> Answer:
    """Check a bank: every shard against the manifest, and, with its network, every stored answer.

    Args:
        bank: The bank's folder.
        model: The network it was dreamed of; its weights are compared, and its answers computed anew.
        loading: How the model is read.
        manner: How the answer is given.
    """
    del manner
    from reverie.core.errors import VerificationFailed
    from reverie.dream import Bank, teacher_sha256
    from reverie.metrics import duplicates, predict

    found = Bank.load(bank)
    found.verify()
    told = {"folder": str(bank), "count": len(found), "duplicates": duplicates(found.images), "answers_checked": False}
    if model is not None:
        network = load_network(model, loading)
        if teacher_sha256(network) != found.teacher_sha256:
            raise VerificationFailed(f"{bank} was dreamed of other weights than those of {model}")
        farthest = float((predict(network, found.source()) - found.logits).abs().max())
        told |= {"answers_checked": True, "farthest_logit": farthest}
        if farthest > 1e-2:
            raise VerificationFailed(f"{model} answers the dreams of {bank} otherwise than stored: by {farthest:g}")
    checked = "shards and answers" if model is not None else "shards"
    return Answer(told, (f"{len(found)} dreams, {checked} as they were written", f"repeats: {told['duplicates']:.1%}"))


def picture(bank: Path, /, *, out: Path, per_row: int = PER_ROW, manner: Manner = PLAIN) -> Answer:
    """Draw a bank by class.

    Args:
        bank: The bank's folder.
        out: The PNG file.
        per_row: Dreams of a class that are shown.
        manner: How the answer is given.
    """
    del manner
    from reverie.dream import Bank
    from reverie.report.picture import dream_grid, save_png

    found = Bank.load(bank)
    save_png(dream_grid(found.images, found.labels, per_row=per_row), out)
    return Answer({"picture": str(out), "count": len(found)}, (f"picture: {out}",))


def export(
    bank: Path, /, *, out: Path, layout: Literal["folder", "webdataset"] = "folder", manner: Manner = PLAIN
) -> Answer:
    """Hand a bank to other programs.

    Args:
        bank: The bank's folder.
        out: A new folder.
        layout: PNG files in one folder per class, or tar files as webdataset reads them.
        manner: How the answer is given.
    """
    del manner
    from reverie.dream import Bank

    found = Bank.load(bank)
    written = _export(found, out, layout, (), None)
    return Answer({"folder": str(out), "count": len(found), "written": written}, (f"{len(found)} dreams in {out}",))


def capture(model: str, /, *, images: str, out: Path, loading: Loading = AS_STATED, manner: Manner = PLAIN) -> Answer:
    """Measure the moments of a network's layers on real images once, and keep the moments instead of the images.

    Args:
        model: The network: zoo:NAME, timm:NAME@WEIGHTS, package.module:factory@WEIGHTS, or the folder of a run.
        images: zoo:fashion-mnist, a folder with one subfolder per class, or an .npz file with images and labels.
        out: The file of moments, for `reverie bank fill --statistics`.
        loading: How the model is read.
        manner: How the answer is given.
    """
    del manner
    from reverie.dream import capture_statistics

    network = load_network(model, loading)
    found = capture_statistics(network, labeled_images(images, network))
    found.save(out)
    told = {"file": str(out), "origin": found.origin, "layers": len(found.layers)}
    return Answer(told, (f"moments of {len(found.layers)} layers, {found.origin}: {out}",))


def _export(bank: "Bank", out: Path, layout: str, class_names: Any, labels: Any) -> int:  # noqa: ANN401  as above
    from reverie.dream import export_folder, export_webdataset

    if layout == "folder":
        export_folder(bank, out, class_names=class_names, labels=labels)
        return len(bank)
    return len(export_webdataset(bank, out, labels=labels))


def _told(bank: "Bank", out: Path) -> Answer:
    agreement = float(bank.agrees.float().mean())
    told = {"folder": str(out), "count": len(bank), "teacher_agreement": agreement, "config": dict(bank.config)}
    lines = [f"{len(bank)} dreams in {out}", f"the network sees the class asked for in {agreement:.1%}"]
    if "statistics" in bank.config:
        lines.append(f"statistics: {bank.config['statistics']}")
    return Answer(told, tuple(lines))
