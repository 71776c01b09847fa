"""Verbs that measure: inspect, compare, bench."""

from __future__ import annotations

import argparse
import contextlib
from typing import TYPE_CHECKING

from onnxslim_rx.cli.outputs import check_outputs, show

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["bench", "compare", "inspect"]


def inspect(args: argparse.Namespace) -> int:
    """Show what each layer holds and costs, and its spectra."""
    inputs = {"MODEL": args.model, "--calibration": args.calibration}
    check_outputs({"--json": args.json, "--html": args.html}, inputs)
    if args.html:
        from onnxslim_rx.report.html import require_html

        require_html()
    from onnxslim_rx import api

    with _bars(args):
        found = api.inspect(
            args.model,
            calibration=args.calibration,
            spectra=args.spectra,
            memory_bytes=args.calibration_memory,
        )
    table = found.to_dict()
    if args.html:
        from onnxslim_rx.ir import write_text
        from onnxslim_rx.report.html import inspection_to_html

        write_text(args.html, inspection_to_html(args.model, found))

    def draw(console: Console) -> None:
        from onnxslim_rx.report.spectra import print_spectra
        from onnxslim_rx.report.tables import show_line
        from onnxslim_rx.report.views import print_inspection

        print_inspection(console, table, top=args.top)
        if args.spectra:
            console.print()
            print_spectra(console, found.spectra, top=args.top)
        if args.html:
            show_line(console, f"wrote {args.html}")

    show(args, table, draw)
    return 0


def compare(args: argparse.Namespace) -> int:
    """Compare the outputs of two models."""
    inputs = {"A": args.a, "--calibration": args.calibration}
    check_outputs({"--json": args.json}, {**inputs, "B": args.b})
    from onnxslim_rx import api

    with _bars(args):
        table = api.compare(args.a, args.b, inputs=args.calibration).to_dict()

    def draw(console: Console) -> None:
        from onnxslim_rx.report.views import print_comparison

        print_comparison(console, table)

    show(args, table, draw)
    return 0


def bench(args: argparse.Namespace) -> int:
    """Measure models side by side."""
    models = {f"MODEL {path}": path for path in args.models}
    check_outputs({"--json": args.json}, {**models, "--calibration": args.calibration})
    from onnxslim_rx import api

    table = api.bench(
        args.models,
        calibration=args.calibration,
        metric=args.metric,
        device=args.device,
        profile=args.profile,
        progress=not args.quiet,
    ).to_dict()

    def draw(console: Console) -> None:
        from onnxslim_rx.report.device_views import print_profile
        from onnxslim_rx.report.views import print_benchmark

        print_benchmark(console, table)
        for row in table["rows"] if args.profile else ():
            print_profile(console, row["name"], row["profile"], table["samples"])

    show(args, table, draw)
    return 0


def _bars(args: argparse.Namespace) -> contextlib.AbstractContextManager[None]:
    from onnxslim_rx.progress import listen
    from onnxslim_rx.report.listener import progress_listener

    return listen(None if args.quiet else progress_listener())
