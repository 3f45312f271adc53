"""Read what flows through chosen layers, and leave no trace."""

import difflib
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from reverie.core.errors import ReferenceNotFound, ShapeError

__all__ = ["Reading", "first_tensor", "select_layers", "tap"]

NAMES_SHOWN = 12

# A kind of layer, kinds and qualified names, or a predicate of both.
Selector = type[nn.Module] | Collection[type[nn.Module] | str] | Callable[[str, nn.Module], bool]


@dataclass(frozen=True)
class Reading:
    """The first tensor that a layer was given, and what it returned, in its latest call."""

    input: Tensor
    output: Any


def select_layers(model: nn.Module, at: Selector) -> dict[str, nn.Module]:
    """The layers that a selector names, by qualified name, in registration order.

    Args:
        model: Any module.
        at: A layer type, layer types and qualified names, or a predicate of (qualified name, module). A module of
            several names is found by each, and by its kind or a predicate once.

    Raises:
        ReferenceNotFound: No layer matches, or one that is named is not there.

    Example:
        >>> list(select_layers(nn.Sequential(nn.Linear(3, 2), nn.ReLU()), ["1"]))
        ['1']
    """
    layers = dict(model.named_modules())
    if isinstance(at, str | type):
        at = [at]
    if callable(at):
        chosen = {name: module for name, module in layers.items() if at(name, module)}
        wanted = "layer matches the predicate"
    else:
        kinds = tuple(one for one in at if isinstance(one, type))
        named = _named(model, [one for one in at if not isinstance(one, type)])
        chosen = {
            name: module
            for name, module in model.named_modules(remove_duplicate=False)
            if name in named or (name in layers and isinstance(module, kinds))
        }
        wanted = f"layer matches {' or '.join(kind.__name__ for kind in kinds)}" if kinds else "layer is named"
    if not chosen:
        found = sorted({type(module).__name__ for module in layers.values()})
        raise ReferenceNotFound(f"no {wanted}; {type(model).__name__} is made of {', '.join(found)}")
    return chosen


def _named(model: nn.Module, names: Collection[str]) -> Collection[str]:
    """The names, each of which the model has."""
    known = [name for name, _ in model.named_modules(remove_duplicate=False)]
    missing = next((name for name in names if name not in known), None)
    if missing is not None:
        known = [name for name in known if name]
        close = difflib.get_close_matches(missing, known, n=4)
        said = f"Did you mean {' or '.join(close)}?" if close else f"It has {', '.join(known[:NAMES_SHOWN])}"
        raise ReferenceNotFound(f"{type(model).__name__} has no layer {missing!r}. {said}{'' if close else ' ...'}")
    return names


@contextmanager
def tap(model: nn.Module, at: Selector) -> Iterator[Mapping[str, Reading]]:
    """Read the inputs and outputs of chosen layers while the body runs.

    The mapping fills as the model is called and is keyed by qualified layer name. Tensors keep their graph, so a term
    may differentiate through them. All hooks are gone afterwards, also after an error.

    Args:
        model: Any module.
        at: As for `select_layers`.

    Raises:
        ReferenceNotFound: No layer matches, or one that is named is not there.
        ShapeError: A chosen layer was called without a tensor.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
        >>> with tap(model, nn.ReLU) as seen:
        ...     _ = model(torch.ones(1, 3))
        >>> seen["1"].input.shape
        torch.Size([1, 2])
    """
    seen: dict[str, Reading] = {}

    def reader(name: str) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any], Any], None]:
        def read(_: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:  # noqa: ANN401  any module's output
            seen[name] = Reading(first_tensor((*inputs, *named.values()), name), output)

        return read

    handles = []
    try:
        for name, module in select_layers(model, at).items():
            handles.append(module.register_forward_hook(reader(name), with_kwargs=True))
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def first_tensor(values: tuple[Any, ...], layer: str) -> Tensor:
    """What a layer is said to read: the first tensor among what it was given, by place and then by name.

    Args:
        values: What it was given.
        layer: Its name, for the message.

    Raises:
        ShapeError: There is none.

    Example:
        >>> import torch
        >>> first_tensor((None, torch.ones(2)), "fc")
        tensor([1., 1.])
    """
    for value in values:
        if isinstance(value, Tensor):
            return value
    kinds = ", ".join(type(value).__name__ for value in values) or "nothing"
    raise ShapeError(f"cannot read the input of layer {layer}: it was given no tensor but {kinds}. Tap another layer.")
