"""`reverie compress` and `reverie demo`: the main job."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from reverie.cli.answer import PLAIN, Answer, Manner
from reverie.cli.console import progress
from reverie.cli.finish import finish
from reverie.cli.limits import at_least_one
from reverie.cli.loading import AS_STATED, Loading, labeled_images, load_network, own_images
from reverie.core.budget import read_budgets

if TYPE_CHECKING:
    from reverie.compress.result import Compressed
    from reverie.cost.latency import LatencyTable

__all__ = ["compress", "demo"]


@Parameter(name="*")
@dataclass(frozen=True)
class Limits:
    """What the compressed network may cost; at least one is needed.

    Attributes:
        latency: At most this time of one image on this machine: 60% of the given network's, or 4ms.
        size: At most this size of the weights: 50%, or 1MB.
        macs: At most this many multiply-adds: 50%, or 20MMAC.
    """

    latency: str | None = None
    size: str | None = None
    macs: str | None = None

    def check(self) -> None:
        """Refuse budgets that cannot be read, or none, before anything is loaded.

        Raises:
            RangeError: Saying how to write one.
        """
        read_budgets(**asdict(self))


@Parameter(name="*")
@dataclass(frozen=True)
class Effort:
    """How much work is put in.

    Attributes:
        dreams: How many images to synthesize, at least 64.
        dream_steps: Optimization steps per dream, at least 1.
        teach_steps: Training steps of the compressed network, at least 1.
        control: Do the same from Gaussian noise, to be shown beside.
        threads: Threads of ONNX Runtime; all cores where this is not given.
        seed: Decides everything random.
    """

    dreams: int = 512
    dream_steps: int = 120
    teach_steps: int = 400
    control: Annotated[bool, Parameter(negative="--no-control")] = True
    threads: int | None = None
    seed: int = 0


NO_LIMITS = Limits()
USUAL = Effort()


def compress(
    model: str,
    /,
    *,
    out: Path,
    limits: Limits = NO_LIMITS,
    test_set: str | None = None,
    source: str | None = None,
    effort: Effort = USUAL,
    table: Path | None = None,
    offer: tuple[str, ...] = (),
    loading: Loading = AS_STATED,
    manner: Manner = PLAIN,
) -> Answer:
    """Make a trained network smaller and faster on this machine, without its training data.

    Writes a run folder; the same command again goes on where it was interrupted.

    Args:
        model: The network: zoo:NAME, timm:NAME@WEIGHTS, package.module:factory@WEIGHTS, or the folder of a run.
        out: The run folder; new, empty, or of the same command.
        limits: What the compressed network may cost.
        test_set: Labeled images, read for the closing table only: zoo:fashion-mnist, a folder, or an .npz file.
        source: Your own images in place of dreams: a folder of image files, or an .npz file; labels are not read.
        effort: How much work is put in.
        table: A latency table to take times from and add to; latency.json in the run folder where this is not given.
        offer: What competes with fewer channels and bypassed blocks: rank, for layers in two with few channels between.
        loading: How the model is read.
        manner: How the answer is given.
    """
    del manner
    limits.check()
    at_least_one(dream_steps=effort.dream_steps, teach_steps=effort.teach_steps, threads=effort.threads)
    network = load_network(model, loading)
    own = None if source is None else own_images(source, network)
    test = None if test_set is None else labeled_images(test_set, network)
    from reverie.compress import compress as compressed

    with progress() as on_event:
        found = compressed(
            network,
            **asdict(limits),
            **asdict(effort),
            source=own,
            test=test,
            table=_table(table, effort.threads),
            offer=offer,
            folder=out,
            on_event=on_event,
        )
    asked = {"model": model, **asdict(limits), "test set": test_set, "source": source, **asdict(effort)}
    asked |= {"table": None if table is None else str(table), "offer": ", ".join(offer) or None}
    return _handed_over(found, out, asked)


def demo(*, out: Path = Path("runs/demo"), manner: Manner = PLAIN) -> Answer:
    """Compress an embedded network to 60% of its latency and test it: the whole main job in minutes.

    Args:
        out: The run folder; new, empty, or of an earlier demo, which is then finished.
        manner: How the answer is given.
    """
    from reverie.bench.demo import DEMO_LATENCY, DEMO_MODEL, DEMO_TEST_SET

    limits = Limits(latency=DEMO_LATENCY)
    return compress(DEMO_MODEL, out=out, limits=limits, test_set=f"zoo:{DEMO_TEST_SET}", manner=manner)


def _table(path: Path | None, threads: int | None) -> "LatencyTable | None":
    from reverie.core.environment import usable_cores
    from reverie.cost.latency import LatencyTable

    return None if path is None else LatencyTable(path, threads=threads or usable_cores())


def _handed_over(found: "Compressed", out: Path, asked: dict[str, Any]) -> Answer:
    """Write what only the command line knows, draw the pictures, and say where everything is."""
    from reverie.report.folder import write_report
    from reverie.report.result import result_table
    from reverie.report.table import to_rich

    run = finish(out, asked=asked, source=found.source, class_names=found.network.class_names)
    written = write_report(out)
    shown = (
        to_rich(result_table(run["figures"])),
        *found.notes,
        f"network: {out / 'model.onnx'}",
        f"report:  {written}",
    )
    return Answer({"folder": str(out), **run}, shown)
