"""What is refused before any work, in the options' own words."""

import os
from pathlib import Path

from reverie.core.counts import check_counts
from reverie.core.errors import NotWritable

__all__ = ["at_least_one", "check_files"]


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
    check_counts(**{f"--{name.replace('_', '-')}": value for name, value in numbers.items()})


def check_files(**files: Path | None) -> None:
    """Refuse files that could not be written once the work is done.

    Args:
        files: Option, with `_` for `-` -> the file given for it, or None.

    Raises:
        NotWritable: One is a folder, or lies where this process may not write.

    Example:
        >>> check_files(out=Path("."))
        Traceback (most recent call last):
        reverie.core.errors.NotWritable: --out . is a folder; name a file in it
    """
    for name, file in files.items():
        if file is not None:
            _check_file(f"--{name.replace('_', '-')} {file}", file)


def _check_file(asked: str, file: Path) -> None:
    if file.is_dir():
        raise NotWritable(f"{asked} is a folder; name a file in it")
    above = next(folder for folder in file.absolute().parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise NotWritable(f"{asked} cannot be written: {above} is no folder to write in. Choose another place.")
