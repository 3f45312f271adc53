"""Read what flows through chosen layers, and leave no trace."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from reverie.core.errors import ReferenceNotFound, ShapeError

__all__ = ["Reading", "select_layers", "tap"]

Selector = type[nn.Module] | tuple[type[nn.Module], ...] | Callable[[str, nn.Module], bool]


@dataclass(frozen=True)
class Reading:
    """The first tensor that a layer was given, and what it returned, in its latest call."""

    input: Tensor
    output: Any


def select_layers(model: nn.Module, at: Selector) -> dict[str, nn.Module]:
    """The layers that a selector names, by qualified name, in registration order.

    Raises:
        ReferenceNotFound: No layer matches.
    """
    chosen = {
        name: module
        for name, module in model.named_modules()
        if (isinstance(module, at) if isinstance(at, type | tuple) else at(name, module))
    }
    if not chosen:
        wanted = at.__name__ if isinstance(at, type) else at
        kinds = sorted({type(module).__name__ for module in model.modules()})
        raise ReferenceNotFound(f"no layer matches {wanted}; {type(model).__name__} is made of {', '.join(kinds)}")
    return chosen


@contextmanager
def tap(model: nn.Module, at: Selector) -> Iterator[Mapping[str, Reading]]:
    """Read the inputs and outputs of chosen layers while the body runs.

    The mapping fills as the model is called and is keyed by qualified layer name. Tensors keep their graph, so a term
    may differentiate through them. All hooks are gone afterwards, also after an error.

    Args:
        model: Any module.
        at: A layer type, a tuple of types, or a predicate of (qualified name, module).

    Raises:
        ReferenceNotFound: No layer matches.
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
            seen[name] = Reading(_first_tensor((*inputs, *named.values()), name), output)

        return read

    handles = []
    try:
        for name, module in select_layers(model, at).items():
            handles.append(module.register_forward_hook(reader(name), with_kwargs=True))
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _first_tensor(values: tuple[Any, ...], layer: str) -> Tensor:
    for value in values:
        if isinstance(value, Tensor):
            return value
    kinds = ", ".join(type(value).__name__ for value in values) or "nothing"
    raise ShapeError(f"cannot read the input of layer {layer}: it was given no tensor but {kinds}. Tap another layer.")
