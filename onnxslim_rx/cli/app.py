"""From arguments to an exit code. What a user did wrong is one line, what we did one paragraph."""

from __future__ import annotations

import importlib
import logging
import os
import platform
import shlex
import sys
import tempfile
import traceback
import warnings
from collections.abc import Sequence

from onnxslim_rx.cli.parser import PROG, build_parser
from onnxslim_rx.errors import OnnxslimError

__all__ = ["main"]

_INTERRUPTED = 130
_BUG = 3
_PACKAGES = ("onnxslim-rx", "onnx", "onnx-ir", "onnxruntime", "numpy")
_HOMES = {
    "optimize": "build",
    "simplify": "build",
    "plan": "build",
    "quantize": "build",
    "dequantize": "build",
    "inspect": "look",
    "compare": "look",
    "bench": "look",
    "passes": "lists",
    "devices": "lists",
    "completion": "lists",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments without the program's name; None: those of the process.

    Returns:
        The exit code: 0 done, 1 promise not kept, 2 bad usage or input, 3 a bug of ours,
        130 interrupted.

    Raises:
        SystemExit: after `--help`, and with 2 after a usage error.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(words)
    except KeyboardInterrupt:
        _say("interrupted")
        return _INTERRUPTED
    except OnnxslimError as error:
        if error.exit_code == _BUG:
            return _report_bug(error, words)
        _say(str(error))
        return error.exit_code
    except MemoryError:
        _say("there is not enough memory for this model and these options")
        return 2
    except OSError as error:
        if error.filename is None and error.errno is None:
            return _report_bug(error, words)
        _say(str(error))  # the disk or the system: not our doing, and it says what it is
        return 2
    except Exception as error:  # noqa: BLE001  # whatever is left is a bug and must look like one
        return _report_bug(error, words)


def _run(words: list[str]) -> int:
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # names of layers may not fit the terminal's encoding
            stream.reconfigure(errors="backslashreplace")
    parser = build_parser()
    args = parser.parse_args(words)
    if args.version:
        from onnxslim_rx import __version__

        sys.stdout.write(f"{PROG} {__version__}\n")
        return 0
    if args.verb is None:
        parser.print_help()
        return 2
    _hush_libraries()
    args.command = shlex.join([PROG, *words])
    verb = getattr(importlib.import_module(f"onnxslim_rx.cli.{_HOMES[args.verb]}"), args.verb)
    code: int = verb(args)
    return code


def _hush_libraries() -> None:
    """Warnings of libraries mean nothing to a user; ours go to standard error, one line each."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    logging.getLogger().addHandler(logging.NullHandler())
    ours = logging.getLogger("onnxslim_rx")
    if not ours.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter(f"{PROG}: %(message)s"))
        ours.addHandler(handler)


def _say(text: str) -> None:
    from onnxslim_rx.report.text import printable

    sys.stderr.write(f"{PROG}: {printable(text)}\n")


def _report_bug(error: BaseException, words: list[str]) -> int:
    if os.environ.get("ONNXSLIM_RX_DEBUG") == "1":
        traceback.print_exception(error)
        return _BUG
    lines = [
        f"command: {shlex.join([PROG, *words])}",
        f"python: {platform.python_version()} on {platform.platform()}",
        *map(_version, _PACKAGES),
        "",
        "".join(traceback.format_exception(error)),
    ]
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix=f"{PROG}-", suffix=".log", delete=False, encoding="utf-8", errors="replace"
        ) as log:
            log.write("\n".join(lines))
        where = f"{log.name}, which holds the traceback, the command and the versions"
    except OSError:
        where = "the traceback, which ONNXSLIM_RX_DEBUG=1 shows"
    what = f"{type(error).__name__}: {error}".splitlines()[0][:300]
    _say(
        f"this is a bug of {PROG}, not of your model: {what}. Please report it to the project"
        f" together with {where}; look through it for names that you would rather not share."
    )
    return _BUG


def _version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"{package} is not installed"
