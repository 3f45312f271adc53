"""What is told and drawn of a bank, whatever its head and the shape of its images."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from reverie.cli.dreaming import dream_head
from reverie.core.errors import ReferenceNotFound

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from reverie.core.network import ImageNetwork
    from reverie.core.source import Source
    from reverie.dream import Bank

__all__ = ["agreement", "agreement_text", "answers", "bank_folder", "draw", "how", "undrawn"]

# What a bank's configuration says of how it was made, beside the numbers that were asked for.
HOW = ("statistics", "head", "layer", "term", "canvas", "stages", "augment", "precision", "batch_size", "route")
MANIFEST = "manifest.json"
SINGLE = "single label"
SAID = {
    "multi-label": "the network gives {share} of the labels as asked",
    "embedding": "the network's answers have a mean cosine of {cosine:.3f} with the features asked for",
    "dense map": "the network sees the class asked for at {share} of the positions",
}


def bank_folder(folder: Path) -> Path:
    """The folder of a bank: the one named, or the bank in it where it is that of a run.

    Raises:
        ReferenceNotFound: The run made several.
    """
    if (folder / "bank" / MANIFEST).is_file():
        return folder / "bank"
    several = sorted(found.parent for place in ("", "*/") for found in folder.glob(f"{place}bank-*/{MANIFEST}"))
    if several:
        raise ReferenceNotFound(f"{folder} holds {len(several)} banks: name one, such as {several[0]}")
    return folder


def how(config: "Mapping[str, Any]") -> dict[str, Any]:
    """How a bank was made, of the source of its statistics first."""
    return {name: config[name] for name in HOW if name in config}


def agreement(bank: "Bank") -> dict[str, float | None]:
    """How far the network's answers are those asked for: a share, with its 95 % interval where images are counted."""
    from reverie.metrics import accuracy

    if _head_name(bank.config) == SINGLE:
        found = accuracy(bank.logits, bank.labels)
        return {"value": found.value, "low": found.low, "high": found.high}
    shares = dream_head(_head_name(bank.config)).agreement(bank.logits, bank.labels)
    return {"value": float(shares.mean()), "low": None, "high": None}


def agreement_text(
    config: "Mapping[str, Any]", found: "Mapping[str, float | None]", *, who: str = "the network"
) -> str:
    """The same as a sentence."""
    from reverie.report.text import percent_text

    value = found["value"] or 0.0
    if found["low"] is None or found["high"] is None:
        return SAID[_head_name(config)].format(share=percent_text(value), cosine=2 * value - 1)
    interval = f"95% interval {percent_text(found['low'])} to {percent_text(found['high'])}"
    return f"{who} sees the class asked for in {percent_text(value)} ({interval})"


def answers(bank: "Bank", network: "ImageNetwork") -> Any:  # noqa: ANN401  torch may not be imported for annotations
    """What a network answers to the dreams, or its layer where one was asked: computed anew."""
    import torch

    from reverie.core.modes import frozen
    from reverie.dream import answering

    layer = bank.config.get("layer")
    asked = network if layer is None else answering(network, layer)
    with frozen(asked), torch.no_grad():
        rows = [asked(images.float().to(asked.mean.device) / 255).float().cpu() for images in bank.images.split(256)]
    return torch.cat(rows)


def draw(bank: "Bank | Source", out: Path, *, class_names: "Sequence[str]" = (), per_row: int = 10) -> bool:
    """Write the picture of dreams, by class where there are classes; False where the images are no pictures."""
    import torch

    from reverie.report.picture import dream_grid, save_png

    images = bank.images
    if images.ndim == 5:
        # Of a volume the slice in its middle.
        images = images[:, :, images.shape[2] // 2]
    if images.ndim != 4:
        return False
    if images.shape[1] not in (1, 3):
        images = images.float().mean(1, keepdim=True).round().to(torch.uint8)
    labels, names = bank.labels, class_names
    if labels is None or labels.shape != (len(bank),) or labels.dtype != torch.int64:
        labels, names = torch.arange(len(bank)), [f"dream {index}" for index in range(len(bank))]
    save_png(dream_grid(images, labels, class_names=names, per_row=per_row), out)
    return True


def undrawn(bank: "Bank") -> str:
    """Why there is no picture."""
    return f"no picture: signals of shape {tuple(bank.images.shape[1:])} are not drawn; the bank holds them"


def _head_name(config: "Mapping[str, Any]") -> str:
    name: str = config.get("head", SINGLE)
    return name
