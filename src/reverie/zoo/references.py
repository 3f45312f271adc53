"""What a model reference says, taken apart; nothing is opened or imported here.

`zoo:NAME`, `timm:NAME@WEIGHTS`, `package.module:factory@WEIGHTS`, or a path. Both names of architectures take keyword
arguments in parentheses, as Python literals: `timm:resnet18(num_classes=2)@dogs.pth`. WEIGHTS is a file, the folder of
a run, or the word `initial`: the weights that the factory itself gives, which for timm are random.
"""

import ast
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
    try:
        call = ast.parse(f"f{text}", mode="eval").body
        if not isinstance(call, ast.Call) or call.args or any(keyword.arg is None for keyword in call.keywords):
            raise ValueError("only name=value pairs")
        return {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
    except (SyntaxError, ValueError) as error:
        raise ReferenceNotFound(
            f"cannot read the arguments {text} in {reference!r}: they must be name=value pairs with numbers, strings, "
            "lists or True and False as values, such as (num_classes=2)."
        ) from error
