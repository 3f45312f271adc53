"""`reverie prune`: fewer units within measured budgets, without training."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from reverie.cli.answer import PLAIN, Answer, Manner
from reverie.cli.console import progress
from reverie.cli.limits import at_least_one
from reverie.cli.loading import AS_STATED, Loading, load_network, own_images
from reverie.cli.verbs.compress import NO_LIMITS, Limits

if TYPE_CHECKING:
    from reverie.compress.prune import Pruned
    from reverie.core.events import Listener
    from reverie.core.network import ImageNetwork
    from reverie.core.source import Source
    from reverie.cost.latency import LatencyTable

__all__ = ["prune"]


def prune(
    model: str,
    /,
    *,
    out: Path,
    limits: Limits = NO_LIMITS,
    source: str | None = None,
    n: int = 256,
    dream_steps: int = 60,
    rounds: int = 1,
    compensate: Annotated[bool, Parameter(negative="--no-compensation")] = True,
    backend: str = "onnxruntime",
    threads: int = 1,
    table: Path | None = None,
    seed: int = 0,
    loading: Loading = AS_STATED,
    manner: Manner = PLAIN,
) -> Answer:
    """Take units out of a network within budgets, and put back without training what that took.

    Writes the network, its ONNX file, and study.json, from which other budgets are solved in milliseconds.
    The same command again does all of it again.

    Args:
        model: The network: zoo:NAME, timm:NAME@WEIGHTS, package.module:factory@WEIGHTS, or the folder of a run.
        out: The run folder; new, empty, or of the same command.
        limits: What the pruned network may cost.
        source: Your own images in place of dreams: zoo:fashion-mnist, a folder of image files, or an .npz file.
        n: How many images are used, or dreamed, at least 1.
        dream_steps: Optimization steps per dream, at least 1.
        rounds: How often evidence is gathered, at least 1; with several, budgets fall step by step.
        compensate: Fit the layers anew to the outputs of the given network.
        backend: The runtime that latency is measured in: onnxruntime, openvino, torch, torch-compile or cuda.
        threads: Threads of that runtime.
        table: Its latency table; where it is not given, latency.json in the user's cache folder.
        seed: Of the dreams; with --source nothing is random.
        loading: How the model is read.
        manner: How the answer is given.
    """
    del manner
    limits.check()
    at_least_one(n=n, dream_steps=dream_steps, rounds=rounds, threads=threads)
    from reverie.compress.prune import prune as pruned
    from reverie.core.run_folder import open_run

    network, timed = load_network(model, loading), _table(table, backend, threads)
    own = None if source is None else _few(own_images(source, network), n)
    effort = {"n": n, "dream_steps": dream_steps, "rounds": rounds, "compensate": compensate, "seed": seed}
    config = {**_which(network, own), **asdict(limits), **effort, "backend": backend, "threads": threads}
    with open_run(out, verb="prune", config=config) as run, progress() as on_event:
        seen = own or _dreams(network, n, steps=dream_steps, seed=seed, on_event=on_event)
        found = pruned(
            network, seen, **asdict(limits), rounds=rounds, compensate=compensate, table=timed, on_event=on_event
        )
        _write(found, out)
        run.finish(asked={"model": model, "source": source}, figures=_value(found))
    value = {"model": model, "folder": str(out), "images": seen.name, **_value(found)}
    return Answer(value, _said(found, backend, out))


def _table(path: Path | None, backend: str, threads: int) -> "LatencyTable":
    from reverie.cost.backends import backend_of
    from reverie.cost.latency import LatencyTable, default_table_path

    return LatencyTable(path or default_table_path(), backend=backend_of(backend, threads=threads))


def _which(network: "ImageNetwork", own: "Source | None") -> dict[str, str]:
    """The network and the images, as `run.json` knows them."""
    from reverie.core.digest import sha256_network, sha256_tensors

    images = "dreams" if own is None else sha256_tensors({"images": own.images})
    return {"weights_sha256": sha256_network(network), "source": images}


def _few(own: "Source", count: int) -> "Source":
    return replace(own, images=own.images[:count], labels=None)


def _dreams(network: "ImageNetwork", count: int, *, steps: int, seed: int, on_event: "Listener") -> "Source":
    from reverie.dream import dream

    return dream(network, count=count, steps=steps, seed=seed, on_event=on_event).source()


def _write(found: "Pruned", out: Path) -> None:
    from reverie.cost.onnx import export_onnx
    from reverie.zoo.runs import save

    # What was read from a torch.export archive cannot be built anew; of that the ONNX file is handed over.
    if found.network.origin is not None:
        save(found.network, out, record=found.record)
    found.study.save(out / "study.json")
    export_onnx(found.network, out / "model.onnx")


def _value(found: "Pruned") -> dict[str, Any]:
    """What was found, for a program that reads it."""
    return {
        "widths": dict(found.solution.widths),
        "bypassed": list(found.plan.bypassed),
        "shares": dict(found.solution.shares),
        "loss": found.solution.loss,
        "loss_error": found.solution.loss_error,
        "gap": found.solution.allocation.gap,
        "latency": None if found.latency is None else asdict(found.latency),
        "attempts": [asdict(attempt) for attempt in found.attempts],
    }


def _said(found: "Pruned", backend: str, out: Path) -> tuple[str, ...]:
    """What was found, in sentences."""
    said = [f"{name}: {share:.1%} of the given network's, predicted" for name, share in found.solution.shares.items()]
    if found.latency is not None:
        measured = f"{found.latency.ratio_median:.1%} +- {found.latency.ratio_error:.1%}"
        said.append(f"latency: {measured} of the given network's, measured in {backend}")
    return (*said, f"network: {out / 'model.onnx'}", f"study:   {out / 'study.json'}")
