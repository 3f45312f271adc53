"""What may be spent, with its unit: a share of the teacher, or an absolute number."""

import math
import re
from dataclasses import dataclass
from typing import Literal

from reverie.core.errors import RangeError

__all__ = ["QUANTITIES", "Budget", "Quantity", "read_budgets"]

Quantity = Literal["latency", "size", "macs"]
QUANTITIES: tuple[Quantity, ...] = ("latency", "size", "macs")

# The base units are milliseconds, bytes and multiply-accumulate operations.
UNITS: dict[Quantity, dict[str, float]] = {
    "latency": {"us": 1e-3, "ms": 1.0, "s": 1e3},
    "size": {"B": 1.0, "KB": 1e3, "MB": 1e6, "GB": 1e9},
    "macs": {"MAC": 1.0, "KMAC": 1e3, "MMAC": 1e6, "GMAC": 1e9},
}
EXAMPLES: dict[Quantity, str] = {"latency": "60% or 4ms", "size": "50% or 1MB", "macs": "50% or 20MMAC"}


@dataclass(frozen=True)
class Budget:
    """An upper limit on one quantity.

    Attributes:
        quantity: What is limited.
        value: The limit: a share in (0, 1] of the teacher's where `relative`, else milliseconds, bytes or MACs.
        relative: Whether `value` is a share of the teacher's own figure.

    Raises:
        RangeError: The value is out of its range.
    """

    quantity: Quantity
    value: float
    relative: bool

    def __post_init__(self) -> None:
        if self.relative and not 0 < self.value <= 1:
            raise RangeError(f"a relative {self.quantity} budget is a share in (0, 1], got {self.value:g}")
        if not 0 < self.value < math.inf:
            raise RangeError(f"a {self.quantity} budget is above 0, got {self.value:g}")

    @staticmethod
    def parse(text: str, quantity: Quantity) -> "Budget":
        """Read a budget as a person writes it.

        Raises:
            RangeError: There is no unit, an unknown unit, or a number out of range.

        Example:
            >>> Budget.parse("60%", "latency")
            Budget(quantity='latency', value=0.6, relative=True)
            >>> Budget.parse("4ms", "latency").value
            4.0
        """
        example = f"Write {EXAMPLES[quantity]}."
        match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+(?:e[+-]?[0-9]+)?)\s*([A-Za-z%]*)\s*", text)
        if match is None:
            raise RangeError(f"--{quantity} {text!r} is not a number with a unit. {example}")
        number, unit = float(match[1]), match[2]
        if not unit:
            raise RangeError(f"--{quantity} {text} has no unit. {example}")
        if unit == "%":
            if not 0 < number <= 100:
                raise RangeError(
                    f"--{quantity} {text} must be above 0% and at most 100% of the given network. {example}"
                )
            return Budget(quantity, number / 100, relative=True)
        scale = {name.lower(): factor for name, factor in UNITS[quantity].items()}.get(unit.lower())
        if scale is None:
            known = ", ".join(["%", *UNITS[quantity]])
            raise RangeError(f"--{quantity} {text} has the unknown unit {unit!r}; known are {known}. {example}")
        if number <= 0:
            raise RangeError(f"--{quantity} {text} must be positive. {example}")
        return Budget(quantity, number * scale, relative=False)

    def limit(self, teacher: float) -> float:
        """The limit in base units, given the teacher's own figure in base units."""
        return self.value * teacher if self.relative else self.value

    def __str__(self) -> str:
        # All digits: two budgets that differ are two runs, and a run is known by what is printed here.
        if self.relative:
            return f"{100 * self.value:.15g}%"
        unit, factor = max(
            ((name, factor) for name, factor in UNITS[self.quantity].items() if factor <= self.value),
            key=lambda pair: pair[1],
            default=next(iter(UNITS[self.quantity].items())),
        )
        return f"{self.value / factor:.15g} {unit}"


def read_budgets(
    *, latency: Budget | str | None = None, size: Budget | str | None = None, macs: Budget | str | None = None
) -> dict[Quantity, Budget]:
    """The budgets that are given, by quantity.

    Args:
        latency: As a person writes it or read already; None where nothing is asked of it.
        size: Likewise.
        macs: Likewise.

    Raises:
        RangeError: None is given, one cannot be read, or it is for another quantity.

    Example:
        >>> read_budgets(latency="60%")
        {'latency': Budget(quantity='latency', value=0.6, relative=True)}
    """
    given: dict[Quantity, Budget | str | None] = {"latency": latency, "size": size, "macs": macs}
    found = {quantity: _read(quantity, one) for quantity, one in given.items() if one is not None}
    if not found:
        raise RangeError('nothing to meet: give at least one budget, such as latency="60%" (--latency 60%)')
    return found


def _read(quantity: Quantity, given: Budget | str) -> Budget:
    if isinstance(given, str):
        return Budget.parse(given, quantity)
    if not isinstance(given, Budget):
        raise RangeError(f"{quantity}={given!r} has no unit. Write {EXAMPLES[quantity]}, as text.")
    if given.quantity != quantity:
        raise RangeError(f"{quantity} was given a budget for the {given.quantity}, {given}. Give {given.quantity}=...")
    return given
