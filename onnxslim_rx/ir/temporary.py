"""Temporary folders that do not outlive those who need them, whatever ends the process."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
import time
import weakref
from pathlib import Path
from typing import BinaryIO

if sys.platform != "win32":
    import fcntl

__all__ = ["TemporaryFolder"]

_PREFIX = "onnxslim-rx-own-"
_LOCK = "lock"
_YOUNG = 60.0  # seconds for which a folder may be without a lock, because it is being made


class TemporaryFolder:
    """A folder that is deleted with this object, or when the process ends.

    What a killed process left is deleted when the next such folder is made: a process holds a lock
    as long as it lives.

    Attributes:
        path: the folder, links resolved; it holds a file `lock`.
    """

    def __init__(self) -> None:
        _tidy()
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX)).resolve()
        lock = (self.path / _LOCK).open("xb")
        with contextlib.suppress(OSError):  # a file system without locks: never tidied
            _take(lock)
        self.close = weakref.finalize(self, _remove, self.path, lock, os.getpid())
        """Delete the folder now."""


def _tidy() -> None:
    if sys.platform == "win32":
        return
    with contextlib.suppress(OSError):
        for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
            with contextlib.suppress(OSError):
                about = path.lstat()
                if about.st_uid != os.getuid() or time.time() - about.st_mtime < _YOUNG:
                    continue
                if path.is_dir() and not path.is_symlink() and not _is_held(path / _LOCK):
                    shutil.rmtree(path, ignore_errors=True)


def _take(file: BinaryIO) -> None:
    if sys.platform != "win32":
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_held(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            _take(file)
    except FileNotFoundError:  # killed before it was made
        return False
    except OSError:
        return True
    return False


def _remove(folder: Path, lock: BinaryIO, owner: int) -> None:
    lock.close()
    if os.getpid() == owner:  # and no child that was forked
        shutil.rmtree(folder, ignore_errors=True)
