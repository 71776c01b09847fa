"""Numbers and names as people read them; shared by the console and the HTML page."""

from __future__ import annotations

import math

__all__ = [
    "bytes_text",
    "change_text",
    "cosine_text",
    "count_text",
    "ms_text",
    "number_text",
    "percent_text",
    "printable",
    "ratio_text",
    "seconds_text",
    "size_change",
]

UNKNOWN = "-"
_SAME = 0.005
"""Relative change below which a size counts as the same: half of the last digit shown."""


def printable(text: object) -> str:
    """`text` on one line, without characters that move a cursor or turn the reading direction."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in str(text)
    )


def _scaled(value: float, step: int, units: tuple[str, ...]) -> tuple[float, str]:
    index = 0
    while abs(value) >= step * 0.9995 and index < len(units) - 1:  # 0.9995: 999.96 kB is 1.00 MB
        value /= step
        index += 1
    return value, units[index]


def _three_digits(value: float) -> str:
    if value == 0:
        return "0"
    exponent = int(f"{value:.2e}".partition("e")[2])  # of the rounded value: 0.9999 becomes 1.00
    return f"{value:.{min(max(0, 2 - exponent), 6)}f}"


def bytes_text(value: float | None) -> str:
    """A size in bytes with a decimal unit, such as "22.9 MB"."""
    if value is None:
        return UNKNOWN
    number, unit = _scaled(value, 1000, ("B", "kB", "MB", "GB", "TB"))
    return f"{value:.0f} B" if unit == "B" else f"{_three_digits(number)} {unit}"


def count_text(value: float | None) -> str:
    """A count with a decimal prefix above 9999, such as "22.7 M"."""
    if value is None:
        return UNKNOWN
    if abs(value) < 10_000:
        return f"{value:.0f}"
    number, prefix = _scaled(value, 1000, ("", "k", "M", "G", "T", "P"))
    return f"{_three_digits(number)} {prefix}"


def ms_text(value: float | None) -> str:
    """A time in milliseconds, with the unit that suits it."""
    if value is None:
        return UNKNOWN
    if value < 0.1:
        return f"{_three_digits(value * 1000)} us"
    return f"{_three_digits(value)} ms" if value < 10_000 else f"{_three_digits(value / 1000)} s"


def seconds_text(value: float | None) -> str:
    """A time in seconds, such as "3.21 s" or "4 min 05 s"."""
    if value is None:
        return UNKNOWN
    if value < 100:
        return f"{value:.2f} s" if value >= 0.01 else f"{value * 1000:.1f} ms"
    minutes, seconds = divmod(round(value), 60)
    return f"{minutes} min {seconds:02d} s"


def cosine_text(value: float | None) -> str:
    """A cosine, rounded down so that it never looks better than it is, with enough nines."""
    if value is None or math.isnan(value):
        return UNKNOWN
    gap = 1.0 - value
    if abs(gap) < 1e-9:
        return "1.0000"
    digits = max(4, min(9, math.ceil(-math.log10(abs(gap))) + 1))
    scale: int = 10**digits
    return f"{math.floor(value * scale + 1e-6) / scale:.{digits}f}"  # 1e-6: 0.57 * 100 is 56.99...


def number_text(value: float | None) -> str:
    """Any measured number with three significant digits."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    if value == 0:
        return "0"
    return f"{value:.2e}" if abs(value) < 1e-3 or abs(value) >= 1e6 else _three_digits(value)


def percent_text(value: float | None) -> str:
    """A share, such as "12.3 %"."""
    return UNKNOWN if value is None else f"{value * 100:.1f} %"


def ratio_text(value: float | None) -> str:
    """A ratio, such as "1.02x"."""
    return UNKNOWN if value is None else f"{value:.2f}x"


def change_text(before: float | None, after: float | None) -> str:
    """How a count or a size changed, in per cent of the first, such as "-74.6 %"."""
    if before is None or after is None or before == 0:
        return ""
    shown = f"{(after - before) / before * 100:+.1f} %"
    return "" if shown in ("+0.0 %", "-0.0 %") else shown


def size_change(before: float | None, after: float | None) -> str:
    """How a size changed, as a sentence says it: "3.9x smaller", "12 % smaller", "same size"."""
    if not before or not after:
        return ""
    if abs(after - before) < _SAME * before:
        return "same size"
    if after > before:
        return f"{(after - before) / before:.1%} larger".replace("%", " %")
    if before / after >= 1.5:
        return f"{before / after:.1f}x smaller"
    return f"{(before - after) / before:.1%} smaller".replace("%", " %")
