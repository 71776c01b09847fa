"""Files that are there completely or not at all, whatever happens while they are written."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from onnxslim_rx.errors import InputError

__all__ = ["PARTIAL", "partial", "write_text"]

PARTIAL = ".rx-partial"
"""Ending of a file that is being written; what a killed process left may be deleted."""


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file in UTF-8, completely or not at all.

    Raises:
        InputError: the path cannot be written, or the disk is full.
    """
    with partial(Path(path)) as file:
        file.write(text.encode())


@contextmanager
def partial(target: Path) -> Iterator[BinaryIO]:
    """A file to write to that becomes `target` at the end of the `with` block.

    Until then it is a temporary file in the same folder, which is removed if the block raises.

    Raises:
        InputError: the path cannot be written, or the disk is full.
    """
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}{PARTIAL}")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except OSError as error:
        raise InputError(f"cannot write {target}: {error.strerror}") from error
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()
