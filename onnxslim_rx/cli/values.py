"""Values as people type them: sizes, times, counts, cosines."""

from __future__ import annotations

import argparse
import contextlib
import math
import re

__all__ = ["cosine", "count", "decibel", "duration_ms", "natural", "setting", "size", "word_list"]

_NUMBER = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)\s*(\D*?)\s*", re.IGNORECASE)
_SIZES = {
    **dict.fromkeys(("", "b"), 1),
    **{prefix + tail: 1000**n for n, prefix in enumerate("kmgt", 1) for tail in ("", "b")},
    **{f"{prefix}i{tail}": 1024**n for n, prefix in enumerate("kmgt", 1) for tail in ("", "b")},
}
_TIMES = {"us": 1e-3, "\u00b5s": 1e-3, "": 1.0, "ms": 1.0, "s": 1e3}
_COUNTS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


def _quantity(text: str, units: dict[str, float] | dict[str, int], wanted: str) -> float:
    match = _NUMBER.fullmatch(text)
    unit = match.group(2).lower() if match else ""
    if not match or unit not in units:
        raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}")
    value = float(match.group(1)) * units[unit]
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not above 0; expected {wanted}")
    return value


def size(text: str) -> int:
    """Bytes of a size such as "23MB" (10^6), "1.5GiB" (2^30) or "4096"."""
    return math.floor(_quantity(text, _SIZES, "a size, such as 23MB, 1.5GiB or 4096"))


def duration_ms(text: str) -> float:
    """Milliseconds of a time such as "12ms", "0.5s", "800us" or "12"."""
    return _quantity(text, _TIMES, "a time, such as 12ms, 0.5s or 800us")


def count(text: str) -> int:
    """A number of operations such as "1.2G", "500 MFLOPs" or "1000000"."""
    short = re.sub(r"flops?\s*$", "", text, flags=re.IGNORECASE)
    return math.floor(_quantity(short, _COUNTS, "a count, such as 1.2G, 500M or 1000000"))


def cosine(text: str) -> float:
    """A cosine above 0 and at most 1."""
    value = _plain(text, "a cosine above 0 and at most 1, such as 0.99")
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and at most 1, such as 0.99")
    return value


def decibel(text: str) -> float:
    """A signal-to-noise ratio such as "30" or "30dB"."""
    return _plain(re.sub(r"\s*db\s*$", "", text, flags=re.IGNORECASE), "a number of dB, such as 30")


def drop(text: str) -> float:
    """A loss of a metric: a number of at least 0."""
    value = _plain(text, "a number of at least 0, such as 0.005")
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0; expected a loss, such as 0.005")
    return value


def natural(text: str) -> int:
    """An integer of at least 0."""
    if not re.fullmatch(r"\s*\d+\s*", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 0")
    return int(text)


def word_list(text: str) -> list[str]:
    """Words between commas."""
    words = [word.strip() for word in text.split(",")]
    if not all(words):
        raise argparse.ArgumentTypeError(f"{text!r} has an empty name")
    return words


def setting(text: str) -> tuple[str, str, bool | int | float | str]:
    """Pass, option and value of a text such as "factorize-conv.method=cp"."""
    match = re.fullmatch(r"\s*([\w-]+)\.(\w+)\s*=\s*(.+?)\s*", text)
    if not match:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not PASS.OPTION=VALUE, such as factorize-conv.method=cp"
        )
    name, option, value = match.groups()
    words = {"true": True, "false": False}
    if value.lower() in words:
        return name, option, words[value.lower()]
    for number in (int, float):
        with contextlib.suppress(ValueError):
            return name, option, number(value)
    return name, option, value


def _plain(text: str, wanted: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}")
    return value
