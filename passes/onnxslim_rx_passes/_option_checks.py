"""Options of passes outside their range: what was found, what was expected."""

from __future__ import annotations

from collections.abc import Sequence

from onnxslim_rx.errors import InputError
from onnxslim_rx.passbase import CompressionPass

__all__ = ["check_least", "check_word"]


def check_word(one: CompressionPass, option: str, allowed: Sequence[object]) -> None:
    """Refuse an option that is none of `allowed`; None, where allowed, is not shown.

    Raises:
        InputError: it is none of them.
    """
    value = getattr(one, option)
    if value not in allowed:
        words = ", ".join(str(word) for word in allowed if word is not None)
        raise InputError(f"{one.name} has {option} = {value!r}", expected=words)


def check_least(one: CompressionPass, option: str, least: int = 1) -> None:
    """Refuse a number below `least`.

    Raises:
        InputError: it is.
    """
    value = getattr(one, option)
    if value < least:
        raise InputError(f"{one.name} has {option} = {value}", expected=f"at least {least}")
