"""What is refused before any work, in the options' own words."""

import os
from pathlib import Path

from reverie.core.errors import NotWritable, RangeError

__all__ = ["at_least_one", "check_file"]


def at_least_one(**numbers: int | None) -> None:
    """Refuse counts below one.

    Args:
        numbers: Option, with `_` for `-` -> what was given for it, or None.

    Raises:
        RangeError: Naming the option.

    Example:
        >>> at_least_one(per_class=0)
        Traceback (most recent call last):
        reverie.core.errors.RangeError: --per-class must be at least 1, got 0
    """
    for name, value in numbers.items():
        if value is not None and value < 1:
            raise RangeError(f"--{name.replace('_', '-')} must be at least 1, got {value}")


def check_file(out: Path) -> None:
    """Refuse a file that could not be written once the work is done.

    Raises:
        NotWritable: It is a folder, or lies where this process may not write.

    Example:
        >>> check_file(Path("."))
        Traceback (most recent call last):
        reverie.core.errors.NotWritable: --out . is a folder; name a file in it
    """
    if out.is_dir():
        raise NotWritable(f"--out {out} is a folder; name a file in it")
    above = next(folder for folder in out.absolute().parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise NotWritable(f"--out {out} cannot be written: {above} is no folder to write in. Choose another place.")
