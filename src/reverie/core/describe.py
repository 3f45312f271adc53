"""What a setting is, as text: two settings that do otherwise differ in the text, which every process writes alike."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from types import CellType, CodeType, FunctionType, MethodType
from typing import Any

from torch import Tensor, nn

from reverie.core.digest import sha256_network, sha256_tensors

__all__ = ["describe"]

DIGITS = 16


def describe(setting: Any) -> str:  # noqa: ANN401  any setting
    """A function, a partial of one, an object that is called, or a plain value, as text.

    A function that has a name of its own is told by that name. One that has none, or is made by another, is told by
    what it computes with as well: its code, its defaults and what it took from around it; another version of Python may
    write that code otherwise. Tensors and networks are told by their values.

    Example:
        >>> describe(partial(describe, setting=describe))
        'reverie.core.describe.describe(setting=reverie.core.describe.describe)'
        >>> describe(lambda x: x) == describe(lambda x: 2 * x)
        False
        >>> from reverie.core.augment import ShiftAndFlip
        >>> describe(ShiftAndFlip(3))
        'ShiftAndFlip(shift=3, flip=True)'
    """
    return _text(setting, ())


def _text(setting: Any, within: tuple[int, ...]) -> str:  # noqa: ANN401  any setting
    """As `describe`; `within` names what the setting was met in, so that what holds itself ends."""
    if id(setting) in within:
        return "itself"
    within = (*within, id(setting))
    if isinstance(setting, partial):
        return f"{_text(setting.func, within)}({_arguments(setting.args, setting.keywords, within)})"
    if isinstance(setting, MethodType):
        return f"{_text(setting.__self__, within)}.{setting.__name__}"
    if isinstance(setting, FunctionType) and "<" in setting.__qualname__:
        return f"{setting.__module__}.{setting.__qualname__} {_made(setting, within)}"
    if isinstance(setting, Tensor):
        return f"tensor {tuple(setting.shape)} {sha256_tensors({'': setting})[:DIGITS]}"
    if isinstance(setting, nn.Module):
        return f"{setting!r} {sha256_network(setting)[:DIGITS]}" if setting.state_dict() else repr(setting)
    if isinstance(setting, list | tuple):
        return f"[{_arguments(setting, {}, within)}]"
    if isinstance(setting, set | frozenset):
        return f"{{{', '.join(sorted(_text(one, within) for one in setting))}}}"
    if isinstance(setting, Mapping):
        return f"{{{_arguments((), setting, within)}}}"
    name = getattr(setting, "__qualname__", None)
    return f"{setting.__module__}.{name}" if name else _object(setting, within)


def _object(value: Any, within: tuple[int, ...]) -> str:  # noqa: ANN401  any object
    """As it is written by itself; where that is no more than its address, its class and what it holds."""
    text = repr(value)
    if " at 0x" not in text:
        return text
    held = dict(getattr(value, "__dict__", {}))
    if dataclasses.is_dataclass(value):
        held = {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.repr}
    return f"{type(value).__module__}.{type(value).__qualname__}({_arguments((), held, within)})"


def _arguments(args: Sequence[Any], named: Mapping[str, Any], within: tuple[int, ...]) -> str:
    by_name = [f"{name}={_text(named[name], within)}" for name in sorted(named, key=str)]
    return ", ".join([*(_text(one, within) for one in args), *by_name])


def _made(function: FunctionType, within: tuple[int, ...]) -> str:
    """The SHA-256, shortened, of what a function without a name of its own computes with."""
    around = dict(zip(function.__code__.co_freevars, map(_held, function.__closure__ or ()), strict=True))
    given = [function.__defaults__ or (), function.__kwdefaults__ or {}, around]
    text = f"{_code(function.__code__)} {_text(given, within)}"
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def _held(cell: CellType) -> Any:  # noqa: ANN401  any value
    """What a function took from around it; a name that is not bound yet holds nothing."""
    try:
        return cell.cell_contents
    except ValueError:
        return None


def _code(code: CodeType) -> str:
    constants = [_code(one) if isinstance(one, CodeType) else _text(one, ()) for one in code.co_consts]
    return f"{code.co_code.hex()} {constants} {code.co_names}"
