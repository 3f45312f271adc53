"""What every verb takes and gives, whatever it does."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from cyclopts import Parameter

__all__ = ["PLAIN", "Answer", "Manner"]


@Parameter(name="*")
@dataclass(frozen=True)
class Manner:
    """How the answer is given.

    Attributes:
        json: Print exactly one JSON object on standard output, everything else on standard error.
        debug: Show the whole traceback of an error, and what other libraries log.
    """

    json: Annotated[bool, Parameter(negative=())] = False
    debug: Annotated[bool, Parameter(negative=())] = False


PLAIN = Manner()


@dataclass(frozen=True)
class Answer:
    """What a verb found.

    Attributes:
        value: The JSON object of `--json`.
        shown: What a person sees instead: strings and tables of rich, one below the other.
        status: The exit status; 1 where what was found is a defect.
    """

    value: Mapping[str, Any]
    shown: tuple[Any, ...]
    status: int = 0
