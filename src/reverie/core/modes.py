"""Borrow a model, and give it back as it was."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

__all__ = ["frozen"]


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and parameters that need no gradient, while the body runs.

    Afterwards, also after an error, every module has the mode it had and every parameter the `requires_grad` it had.
    Gradients that were stored stay as they are: a frozen parameter never accumulates.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> with frozen(layer):
        ...     layer.training, layer.weight.requires_grad
        (False, False)
        >>> layer.training, layer.weight.requires_grad
        (True, True)
    """
    modes = {module: module.training for module in model.modules()}
    needs = {parameter: parameter.requires_grad for parameter in model.parameters()}
    try:
        model.eval()
        model.requires_grad_(False)
        yield
    finally:
        # Set the attribute, not .train(): that recurses, and children may differ from their parents.
        for module, mode in modes.items():
            module.training = mode
        for parameter, need in needs.items():
            parameter.requires_grad_(need)
