"""Numbers as people read them: bytes, seconds and rates. A MB is 10^6 bytes."""

#: Sizes that are told in a unit, smallest first: from how many bytes on, the unit's bytes, its name, its digits.
_SIZES = (
    (0, 1, "bytes", 0),
    (1e3, 1e3, "kB", 1),
    (1e6, 1e6, "MB", 2),
    (1e7, 1e6, "MB", 1),
    (1e8, 1e6, "MB", 0),
    (1e10, 1e9, "GB", 1),
)

#: From here on a rate is told without decimals.
_WHOLE_RATE = 100

#: From here on, seconds, a duration is told in seconds, rather than in milliseconds, and in minutes.
_SECOND = 0.9995
_MINUTE = 59.95


def size_text(size: float) -> str:
    """A number of bytes as text."""
    _, unit, name, digits = next(row for row in reversed(_SIZES) if size >= row[0])
    return f"{size / unit:,.{digits}f} {name}"


def duration_text(seconds: float) -> str:
    """A duration as text."""
    if seconds < _SECOND:
        return f"{seconds * 1e3:.3g} ms"
    if seconds < _MINUTE:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def rate_text(rate: float) -> str:
    """How many a second, as text."""
    return f"{rate:,.0f}" if rate >= _WHOLE_RATE else f"{rate:.3g}"
