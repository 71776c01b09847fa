"""Small files that tell when they are damaged, and locks on files."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if sys.platform != "win32":
    import fcntl

__all__ = ["alone", "checksum_of", "hold", "is_held", "read_checked", "remove", "write_checked"]

_MOST_DIGITS = 10  # of a checksum


def write_checked(path: Path, content: Any) -> None:
    """Write plain data as JSON behind a checksum, completely or not at all."""
    text = json.dumps(content)
    fresh = path.with_name(f"{path.name}.new")
    with fresh.open("w", encoding="utf-8") as file:
        file.write(f"{zlib.crc32(text.encode())} {text}")
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def read_checked(path: Path) -> Any:
    """What `write_checked` wrote.

    Raises:
        OSError, ValueError: the file is missing or damaged.
    """
    checksum, _, text = path.read_text(encoding="utf-8").partition(" ")
    if len(checksum) > _MOST_DIGITS or int(checksum) != zlib.crc32(text.encode()):
        raise ValueError(f"{path} is damaged")
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError(f"{path} is damaged") from error


def checksum_of(path: Path) -> int:
    """CRC-32 of a file."""
    checksum = 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            checksum = zlib.crc32(chunk, checksum)
    return checksum


def remove(path: Path) -> None:
    """Delete a file, a link or a folder with all that is in it, where there is one."""
    if path.is_symlink() or path.is_file():
        path.unlink(missing_ok=True)
    elif path.exists():
        shutil.rmtree(path)


def hold(path: Path) -> int:
    """Open `path` so that `is_held` is true of it until the descriptor is closed."""
    descriptor = os.open(path, os.O_RDONLY)
    if sys.platform != "win32":
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    return descriptor


def is_held(path: Path) -> bool:
    """Whether somebody holds `path`, in this process or another; False where it is not there."""
    if sys.platform == "win32":
        return False
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return False
    finally:
        os.close(descriptor)
    return False


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Wait until no other process is between `alone(path)` and its end.

    The file `path` is there meanwhile. The system ends the wait also where the other is killed.
    Where the system has no locks, nothing waits.
    """
    if sys.platform == "win32":
        yield
        return
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        # whoever held it before has deleted the file: a newcomer would lock another one
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                break
        os.close(descriptor)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)
