"""`reverie bank invert`: from a network's features back to images, learned from dreams alone."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from reverie.cli.answer import PLAIN, Answer, Manner
from reverie.cli.console import progress
from reverie.cli.dreamt import bank_folder
from reverie.cli.limits import at_least_one, check_files
from reverie.cli.loading import AS_STATED, Loading, load_network, own_images
from reverie.core.errors import RangeError

if TYPE_CHECKING:
    from reverie.core.events import Listener
    from reverie.core.network import ImageNetwork
    from reverie.core.source import Source
    from reverie.dream import Inverter

__all__ = ["invert"]

SHOWN = 10


def invert(
    model: str,
    /,
    *,
    bank: Path,
    layers: Annotated[tuple[str, ...], Parameter(negative=(), consume_multiple=True)],
    images: str,
    out: Path,
    n: int = 256,
    steps: int = 400,
    refine: int = 30,
    seed: int = 0,
    loading: Loading = AS_STATED,
    manner: Manner = PLAIN,
) -> Answer:
    """Learn to undo a network from its dreams, then say how much of unseen images comes back from each layer.

    Writes OUT: for each layer a row of reconstructions, below the images themselves.

    Args:
        model: The network: zoo:NAME, timm:NAME@WEIGHTS, package.module:factory@WEIGHTS, or the folder of a run.
        bank: Its dreams: the folder of a bank, or of the run that dreamed it.
        layers: Layers that feed one another, from the first to the deepest, such as body.layer1 body.layer2.
        images: Unseen images: zoo:fashion-mnist, a folder of image files, or an .npz file; labels are not read.
        out: The PNG file.
        n: How many of the unseen images are tried, at least 1; the picture shows the first ten.
        steps: Training steps, at least 2.
        refine: Steps by which each reconstruction is then moved toward its features; 0 leaves it as it is.
        seed: Same seed, same inverter.
        loading: How the model is read.
        manner: How the answer is given.
    """
    del manner
    from reverie.core.source import Source
    from reverie.dream import Bank, train_inverter

    at_least_one(n=n)
    if steps < 2 or refine < 0:
        raise RangeError(f"--steps must be at least 2 and --refine at least 0, got {steps} and {refine}")
    check_files(out=out)
    network, source = load_network(model, loading), Bank.load(bank_folder(bank)).source()
    whole = own_images(images, network)
    unseen = Source(whole.name, whole.images[:n])
    with progress() as on_event:
        inverter = train_inverter(network, source, layers=layers, steps=steps, seed=seed, on_event=on_event)
        rows, kept = _reconstructed(network, inverter, unseen, refine, on_event)
    _draw(rows, list(kept), out)
    lines = [f"{layer}: {share:.1%} of {len(unseen)} decisions kept" for layer, share in kept.items()]
    return Answer({"picture": str(out), "count": len(unseen), "decisions_kept": kept}, (*lines, f"picture: {out}"))


def _reconstructed(
    network: "ImageNetwork", inverter: "Inverter", unseen: "Source", refine: int, on_event: "Listener"
) -> tuple[list[Any], dict[str, float]]:
    """The unseen images and what comes back of them from each layer, and the share of decisions that is kept."""
    import torch

    from reverie.core.modes import frozen
    from reverie.core.source import Source
    from reverie.core.tap import tap
    from reverie.dream import refine_inversion
    from reverie.metrics import agreement, predict

    decided = predict(network, unseen)
    with torch.no_grad(), frozen(network), tap(network, inverter.layers) as seen:
        network(unseen.floats())
    rows, kept = [unseen.images], {}
    for layer in inverter.layers:
        images = inverter(seen[layer].output, layer)
        if refine:
            wanted = seen[layer].output
            images = refine_inversion(network, images, wanted, layer=layer, steps=refine, on_event=on_event)
        found = (images * 255).round().to(torch.uint8)
        kept[layer] = agreement(predict(network, Source("reconstructed", found)), decided).value
        rows.append(found)
    return rows, kept


def _draw(rows: list[Any], layers: list[str], out: Path) -> None:
    import torch

    from reverie.report.picture import dream_grid, save_png

    shown = min(SHOWN, len(rows[0]))
    labels = torch.arange(len(rows)).repeat_interleave(shown)
    images = torch.cat([row[:shown] for row in rows])
    save_png(dream_grid(images, labels, class_names=["unseen", *layers], per_row=shown), out)
