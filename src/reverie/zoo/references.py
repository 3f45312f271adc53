"""What a model reference says, taken apart; nothing is opened or imported here.

`zoo:NAME`, `timm:NAME@WEIGHTS`, `package.module:factory@WEIGHTS`, or a path. Both names of architectures take keyword
arguments in parentheses, as Python literals: `timm:resnet18(num_classes=2)@dogs.pth`. WEIGHTS is a file, the folder of
a run, or the word `initial`: the weights that the factory itself gives, which for timm are random.
"""

import ast
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reverie.core.errors import ReferenceNotFound

__all__ = ["INITIAL", "ArchitectureReference", "PathReference", "Reference", "ZooReference", "parse"]

INITIAL = "initial"
FORMS = (
    "zoo:NAME, timm:NAME@weights.safetensors, package.module:factory@weights.safetensors, "
    "the folder of a run, or model.pt2"
)
ARCHITECTURE = re.compile(
    r"(?P<factory>(?:timm|[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):[\w.-]+)(?P<arguments>\(.*?\))?(?:@(?P<weights>.+))?",
    re.DOTALL,
)


@dataclass(frozen=True)
class ZooReference:
    """`zoo:NAME`: a network that travels with the package or with one of its extras."""

    name: str


@dataclass(frozen=True)
class ArchitectureReference:
    """An architecture, and where its weights are.

    Attributes:
        factory: `"timm:NAME"` or `"package.module:factory"`.
        arguments: Keyword arguments of the factory.
        weights: A path, `"initial"`, or None where none were named.
    """

    factory: str
    arguments: Mapping[str, Any]
    weights: str | None


@dataclass(frozen=True)
class PathReference:
    """A file or folder."""

    path: Path


Reference = ZooReference | ArchitectureReference | PathReference


def parse(reference: str | Path) -> Reference:
    """Take a reference apart.

    Raises:
        ReferenceNotFound: The arguments in parentheses are not keyword literals, or the reference is empty.

    Example:
        >>> parse("reverie.zoo.networks:CifarResNet(shortcut='pad')@weights.pth").arguments
        {'shortcut': 'pad'}
    """
    if isinstance(reference, Path):
        return PathReference(reference)
    if not reference.strip():
        raise ReferenceNotFound(f"the model reference is empty. Give one of: {FORMS}.")
    if reference.startswith("zoo:"):
        return ZooReference(reference.removeprefix("zoo:"))
    match = ARCHITECTURE.fullmatch(reference)
    if match is None or (":" in reference and Path(reference).exists()):
        return PathReference(Path(reference))
    return ArchitectureReference(
        match["factory"], _literal_arguments(match["arguments"] or "()", reference), match["weights"]
    )


def _literal_arguments(text: str, reference: str) -> dict[str, Any]:
    refusal = ReferenceNotFound(
        f"cannot read the arguments {text} in {reference!r}: they must be name=value pairs with numbers, strings, "
        "lists, None, True or False as values, such as (num_classes=2)."
    )
    try:
        call = ast.parse(f"factory{text}", mode="eval").body
        is_plain = isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and not call.args
        keywords = call.keywords if isinstance(call, ast.Call) and is_plain else None
        values = {keyword.arg: ast.literal_eval(keyword.value) for keyword in keywords or ()}
        # A record keeps the arguments as JSON: what JSON cannot hold is refused here, not when the work is done.
        arguments: dict[str, Any] = json.loads(json.dumps(values, allow_nan=False))
    except (SyntaxError, ValueError, TypeError) as error:
        raise refusal from error
    if keywords is None or None in values:
        raise refusal
    return arguments
