"""A folder where statistics are kept from one run to the next, up to a size."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from onnxslim_rx.calibration.complaints import UnmeasurableError
from onnxslim_rx.calibration.files import alone, is_held, remove
from onnxslim_rx.calibration.statistics import INDEX, Statistics

__all__ = ["CACHE_BYTES", "cached", "clean"]

CACHE_BYTES = 20 << 30
"""Unless told otherwise, statistics on disk take no more, the newest ones aside."""

_PREFIX = "statistics-"
_PARTIAL = ".partial"
_LOCK = ".lock"


def cached(measure: Callable[[Path], None], folder: Path, key: str, limit: int) -> Statistics:
    """The statistics of `key` in `folder`; where there are none, they are measured.

    They appear there at once when they are complete. What a killed process left, or one
    whose data raised midway, is handed to `measure` again. Another process that measures the same
    is waited for.

    Args:
        measure: fills a folder with statistics, or goes on with what is there.
        folder: of the cache; made if need be.
        key: of the statistics.
        limit: bytes that all statistics in `folder` may take; what was used longest ago goes.

    Raises:
        OSError: the folder cannot be written, or the disk is full.
    """
    entry = folder / f"{_PREFIX}{key}"
    found = _found(entry)
    if found is not None:
        return found
    folder.mkdir(parents=True, exist_ok=True)
    partial = entry.with_name(entry.name + _PARTIAL)
    with alone(entry.with_name(entry.name + _LOCK)):
        found = _found(entry)  # while this process waited
        if found is not None:
            return found
        if _found(partial) is None:
            if not partial.is_dir() or partial.is_symlink():
                remove(partial)
            partial.mkdir(exist_ok=True)
            try:
                measure(partial)
            except UnmeasurableError:  # another run would end here, too
                remove(partial)
                raise
        remove(entry)
        partial.rename(entry)
        found = Statistics(entry)
        found.tidy()
    clean(folder, limit)
    return found


def _found(entry: Path) -> Statistics | None:
    """The statistics in `entry`; None where there are none, or damaged ones."""
    try:
        found = Statistics(entry)
        found.check()
    except (OSError, ValueError):
        return None
    with contextlib.suppress(OSError):  # nobody may write there
        os.utime(entry / INDEX)
    return found


def clean(folder: Path, limit: int) -> None:
    """Delete what was used longest ago until the rest takes at most `limit` bytes.

    What is in use, in this process or another, stays.
    """
    entries = []
    for path in folder.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # another process deletes it
            if path.is_dir() and not path.is_symlink():
                files = [file.stat() for file in path.iterdir()]
                used = max((file.st_mtime for file in files), default=0.0)
                entries.append((used, sum(file.st_size for file in files), path))
    total = sum(size for _, size, _ in entries)
    for _, size, path in sorted(entries):
        if total <= limit:
            return
        lock = path.with_name(path.name.removesuffix(_PARTIAL) + _LOCK)
        if not is_held(path / INDEX) and not is_held(lock):
            with contextlib.suppress(OSError):
                remove(path)
                total -= size
