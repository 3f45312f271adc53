"""The main job: a trained network in, a smaller and faster one out, within a measured budget, with no data.

See (dream images from the network itself), choose (rank units, measure options and latencies, solve, measure the
solution, correct), teach (distil the network into what is left of it), hand over (an ONNX file checked against
PyTorch, a table beside the teacher's figures and the noise control's). The control is the same pipeline fed Gaussian
noise: what it also reaches, dreams cannot take credit for.

Cost: about a quarter of the time dreams, a tenth measures latencies, the rest teaches, on each of the two routes.
"""

import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from reverie.compress.hand_over import (
    agreement_row,
    count_network,
    counted_rows,
    latency_row,
    measure_latencies,
    tested,
)
from reverie.compress.kinds import check_kinds, offered
from reverie.compress.latencies import measure_layers
from reverie.compress.result import Compressed, Row
from reverie.compress.route import Route, Task, example_input, make_route, readable
from reverie.compress.sites import find_sites
from reverie.core.budget import Budget, Quantity, read_budgets
from reverie.core.counts import check_counts
from reverie.core.digest import sha256_network, sha256_tensors
from reverie.core.environment import usable_cores
from reverie.core.errors import RangeError, ReferenceNotFound
from reverie.core.events import Event, Listener, silent
from reverie.core.network import ImageNetwork
from reverie.core.run_folder import RunFolder, open_run
from reverie.core.source import Source, noise_source
from reverie.core.store import write_bytes
from reverie.cost.latency import LatencyTable
from reverie.cost.onnx import check_onnx, export_onnx
from reverie.cost.onnx_runtime import OnnxRuntime
from reverie.dream import dream
from reverie.graph import certify, probe
from reverie.zoo.runs import save

__all__ = ["compress"]

JUDGED_SHARE = 0.1
LEAST_DREAMS = 64
# ONNX Runtime computes channels in blocks as wide as the processor's vectors: 16 floats with AVX-512.
WIDTH_STEP = 16


def compress(
    model: nn.Module,
    *,
    latency: Budget | str | None = None,
    size: Budget | str | None = None,
    macs: Budget | str | None = None,
    folder: Path | str | None = None,
    source: Source | None = None,
    test: Source | None = None,
    dreams: int = 512,
    dream_steps: int = 120,
    teach_steps: int = 400,
    control: bool = True,
    threads: int | None = None,
    table: LatencyTable | None = None,
    offer: Sequence[str] = (),
    seed: int = 0,
    on_event: Listener = silent,
) -> Compressed:
    """Make a trained network smaller and faster within budgets, without its training data.

    The given network is untouched. With a folder, every stage is kept there, so the same call after a kill goes on
    where it was; the folder ends with `model.safetensors` and `record.json` (which `reverie.load` rebuilds the network
    from), `model.onnx`, `study.json` (from which other budgets are solved without the network), `run.json`,
    `latency.json` and `bank/`.

    Args:
        model: A classifier of images; an `ImageNetwork` carries its preprocessing.
        latency: Budget of one image's time in ONNX Runtime on this machine: `"60%"` of the teacher's, or `"4ms"`.
        size: Budget of the weights: `"50%"` or `"1MB"`.
        macs: Budget of multiply-adds: `"50%"` or `"20MMAC"`.
        folder: Where to keep the run; None writes nothing.
        source: Images to use in place of dreams; labels are not read.
        test: Labeled images. They are only counted at the very end, and choose nothing.
        dreams: Images to dream, at least 64, where no source is given.
        dream_steps: Optimization steps per dream.
        teach_steps: Training steps of the compressed network.
        control: Whether the same is also done from Gaussian noise, to be shown beside.
        threads: Threads of ONNX Runtime; None is every core that this process may use.
        table: Its latency table, of as many threads; None times layers into the folder's `latency.json`.
        offer: Kinds of options that compete with fewer units and bypassed blocks: `["rank"]` for layers in two with few
            channels between them. None but those two by default: each kind takes time, for evidence and for the table.
        seed: Decides all random choices. Measured times are not decided by it, so plans may differ between machines.
        on_event: Called with every step of every stage.

    Raises:
        RangeError: No budget is given, or a number is out of its range.
        ReferenceNotFound: A kind of option is offered that there is not, or test images have no labels.
        BudgetInfeasible: No plan meets a budget; says the cheapest that can be reached.
        ShapeError: The model does not classify images, or images do not fit it.
        UnsupportedOp: The network is not on the CPU.
        FolderInUse: The folder holds another run.
        NotWritable: The folder cannot be written.
        VerificationFailed: The ONNX file does not compute what the network does.

    Example:
        >>> compress(nn.Flatten())
        Traceback (most recent call last):
        reverie.core.errors.RangeError: nothing to meet: give at least one budget, such as latency="60%" (--latency 60%)

    Fails when: the network does not classify, so that there is nothing to dream; or its channels are so few that fewer
    of them run no faster.
    """
    budgets = read_budgets(latency=latency, size=size, macs=macs)
    check_counts(dreams=dreams, dream_steps=dream_steps, teach_steps=teach_steps, threads=threads)
    check_kinds(offer)
    network = _checked(model, source, test, dreams=dreams)
    config: dict[str, Any] = {
        "weights_sha256": sha256_network(network),
        "budgets": {quantity: str(budget) for quantity, budget in budgets.items()},
        "source": "dreams" if source is None else sha256_tensors({"images": source.images}),
        "dreams": dreams,
        "dream_steps": dream_steps,
        "teach_steps": teach_steps,
        "control": control,
        "threads": threads or usable_cores(),
        "offer": sorted(set(offer)),
        "seed": seed,
    }
    table = _matching(table, config["threads"])
    with open_run(None if folder is None else Path(folder), verb="compress", config=config) as run:
        if source is None:
            source = _dreams(network, run, count=dreams, steps=dream_steps, seed=seed, on_event=on_event)
        result = _walked(source, _task(network, budgets, run, table, config, on_event), test, control=control)
        if run.path is not None:
            _write(result, run.path)
            run.finish(figures=result.figures())
        return result


