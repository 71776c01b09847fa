"""Which clean-up passes run, in which order."""

from __future__ import annotations

__all__ = ["clean_passes"]


def clean_passes() -> tuple[str, ...]:
    """Names of the passes of the clean stage."""
    return ()
