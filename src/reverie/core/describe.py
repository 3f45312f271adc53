"""What a function is, as text: two settings that differ in a function differ in the text, in every process."""

from collections.abc import Callable
from functools import partial
from typing import Any

__all__ = ["describe"]


def describe(function: Callable[..., Any]) -> str:
    """A function, a partial of one, or a dataclass that is called, as text that is the same in every process.

    Example:
        >>> describe(partial(describe, function=describe))
        'reverie.core.describe.describe(function=reverie.core.describe.describe)'
        >>> describe(lambda x: x)
        'reverie.core.describe.<lambda>'
        >>> from reverie.core.augment import ShiftAndFlip
        >>> describe(ShiftAndFlip(3))
        'ShiftAndFlip(shift=3, flip=True)'
    """
    if isinstance(function, partial):
        named = [f"{name}={_value(value)}" for name, value in sorted(function.keywords.items())]
        return f"{describe(function.func)}({', '.join([*map(_value, function.args), *named])})"
    name = getattr(function, "__qualname__", None)
    return f"{function.__module__}.{name}" if name else repr(function)


def _value(value: Any) -> str:  # noqa: ANN401  any argument
    return describe(value) if callable(value) else repr(value)