def _dreams(network: ImageNetwork, run: RunFolder, *, count: int, steps: int, seed: int, on_event: Listener) -> Source:
    """The images that everything else is measured on and taught with."""
    bank = run.timed(
        "dreaming",
        lambda: dream(network, count=count, steps=steps, seed=seed, path=run.file("bank"), on_event=on_event),
    )
    return bank.source()


def _task(
    network: ImageNetwork,
    budgets: Mapping[Quantity, Budget],
    run: RunFolder,
    table: LatencyTable | None,
    config: Mapping[str, Any],
    on_event: Listener,
) -> Task:
    """What the network is made of, what could be done to it, and what that would cost."""
    stage = "reading the network"
    on_event(Event(stage, 0, 1))
    example = example_input(network)
    structure = certify(network.body, probe(network.body, example), example)
    more = offered(config["offer"], network.body, structure, example)
    sites = find_sites(structure, step=WIDTH_STEP, more=more)
    on_event(Event(stage, 1, 1))
    if "latency" in budgets:
        table = table or LatencyTable(run.file("latency.json"), threads=config["threads"])
        run.timed("timing", partial(measure_layers, sites, table, on_event=on_event))
    return Task(
        network=network,
        onnx=export_onnx(network),
        structure=structure,
        sites=sites,
        table=table,
        budgets=budgets,
        counted=count_network(network),
        run=run,
        threads=config["threads"],
        teach_steps=config["teach_steps"],
        seed=config["seed"],
        on_event=on_event,
    )


def _walked(source: Source, task: Task, test: Source | None, *, control: bool) -> Compressed:
    """The route of the images, that of noise beside it, and what they came to on images that neither has seen."""
    rest, judged = source.split(held_out=JUDGED_SHARE, seed=task.seed)
    routes = {"compressed": make_route(rest, task, role="compressed")}
    if control:
        noise = noise_source(count=len(rest), image_shape=task.network.image_shape, seed=task.seed)
        routes["control"] = make_route(noise, task, role="control")
    return _hand_over(task, routes, judged, test)


def _hand_over(task: Task, routes: Mapping[str, Route], judged: Source, test: Source | None) -> Compressed:
    """Check the ONNX file, and measure all networks side by side."""
    route = routes["compressed"]
    check_onnx(route.onnx, route.network, judged.floats(slice(0, 7)))
    models = {"teacher": task.onnx} | {name: one.onnx for name, one in routes.items()}
    networks = {"teacher": task.network} | {name: one.network for name, one in routes.items()}
    task.on_event(Event("measuring", 0, 1))
    latencies = task.run.stage(
        "measured", lambda: measure_latencies(models, task.network.image_shape, threads=task.threads)
    )
    task.on_event(Event("measuring", 1, 1))
    rows = [latency_row(latencies, threads=task.threads), *counted_rows(networks), agreement_row(networks, judged)]
    notes = _budget_notes(rows[0], route.measured, task.budgets)
    if test is not None:
        started = time.monotonic()
        row, sentences = tested(models, test, threads=task.threads, on_event=task.on_event)
        task.run.seconds["testing"] = time.monotonic() - started
        rows.append(row)
        notes += tuple(sentences)
    return Compressed(
        network=route.network,
        plan=route.plan,
        record=route.record,
        rows=tuple(rows),
        decisions=route.decisions,
        attempts=route.attempts,
        source=route.source,
        onnx=route.onnx,
        study=route.study,
        notes=notes,
        seconds=dict(task.run.seconds),
    )


def _budget_notes(latency: Row, chosen: float | None, budgets: Mapping[Quantity, Budget]) -> tuple[str, ...]:
    """A sentence where the closing measurement is above the budget that the plan had met when it was chosen."""
    if chosen is None:
        return ()
    share = budgets["latency"].limit(latency.teacher.value) / latency.teacher.value
    closing = latency.compressed.relative or 0.0
    if closing <= share:
        return ()
    sentence = (
        f"The closing measurement, {closing:.1%} of the teacher's latency, is above the budget of "
        f"{budgets['latency']}; the plan measured {chosen:.1%} when it was chosen. The machine was busy: close other "
        "programs and run again."
    )
    return (sentence,)


def _write(result: Compressed, folder: Path) -> None:
    """The folder's results; `run.json` comes after them and says that they are there."""
    if result.network.origin is not None:
        save(result.network, folder, record=result.record)
    result.study.save(folder / "study.json")
    write_bytes(folder / "model.onnx", result.onnx)


def _checked(model: nn.Module, source: Source | None, test: Source | None, *, dreams: int) -> ImageNetwork:
    """The network, that all images fit, of which there are enough."""
    network = readable(model, source, test)
    if source is None and dreams < LEAST_DREAMS:
        raise RangeError(f"dreams must be at least {LEAST_DREAMS} to teach and to judge with, got {dreams}")
    if test is not None and test.labels is None:
        raise ReferenceNotFound(f"the test images {test.name!r} have no labels, so accuracy cannot be measured")
    return network


def _matching(table: LatencyTable | None, threads: int) -> LatencyTable | None:
    """The table, that was measured as the networks will be."""
    wanted = OnnxRuntime(threads=threads).environment
    if table is not None and table.environment != wanted:
        raise RangeError(f"the latency table is of {table.environment}, and not of {wanted}, as threads={threads} asks")
    return table
