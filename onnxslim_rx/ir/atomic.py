"""Files that are there completely or not at all, whatever happens while they are written."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from onnxslim_rx.errors import InputError

__all__ = ["PARTIAL", "complete_files", "write_text"]

PARTIAL = ".rx-partial"
"""Ending of a file that is being written; what a killed process left may be deleted."""

_ADVICE = {
    errno.ENOSPC: "free some space, or choose a folder on another disk",
    errno.EDQUOT: "free some space, or choose a folder on another disk",
    errno.EFBIG: "raise the limit of the file size, or choose another disk",
    errno.EACCES: "choose a folder that you may write to",
    errno.EPERM: "choose a folder that you may write to",
    errno.EROFS: "choose a folder that you may write to",
}


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file in UTF-8, completely or not at all.

    Raises:
        InputError: the path cannot be written, or the disk is full.
    """
    with complete_files(Path(path)) as [file]:
        file.write(text.encode())


@contextlib.contextmanager
def complete_files(*targets: Path) -> Iterator[list[BinaryIO]]:
    """Files to write to, which become `targets` together at the end of the `with` block.

    Until then they are temporary files in the same folders, which are removed if the block
    raises. A target other than the last must make no sense without the last one.

    Raises:
        InputError: a path cannot be written, or the disk is full.
    """
    for target in targets:
        _check_target(target)
    names = [target.name[:40] for target in targets]  # a longer one could be too long now
    temporaries = [
        target.with_name(f".{name}.{secrets.token_hex(4)}{PARTIAL}")
        for target, name in zip(targets, names, strict=True)
    ]
    try:
        with contextlib.ExitStack() as stack:
            files: list[BinaryIO] = [stack.enter_context(path.open("xb")) for path in temporaries]
            yield files
            for file in files:
                file.flush()
                os.fsync(file.fileno())
        _publish(temporaries, targets)
    except OSError as error:
        reason = error.strerror or str(error)
        advice = _ADVICE.get(error.errno or 0, "")
        raise InputError(f"cannot write {targets[-1]}: {reason}", advice=advice) from error
    finally:
        for path in temporaries:
            path.unlink(missing_ok=True)


def _check_target(target: Path) -> None:
    if "\0" in str(target) or not target.name:
        raise InputError(f"the output path {str(target)!r} is not the name of a file")
    try:
        if not target.parent.is_dir():
            raise InputError(
                f"cannot write {target}: {target.parent} is not a folder",
                advice="create it first, or choose another one",
            )
        if target.exists() and not target.is_file():  # a folder, or a device such as /dev/null
            raise InputError(
                f"cannot write {target}: it exists and is not a file", advice="choose another name"
            )
    except OSError as error:
        raise InputError(f"cannot write {target}: {error.strerror}") from error


def _publish(temporaries: Sequence[Path], targets: Sequence[Path]) -> None:
    """Give complete files their names; afterwards all targets are new, or the last is missing."""
    if len(targets) > 1:
        # an old last file must never be seen with the new ones that it refers to
        targets[-1].unlink(missing_ok=True)
    placed: list[Path] = []
    try:
        for temporary, target in zip(temporaries, targets, strict=True):
            placed.append(target)
            temporary.replace(target)
    except BaseException:  # also an interruption: no file without the others
        for target in placed[:-1]:
            target.unlink(missing_ok=True)
        raise
    for folder in {target.parent for target in targets}:
        _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    """Make new names in `folder` survive a power cut, where the system can do so."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
