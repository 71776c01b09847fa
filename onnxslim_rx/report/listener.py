"""Progress bars on a terminal, only for what takes long enough to be worth one."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator
from typing import IO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from onnxslim_rx.progress import Advance, Listener
from onnxslim_rx.report.text import printable

__all__ = ["RichListener", "progress_listener"]


def progress_listener(stream: IO[str] | None = None) -> Listener | None:
    """A listener that draws on `stream` (default: standard error), None where no terminal is."""
    stream = stream or sys.stderr
    return RichListener(Console(file=stream)) if stream.isatty() else None


class RichListener:
    """Shows tasks that have run for longer than `delay`; they vanish when they end.

    Args:
        console: where to draw.
        delay: seconds.
    """

    def __init__(self, console: Console, *, delay: float = 2.0) -> None:
        self._delay = delay
        self._lock = threading.RLock()
        self._open = 0
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )

    @contextlib.contextmanager
    def task(self, title: str, total: int | None) -> Iterator[Advance]:
        """See `progress.Listener`."""
        progress = self._progress
        name = progress.add_task(printable(title), total=total, visible=False)
        ended = False

        def show() -> None:  # runs in a thread of its own: deep code may not report for minutes
            with self._lock:
                if not ended:
                    progress.update(name, visible=True)
                    progress.start()

        timer = threading.Timer(self._delay, show)
        timer.daemon = True
        timer.start()
        with self._lock:
            self._open += 1

        def advance(steps: int = 1) -> None:
            progress.advance(name, steps)

        try:
            yield advance
        finally:
            timer.cancel()
            with self._lock:
                ended = True
                self._open -= 1
                progress.remove_task(name)
                if self._open == 0:
                    progress.stop()
