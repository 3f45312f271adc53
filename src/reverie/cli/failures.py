"""Errors as one sentence and an exit status.

Status 2: the request cannot be met, and the message says what to do. Status 130: interrupted. Status 1: a defect or a
surprise of the machine, named, with the way to its traceback.
"""

from dataclasses import dataclass
from typing import Any

from cyclopts import CycloptsError

from reverie.core.errors import ReverieError
from reverie.report.text import printable

__all__ = ["Failure", "describe"]


@dataclass(frozen=True)
class Failure:
    """What the user is told.

    Attributes:
        status: The exit status.
        kind: The name of the exception's class.
        message: One sentence or two, on one line.
    """

    status: int
    kind: str
    message: str

    def to_json(self) -> dict[str, Any]:
        """The JSON object that `--json` prints in place of an answer."""
        return {"error": {"kind": self.kind, "message": self.message, "status": self.status}}


def describe(error: BaseException) -> Failure:
    """The sentence and the exit status for an exception.

    Example:
        >>> from reverie.core.errors import RangeError
        >>> describe(RangeError("--latency 60 has no unit. Write 60% or 4ms."))
        Failure(status=2, kind='RangeError', message='--latency 60 has no unit. Write 60% or 4ms.')
        >>> describe(KeyboardInterrupt()).status
        130
    """
    kind = type(error).__name__
    if isinstance(error, KeyboardInterrupt):
        return Failure(130, "Interrupted", "interrupted; run the same command again to go on")
    if isinstance(error, ReverieError):
        return Failure(2, kind, _one_line(str(error)))
    if isinstance(error, CycloptsError):
        return Failure(2, "UsageError", f"{_one_line(str(error))} See reverie --help.")
    message = _one_line(str(error)).rstrip(".") or "no message"
    return Failure(
        1, kind, f"unexpected {kind}: {message}. Run the same command with --debug to see where it came from."
    )


def _one_line(text: str) -> str:
    return " ".join(printable(text).split())
