"""Verbs that list what is there: passes, devices, completion."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from typing import TYPE_CHECKING, Any

from onnxslim_rx.cli.outputs import check_outputs, reader_may_leave, show
from onnxslim_rx.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["completion", "devices", "passes"]

_FILES = ("FILE", "MODEL", "OUT", "A", "B", "PATH", "FILE.html", "NAME|FILE.toml")


def passes(args: argparse.Namespace) -> int:
    """List the passes that are installed."""
    check_outputs({"--json": args.json}, {})
    from onnxslim_rx import registry
    from onnxslim_rx.pipeline import OPTIONAL

    found = [
        dataclasses.replace(info, kind="optional") if info.name in OPTIONAL else info
        for info in registry.describe()
    ]

    def draw(console: Console) -> None:
        from onnxslim_rx.report.views import print_passes

        print_passes(console, found)

    show(args, {"passes": [dataclasses.asdict(info) for info in found]}, draw)
    return 0


def devices(args: argparse.Namespace) -> int:
    """List the devices of this machine."""
    check_outputs({"--json": args.json}, {})
    from onnxslim_rx.runtime import library_path, survey

    found = survey()
    tests = library_path() is not None and not args.no_selftest
    rows = []
    for device in found.devices:
        test = _selftest(device.spec) if tests else None
        rows.append({**dataclasses.asdict(device), "selftest": test})
    tried = [{"library": name, "found": has} for name, has in found.tried]

    def draw(console: Console) -> None:
        from onnxslim_rx.report.device_views import print_devices

        print_devices(console, rows, tried, found.why)

    show(args, {"devices": rows, "tried": tried, "why": found.why}, draw)
    return int(any(row["selftest"] and not row["selftest"]["ok"] for row in rows))


def _selftest(spec: str) -> dict[str, Any]:
    """What the self-test of a device gave."""
    from onnxslim_rx.runtime import selftest

    test = selftest(spec)
    return {**dataclasses.asdict(test), "errors": test.errors}


def completion(args: argparse.Namespace) -> int:
    """Print a completion script."""
    try:
        import shtab
    except ImportError:
        raise InputError(
            "shell completion needs shtab, which is not installed", advice="pip install shtab"
        ) from None
    from onnxslim_rx.cli.parser import build_parser

    parser = build_parser()
    verbs = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    for verb in verbs.choices.values():
        for action in verb._actions:
            if action.metavar in _FILES:
                action.complete = shtab.FILE  # read by shtab
    with reader_may_leave():
        sys.stdout.write(shtab.complete(parser, shell=args.shell) + "\n")
    return 0
