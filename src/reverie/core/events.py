"""Progress, as plain values that a caller may listen to.

Library code never prints. It calls a listener with an `Event`; the command line turns events into progress bars or
lines of JSON, and tests collect them in a list.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

__all__ = ["Event", "Listener", "silent"]


@dataclass(frozen=True)
class Event:
    """One step of one stage.

    Attributes:
        stage: What is being done, in the user's words, such as `"dreaming"`.
        step: Steps finished, from 0 to `total`.
        total: Steps of the whole stage; at least 1.
        figures: Named numbers worth showing; each name says its unit.
    """

    stage: str
    step: int
    total: int
    figures: Mapping[str, float] = field(default_factory=dict)


Listener = Callable[[Event], None]


def silent(event: Event) -> None:
    """Ignore an event: the default listener."""
