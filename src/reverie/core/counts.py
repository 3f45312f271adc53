"""One sentence for counts that are too small."""

from reverie.core.errors import RangeError

__all__ = ["check_counts"]


def check_counts(**counts: int | None) -> None:
    """Refuse a count below 1, by the name of the caller's argument; None says nothing.

    Args:
        counts: Argument -> what was given for it.

    Raises:
        RangeError: A count is below 1.

    Example:
        >>> check_counts(steps=0)
        Traceback (most recent call last):
        reverie.core.errors.RangeError: steps must be at least 1, got 0
    """
    for name, value in counts.items():
        if value is not None and value < 1:
            raise RangeError(f"{name} must be at least 1, got {value}")
