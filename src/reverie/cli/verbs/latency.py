"""`reverie latency build|show|compare|solve`: tables, networks timed beside each other, plans for other devices."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from reverie.cli.answer import PLAIN, Answer, Manner
from reverie.cli.console import progress
from reverie.cli.limits import at_least_one, check_files
from reverie.cli.loading import AS_STATED, Loading, load_beside, load_network
from reverie.cli.verbs.compress import Limits
from reverie.core.budget import read_budgets
from reverie.core.errors import RangeError

if TYPE_CHECKING:
    from reverie.compress.study import Solution, Study
    from reverie.core.network import ImageNetwork
    from reverie.cost.timing import Timing

__all__ = ["Shares", "build", "compare", "show", "solve"]


@Parameter(name="*")
@dataclass(frozen=True)
class Shares(Limits):
    """What another plan may cost, of what the given network does; at least one is needed.

    Attributes:
        latency: At most this share of its latency, such as 60%.
        size: At most this share of its size.
        macs: At most this share of its multiply-adds.
    """


NO_SHARES = Shares()


def build(
    model: str,
    /,
    *,
    backend: str = "onnxruntime",
    threads: int = 1,
    table: Path | None = None,
    step: int = 16,
    most: int = 16,
    offer: tuple[str, ...] = (),
    loading: Loading = AS_STATED,
    manner: Manner = PLAIN,
) -> Answer:
    """Time every layer of a network, at every pair of widths worth choosing, and keep the times in a file.

    What the file has is not timed again, so tables grow with every network; prune reads the same file.

    Args:
        model: The network: zoo:NAME, timm:NAME@WEIGHTS, package.module:factory@WEIGHTS, or the folder of a run.
        backend: The runtime: onnxruntime, openvino, torch, torch-compile or cuda.
        threads: Threads of the runtime, at least 1.
        table: The file; where it is not given, latency.json in the user's cache folder.
        step: Widths worth choosing are multiples of this number of channels, at least 1.
        most: Widths per site at most, at least 2.
        offer: What else than widths is timed: rank, for layers in two, as compress --offer rank asks for.
        loading: How the model is read.
        manner: How the answer is given.
    """
    del manner
    from dataclasses import asdict

    at_least_one(threads=threads, step=step)
    from reverie.compress.latencies import build_table
    from reverie.cost.backends import backend_of
    from reverie.cost.latency import LatencyTable, default_table_path

    runtime = backend_of(backend, threads=threads)
    path = table or default_table_path()
    network = load_network(model, loading)
    with progress() as on_event:
        kept = LatencyTable(path, backend=runtime)
        found = build_table(network, kept, step=step, most=most, offer=offer, on_event=on_event)
    said = (
        f"{model} asks for {found.shapes} layer shapes; {found.timed} of them were timed in {found.seconds:.0f} s",
        f"in {runtime.environment}",
        f"table: {path}",
    )
    value = {"model": model, "environment": runtime.environment, "table": str(path), **asdict(found)}
    return Answer(value, said)


def show(*, table: Path | None = None, manner: Manner = PLAIN) -> Answer:
    """Print which runtimes and machines a latency table knows, and how much of each.

    Args:
        table: The file; where it is not given, latency.json in the user's cache folder.
        manner: How the answer is given.
    """
    del manner
    from dataclasses import asdict

    from reverie.cost.latency import default_table_path, read_summaries
    from reverie.report.table import Table, to_rich

    path = table or default_table_path()
    found = read_summaries(path)
    rows = tuple((one.environment, str(one.layers), str(one.measured), f"{one.yardstick_ms:.3f} ms") for one in found)
    columns = ("runtime and machine", "layers known", "timed", "yardstick")
    return Answer(
        {"table": str(path), "tables": [asdict(one) for one in found]}, (str(path), to_rich(Table(columns, rows)))
    )


def compare(
    model: str,
    /,
    *others: str,
    backends: Annotated[tuple[str, ...], Parameter(negative=(), consume_multiple=True)] = ("onnxruntime",),
    threads: int = 1,
    batch_size: int = 1,
    seconds: float = 10.0,
    loading: Loading = AS_STATED,
    manner: Manner = PLAIN,
) -> Answer:
    """Time networks against the first, round by round in one process, in one or several runtimes.

    Args:
        model: The network that the others are compared with.
        others: Networks that take the same images.
        backends: The runtimes: onnxruntime, openvino, torch, torch-compile, cuda.
        threads: Threads of the runtime, at least 1.
        batch_size: Images at once, at least 1.
        seconds: At most this long in each runtime.
        loading: How the networks are read.
        manner: How the answer is given.
    """
    del manner
    from dataclasses import asdict

    at_least_one(threads=threads, batch_size=batch_size)
    from reverie.cost.backends import backend_of
    from reverie.cost.latency import measure_networks
    from reverie.report.table import Table, to_rich
    from reverie.report.text import milliseconds_text

    networks = _networks(model, others, loading)
    runtimes = {name: backend_of(name, threads=threads) for name in dict.fromkeys(backends)}
    found = {
        name: measure_networks(
            networks, networks[model].image_shape, reference=model, batch=batch_size, backend=runtime, seconds=seconds
        )
        for name, runtime in runtimes.items()
    }
    rows = tuple(
        (
            name,
            network,
            milliseconds_text(timing.median_ms),
            f"{timing.ratio_median:.1%}",
            "" if network == model else f"+- {timing.ratio_error:.1%}",
        )
        for name, timings in found.items()
        for network, timing in timings.items()
    )
    value = {name: {network: asdict(timing) for network, timing in timings.items()} for name, timings in found.items()}
    columns = ("runtime", "network", "latency", "share", "95 % interval")
    return Answer(
        {"reference": model, "backends": value},
        (to_rich(Table(columns, rows)), f"share: of the time of {model}", *_slower(found, model)),
    )


def _slower(found: Mapping[str, Mapping[str, "Timing"]], model: str) -> list[str]:
    """A sentence for each network that is not faster than the first, by runtime."""
    return [
        f"{network} is not faster than {model} in {name}: {timing.ratio_median:.1%} of its time"
        for name, timings in found.items()
        for network, timing in timings.items()
        if network != model and timing.ratio_median + timing.ratio_error >= 1
    ]


def _networks(model: str, others: Sequence[str], loading: Loading) -> "dict[str, ImageNetwork]":
    """The first network, and the others for its images."""
    first = load_network(model, loading)
    shape = first.image_shape
    beside = {name: load_beside(name, loading, image_shape=shape, first=first) for name in others if name != model}
    return {model: first, **beside}


def solve(
    study: Path,
    /,
    *,
    limits: Shares = NO_SHARES,
    table: Path | None = None,
    environment: str | None = None,
    out: Path | None = None,
    manner: Manner = PLAIN,
) -> Answer:
    """Choose a plan for another budget or another device, from files alone: no network, no images.

    Args:
        study: The study.json that prune or compress left.
        limits: What the network may cost.
        table: Latency table of another runtime or machine, filled by latency build; the study's own where not given.
        environment: Which of the table's runtimes and machines; needed where it has several.
        out: Where to write the plan, as JSON.
        manner: How the answer is given.
    """
    del manner
    limits.check()
    check_files(out=out)
    if environment is not None and table is None:
        raise RangeError(f"--environment {environment} names one of a --table: give both, or leave it out")
    from dataclasses import asdict

    from reverie.compress.study import read_study
    from reverie.core.store import write_json
    from reverie.cost.latency import read_summaries, read_table
    from reverie.report.table import Table, to_rich

    budgets = list(read_budgets(**asdict(limits)).values())
    for budget in budgets:
        if not budget.relative:
            raise RangeError(f"a study knows shares of the given network's {budget.quantity}; give a share such as 60%")
    read = read_study(study)
    if table is not None:
        known = [one.environment for one in read_summaries(table)]
        if environment is None and len(known) != 1:
            raise RangeError(f"{table} has {len(known)} environments; name one with --environment: {'; '.join(known)}")
        read = read.timed(read_table(table, environment or known[0]))
    found = read.solve({budget.quantity: budget.value for budget in budgets})
    value = {
        "study": str(study),
        "plan": found.plan.to_json(),
        "widths": dict(found.widths),
        "shares": dict(found.shares),
        "loss": found.loss,
        "loss_error": found.loss_error,
        "gap": found.allocation.gap,
    }
    if out is not None:
        write_json(out, value)
    said = [f"{name}: {share:.1%} of the given network's, predicted" for name, share in found.shares.items()]
    loss = f"loss: {found.loss:.4g} +- {found.loss_error:.2g} nats"
    return Answer(value, (to_rich(Table(("site", "left"), _left(read, found))), *said, loss))


def _left(study: "Study", found: "Solution") -> tuple[tuple[str, str], ...]:
    """Each site that a plan changes, and what is left of it."""
    whole = {site: options[0] for site, options in study.problem.widths.items()}
    return tuple(
        (site, "bypassed" if left == 0 else f"{left} of {whole[site]}")
        for site, left in found.widths.items()
        if left != whole[site]
    )
