"""What each phase of a run takes: anonymous memory (Linux only) and CPU time.

Weights lie in mapped files, and what is mapped is not counted: its pages go where others need the
room. Counted are `RssAnon` and `RssShmem` of /proc/self/status, sampled by a thread.
"""

from __future__ import annotations

import contextlib
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

__all__ = ["Peak", "anonymous", "watching"]

_STATUS = Path("/proc/self/status")
_EVERY = 0.005  # seconds between two looks


class Peak:
    """The most anonymous memory, bytes, in all and in each phase, from when it is made.

    Args:
        every: seconds between two looks.
    """

    def __init__(self, every: float = _EVERY) -> None:
        self.phases: dict[str, int] = {}
        self.cpu_seconds: dict[str, float] = {}
        """Of all threads; a phase within another counts for both."""
        self.start = self.peak = anonymous()
        self._running: list[str] = []
        # the thread ends with the last reference to this
        threading.Thread(target=_watch, args=(weakref.ref(self), every), daemon=True).start()

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Whatever runs inside belongs to the phase `name`."""
        self._running.append(name)
        self.look()
        begin = time.process_time()
        try:
            yield
        finally:
            spent = time.process_time() - begin
            self.cpu_seconds[name] = self.cpu_seconds.get(name, 0.0) + spent
            self.look()
            self._running.pop()

    def look(self) -> None:
        """Take in what is held now."""
        running = list(self._running)
        now = anonymous()
        self.peak = max(self.peak, now)
        # what began while this thread was looking does not get what was there before it
        for name in running:
            self.phases[name] = max(self.phases.get(name, 0), now)


def _watch(peak: weakref.ref[Peak], every: float) -> None:
    wait = threading.Event()
    while not wait.wait(every) and (found := peak()) is not None:
        found.look()
        del found  # nothing is held while waiting


def anonymous() -> int:
    """Bytes of the process that are no pages of files."""
    with _STATUS.open(encoding="ascii") as status:
        lines = dict(line.split(":", 1) for line in status)
    return sum(int(lines[key].split()[0]) << 10 for key in ("RssAnon", "RssShmem"))


@contextlib.contextmanager
def watching(run: type[Any], peak: Peak) -> Iterator[None]:
    """The phases of a class of runs (its context manager `phase`) are phases of `peak`, inside."""
    plain = run.phase

    @contextlib.contextmanager
    def watched(self: Any, name: str) -> Iterator[None]:
        with peak.phase(name), plain(self, name):
            yield

    with mock.patch.object(run, "phase", watched):
        yield
