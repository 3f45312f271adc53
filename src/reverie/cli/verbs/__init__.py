"""One file per verb. A verb is a plain function that returns an `Answer`; it imports torch only in its body."""

from collections.abc import Callable

from reverie.cli.answer import Answer
from reverie.cli.verbs.doctor import doctor

__all__ = ["ALL"]

ALL: tuple[Callable[..., Answer], ...] = (doctor,)
