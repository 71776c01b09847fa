"""Progress of long work, reported without knowing who listens.

Deep code says what it does (`with task("calibrate", total=n) as advance: ... advance()`); the
command line decides how to show it. Without a listener nothing happens.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Protocol

__all__ = ["Advance", "Listener", "listen", "task"]

Advance = Callable[[int], None]
"""Call with the number of steps done since the last call."""


class Listener(Protocol):
    """Shows tasks; implemented by the command line with a progress bar."""

    def task(self, title: str, total: int | None) -> contextlib.AbstractContextManager[Advance]:
        """Start showing a task of `total` steps (None: unknown); leave the context to end it."""
        ...


_listener: ContextVar[Listener | None] = ContextVar("onnxslim_rx_progress", default=None)


@contextlib.contextmanager
def listen(listener: Listener | None) -> Iterator[None]:
    """Send the progress of everything inside the `with` block to `listener` (None: to nobody)."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


@contextlib.contextmanager
def task(title: str, total: int | None = None) -> Iterator[Advance]:
    """Report one piece of work of `total` steps; the context's value is called to advance it."""
    listener = _listener.get()
    if listener is None:
        yield _ignore
    else:
        with listener.task(title, total) as advance:
            yield advance


def _ignore(steps: int = 1) -> None:
    """Stand in for `Advance` where nobody listens."""
