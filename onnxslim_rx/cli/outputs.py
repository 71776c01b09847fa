"""Where results go: checked before hours of work, written after them."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxslim_rx.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["check_outputs", "reader_may_leave", "show"]

STDOUT = "-"


def check_outputs(outputs: Mapping[str, str | None], inputs: Mapping[str, str | None]) -> None:
    """Check that every output can be written, and overwrites neither an input nor another output.

    Args:
        outputs: path by option, None where the option was not given.
        inputs: the same for what is read.

    Raises:
        InputError: a folder is missing or not writable, or two paths are the same file.
    """
    taken = {_real(path): option for option, path in inputs.items() if path is not None}
    for option, path in outputs.items():
        if path is None or (option == "--json" and path == STDOUT):
            continue
        real = _real(path)
        if real in taken:
            raise InputError(
                f"{option} {path} is the same file as {taken[real]}", advice="give another name"
            )
        taken[real] = option
        if Path(path).is_dir():
            raise InputError(f"{option} {path} is a folder", expected="the name of a file")
        _check_folder(Path(path).parent, option)


def _real(path: str) -> str:
    return os.path.realpath(path)


def _check_folder(folder: Path, option: str) -> None:
    if not folder.is_dir():
        raise InputError(f"the folder {folder} of {option} does not exist", advice="make it first")
    try:  # the only reliable test: permissions, full disks and read-only mounts all show
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            f"cannot write {option} into the folder {folder}: {error.strerror}"
        ) from error


@contextlib.contextmanager
def reader_may_leave() -> Iterator[None]:
    """Printing inside ends quietly when the reader of a pipe has gone, as `| head` does."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        # the interpreter flushes once more at exit, into nothing
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def show(
    args: argparse.Namespace, table: Mapping[str, Any], draw: Callable[[Console], None]
) -> None:
    """Write `table` where `--json` says; draw tables unless standard output is taken or quiet."""
    from onnxslim_rx.report.codec import encode

    text = json.dumps(encode(table), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if args.json == STDOUT:
        with reader_may_leave():
            sys.stdout.write(text)
        return
    if args.json:
        from onnxslim_rx.ir import write_text

        write_text(args.json, text)
    if not args.quiet:
        from onnxslim_rx.report.tables import make_console

        with reader_may_leave():
            draw(make_console())
