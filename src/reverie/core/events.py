"""Progress, as plain values that a caller may listen to.

Library code never prints. It calls a listener with an `Event`; the command line turns events into progress bars or
lines of JSON, and tests collect them in a list.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

__all__ = ["Event", "Listener", "part_of", "renamed", "silent"]


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


def renamed(stage: str, on_event: Listener) -> Listener:
    """Tell what a part of the work tells under the name of the whole.

    Args:
        stage: The name that the user knows the work by.
        on_event: Told instead.

    Example:
        >>> heard = []
        >>> renamed("recovering codes", heard.append)(Event("dreaming", 1, 2))
        >>> heard
        [Event(stage='recovering codes', step=1, total=2, figures={})]
    """
    return lambda event: on_event(replace(event, stage=stage))


def part_of(on_event: Listener, *, before: int, total: int) -> Listener:
    """Tell the steps of a part of the work as steps of the whole.

    Args:
        on_event: Told instead.
        before: Steps of the whole that were done when the part began.
        total: Steps of the whole.

    Example:
        >>> heard = []
        >>> part_of(heard.append, before=10, total=30)(Event("dreaming", 1, 10))
        >>> heard
        [Event(stage='dreaming', step=11, total=30, figures={})]
    """
    return lambda event: on_event(replace(event, step=before + event.step, total=total))
