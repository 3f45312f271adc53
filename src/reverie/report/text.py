"""Small pieces of text: names made safe to show, numbers as people read them."""

__all__ = ["bytes_text", "count_text", "milliseconds_text", "percent_text", "printable", "seconds_text"]


def printable(text: str) -> str:
    r"""One line of printable characters: what a name from a stranger's file may show on a terminal.

    Example:
        >>> printable("shirt\x1b[31m\n red")
        'shirt [31m  red'
    """
    return "".join(character if character.isprintable() else " " for character in text)


def bytes_text(size_bytes: float) -> str:
    """A size in the unit that reads best; 1 KB is 1,000 bytes.

    Example:
        >>> bytes_text(1_234_567), bytes_text(999)
        ('1.23 MB', '999 B')
    """
    return _scaled(size_bytes, ("B", "KB", "MB", "GB", "TB"))


def count_text(count: float, unit: str = "") -> str:
    """A large count with a thousands letter.

    Example:
        >>> count_text(41_200_000, "MAC"), count_text(12)
        ('41.2 MMAC', '12')
    """
    return _scaled(count, tuple(f"{letter}{unit}" for letter in ("", "K", "M", "G", "T"))).rstrip()


def milliseconds_text(latency_ms: float) -> str:
    """A latency, in microseconds below a tenth of a millisecond.

    Example:
        >>> milliseconds_text(1.2345), milliseconds_text(0.0123)
        ('1.23 ms', '12.3 us')
    """
    return f"{_short(latency_ms)} ms" if latency_ms >= 0.1 else f"{_short(latency_ms * 1000)} us"


def percent_text(share: float, *, digits: int = 2) -> str:
    """A share in [0, 1] as a percentage.

    Example:
        >>> percent_text(0.9365)
        '93.65%'
    """
    return f"{100 * share:.{digits}f}%"


def seconds_text(seconds: float) -> str:
    """A duration as people say it.

    Example:
        >>> seconds_text(4.26), seconds_text(61), seconds_text(3700)
        ('4.3 s', '1 min 01 s', '1 h 01 min')
    """
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def _scaled(value: float, units: tuple[str, ...]) -> str:
    for unit in units[:-1]:
        if abs(value) < 999.5:
            return f"{_short(value)} {unit}"
        value /= 1000
    return f"{_short(value)} {units[-1]}"


def _short(value: float) -> str:
    """Three significant digits, never in exponent form."""
    if value == int(value) and abs(value) < 1000:
        return str(int(value))
    digits = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
    return f"{value:.{digits}f}"
