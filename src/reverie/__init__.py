"""Reverie looks inside a trained network, makes it small and fast on your hardware, and needs none of its data.

The names below are the whole public surface. Each is imported when it is first used, so `import reverie` costs next to
nothing, and the command line starts without loading PyTorch.

Example:
    >>> import reverie
    >>> teacher = reverie.load("zoo:fashion-vgg")
    >>> teacher.image_shape
    (1, 28, 28)
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inspect import Signature

    from reverie.compress.compress import compress as compress
    from reverie.compress.prune import prune as prune
    from reverie.core.network import ImageNetwork as ImageNetwork
    from reverie.core.source import Source as Source
    from reverie.distill.loop import distill as distill
    from reverie.dream.bank import Bank as Bank
    from reverie.dream.dream import dream as dream
    from reverie.metrics.evaluate import evaluate as evaluate
    from reverie.report.inspection import inspect as inspect
    from reverie.zoo.load import load as load
    from reverie.zoo.runs import save as save

__all__ = [
    "Bank",
    "ImageNetwork",
    "Source",
    "compress",
    "distill",
    "dream",
    "evaluate",
    "inspect",
    "load",
    "prune",
    "save",
]

__version__ = "0.1.0"

# Public name -> the module that defines it.
HOMES = {
    "Bank": "reverie.dream.bank",
    "ImageNetwork": "reverie.core.network",
    "Source": "reverie.core.source",
    "compress": "reverie.compress.compress",
    "distill": "reverie.distill.loop",
    "dream": "reverie.dream.dream",
    "evaluate": "reverie.metrics.evaluate",
    "inspect": "reverie.report.inspection",
    "load": "reverie.zoo.load",
    "prune": "reverie.compress.prune",
    "save": "reverie.zoo.runs",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401  type checkers read the imports above
    if name not in HOMES:
        raise AttributeError(f"module 'reverie' has no attribute {name!r}; it has {', '.join(HOMES)}")
    module = importlib.import_module(HOMES[name])
    # Importing a verb's module has bound the package of that name, which is callable; see _Door.
    return globals().setdefault(name, getattr(module, name))


def __dir__() -> list[str]:
    return sorted([*globals(), *HOMES])


class _Verb(ModuleType):
    """A package that shares its name with the verb it is about, and is called like it."""

    def __call__(self, *positional: Any, **named: Any) -> Any:  # noqa: ANN401  whatever the verb returns
        return _verb(self)(*positional, **named)

    @property
    def __signature__(self) -> "Signature":
        from inspect import signature

        return signature(_verb(self))


class _Door(ModuleType):
    """This module, which hears of every package that the import system binds to it."""

    def __setattr__(self, name: str, value: object) -> None:
        # `reverie.dream` is a function to its users and a package to the import system, whichever came first.
        if name in HOMES and isinstance(value, ModuleType):
            value.__class__ = _Verb
        super().__setattr__(name, value)


def _verb(package: ModuleType) -> Any:  # noqa: ANN401  any function
    name = package.__name__.rpartition(".")[2]
    return getattr(importlib.import_module(HOMES[name]), name)


sys.modules[__name__].__class__ = _Door
