"""The networks that travel inside the package, each with a card that says how it was made and how good it is.

Cards are JSON files beside the weights in `weights/`. Every network was trained for this package, by
`experiments/zoo/train.py`, from data whose license allows it; `docs/zoo.md` shows the cards as a table.
"""

import difflib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib.resources import files
from typing import Any

from reverie.core.errors import CorruptFile, ReferenceNotFound
from reverie.core.network import ImageNetwork, Origin
from reverie.zoo.building import build
from reverie.zoo.checkpoint import check_tensors, tensors_from_bytes
from reverie.zoo.matching import load_weights
from reverie.zoo.preprocessing import Preprocessing, wrap
from reverie.zoo.timm_networks import IMAGENET_NETWORKS

__all__ = ["Card", "cards_table", "embedded_names", "load_embedded", "read_card", "zoo_names"]


@dataclass(frozen=True)
class Card:
    """How an embedded network was made, and how good it is.

    Attributes:
        name: What follows `zoo:`.
        factory: `"package.module:factory"` of the architecture.
        arguments: Its keyword arguments.
        image_shape: (channels, height, width).
        mean: Subtracted from images in [0, 1].
        std: Divided by.
        class_names: One for each logit.
        dataset: Name of the training set; accuracy is on its test set.
        test_accuracy: Share of the test images, in [0, 1], read once after training.
        test_images: How many there are.
        recipe: Every number that decided the training run.
        seconds: Training time.
        torch: Version of PyTorch that trained it.
        license: Of the weights.
        weights_sha256: Of the safetensors file, in hex; None on a card fresh from training.
    """

    name: str
    factory: str
    arguments: Mapping[str, Any]
    image_shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...]
    dataset: str
    test_accuracy: float
    test_images: int
    recipe: Mapping[str, Any]
    seconds: float
    torch: str
    license: str
    weights_sha256: str | None = None


def embedded_names() -> tuple[str, ...]:
    """Names of the networks inside the package, sorted."""
    present = {entry.name for entry in files("reverie.zoo").joinpath("weights").iterdir()}
    stems = (name.removesuffix(".json") for name in present if name.endswith(".json"))
    return tuple(sorted(stem for stem in stems if f"{stem}.safetensors" in present))


def zoo_names() -> tuple[str, ...]:
    """Every name that `zoo:` understands, those that need an extra included."""
    return (*embedded_names(), *IMAGENET_NETWORKS)


def read_card(name: str) -> Card:
    """The card of an embedded network.

    Raises:
        ReferenceNotFound: There is no such network; the message names the closest.
        CorruptFile: The card is damaged.
    """
    if name not in embedded_names():
        closest = difflib.get_close_matches(name, zoo_names(), n=3, cutoff=0.4)
        advice = f"Did you mean {', '.join(f'zoo:{match}' for match in closest)}? " if closest else ""
        raise ReferenceNotFound(f"the zoo has no network {name!r}. {advice}It has: {', '.join(zoo_names())}.")
    path = files("reverie.zoo").joinpath("weights", f"{name}.json")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        known = {field.name for field in fields(Card)}
        lists = {key: tuple(value[key]) for key in ("image_shape", "mean", "std", "class_names")}
        return Card(**{key: entry for key, entry in value.items() if key in known} | lists)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CorruptFile(f"the card {path} is damaged ({error}). Install the package again.") from error


def load_embedded(name: str, given: Preprocessing) -> ImageNetwork:
    """An embedded network with its weights.

    Args:
        name: One of `embedded_names()`.
        given: Parts of the preprocessing that the caller wants otherwise, such as another image shape.

    Raises:
        ReferenceNotFound: There is no such network.
        CorruptFile: The weights are not those of the card.
        ShapeError: The network cannot take the image shape that was given.
    """
    card = read_card(name)
    path = files("reverie.zoo").joinpath("weights", f"{name}.safetensors")
    content = path.read_bytes()
    if card.weights_sha256 is not None and hashlib.sha256(content).hexdigest() != card.weights_sha256:
        raise CorruptFile(
            f"{path} is not the file that its card describes (SHA-256 differs). Install the package again."
        )
    tensors = tensors_from_bytes(content, origin=str(path))
    check_tensors(tensors, origin=str(path))
    origin = Origin(card.factory, card.arguments)
    body = build(origin)
    load_weights(body, tensors, origin=str(path))
    stated = Preprocessing(card.image_shape, card.mean, card.std, card.class_names)
    return wrap(body, given.over(stated), asked=f"zoo:{name}", origin=origin)


def cards_table() -> str:
    """The cards of all embedded networks as a Markdown table."""
    lines = [
        "| name | architecture | data | parameters file | test accuracy | epochs | seed | license |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in embedded_names():
        card = read_card(name)
        size_bytes = len(files("reverie.zoo").joinpath("weights", f"{name}.safetensors").read_bytes())
        arguments = ", ".join(f"{key}={value}" for key, value in card.arguments.items())
        lines.append(
            f"| `zoo:{name}` | `{card.factory.partition(':')[2]}({arguments})` | {card.dataset} "
            f"| {size_bytes / 1e6:.2f} MB | {card.test_accuracy:.2%} of {card.test_images:,} | {card.recipe['epochs']} "
            f"| {card.recipe['seed']} | {card.license} |"
        )
    return "\n".join(lines) + "\n"
