"""What can go wrong, as one small family of exceptions.

Every message says four things: what was asked, what was found, where, and what to do. Each kind also derives from the
built-in that plain code would expect, so `except ValueError` works. The command line prints the message as it stands
and exits with status 2.
"""

__all__ = [
    "BudgetInfeasible",
    "CorruptFile",
    "Diverged",
    "FolderInUse",
    "MissingExtra",
    "NoEffect",
    "NotWritable",
    "RangeError",
    "ReferenceNotFound",
    "ReverieError",
    "ShapeError",
    "StatisticsMissing",
    "UnsupportedOp",
    "UntrustedFile",
    "VerificationFailed",
    "WeightsMismatch",
]


class ReverieError(Exception):
    """Root of every error that the package raises on purpose."""


class ReferenceNotFound(ReverieError, LookupError):
    """A model, file, layer or name that was asked for does not exist."""

    def __str__(self) -> str:
        # LookupError subclasses such as KeyError quote their message; ours are sentences.
        return str(self.args[0]) if self.args else ""


class WeightsMismatch(ReverieError, ValueError):
    """Weights do not belong to the network they are loaded into."""


class UntrustedFile(ReverieError, ValueError):
    """Reading the file would run code from it."""


class CorruptFile(ReverieError, ValueError):
    """A file is truncated, damaged, or not what its name says."""


class ShapeError(ReverieError, ValueError):
    """A tensor, image or network has another shape than was asked for."""


class RangeError(ReverieError, ValueError):
    """A number lies outside its range, or lacks its unit."""


class UnsupportedOp(ReverieError, NotImplementedError):
    """An operator has no rule; the message names it and the layer."""


class StatisticsMissing(ReverieError, ValueError):
    """The network stores no statistics of the kind that was asked for."""


class BudgetInfeasible(ReverieError, ValueError):
    """No plan meets the budget.

    Attributes:
        cheapest: The lowest cost that can be reached, in the unit of the budget.
        budget: Name of the budget.
    """

    def __init__(self, message: str, *, cheapest: float, budget: str) -> None:
        super().__init__(message)
        self.cheapest = cheapest
        self.budget = budget


class FolderInUse(ReverieError, FileExistsError):
    """An output folder holds something else, or another process is writing to it."""


class NotWritable(ReverieError, PermissionError):
    """A file or folder cannot be written."""


class MissingExtra(ReverieError, ImportError):
    """An optional dependency is needed and not installed; the message names the extra."""


class Diverged(ReverieError, ArithmeticError):
    """An optimization produced numbers that are not finite; the message names the step."""


class VerificationFailed(ReverieError, RuntimeError):
    """A result did not pass its own check, so it was not handed over."""


class NoEffect(UserWarning):
    """An edit changed nothing."""
