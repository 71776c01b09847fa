"""What `optimize` and `simplify` say at the end: sizes in and out, verdict, layers, reasons."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

from rich.console import Console

from onnxslim_rx.report.model import LayerRow, PassRow, Report
from onnxslim_rx.report.tables import show_line, show_table
from onnxslim_rx.report.text import (
    bytes_text,
    change_text,
    cosine_text,
    count_text,
    ms_text,
    number_text,
    ratio_text,
    seconds_text,
)
from onnxslim_rx.report.verdict import headline, promises, why_nothing

__all__ = ["print_profile", "print_report", "stages_text"]

_OPERATORS = 12
"""Operators that are listed; a line that runs over helps nobody."""


def print_report(console: Console, report: Report, *, top: int = 10) -> None:
    """Print what a run did.

    Args:
        console: from `tables.make_console`.
        report: of the run.
        top: at most this many changed layers are listed, those that save most bytes; 0: all.
    """
    _print_totals(console, report)
    kept = not report.failure and all(promise.kept is not False for promise in promises(report))
    show_line(console, headline(report), "bold green" if kept else "bold red")
    _print_operators(console, report)
    _print_changed(console, report.layers, top)
    _print_unchanged(console, report)
    for note in report.notes:
        show_line(console, f"note: {note}", "yellow")


def _print_totals(console: Console, report: Report) -> None:
    quality, latency = report.quality, report.latency_ms
    counts: list[tuple[str, float | None, float | None, Callable[[float | None], str]]] = [
        ("size", report.bytes.before, report.bytes.after, bytes_text),
        ("parameters", report.params.before, report.params.after, count_text),
        ("operations", report.flops.before, report.flops.after, count_text),
        ("nodes", report.nodes.before, report.nodes.after, count_text),
    ]
    rows = [
        (name, text(before), text(after), change_text(before, after))
        for name, before, after, text in counts
        if before is not None or after is not None
    ]
    if latency.ratio is not None:
        times = ms_text(latency.before), ms_text(latency.after)
        rows.append(("latency", *times, ratio_text(latency.ratio)))
    cosine = quality.cosine
    if cosine.mean is not None:
        spread = f"p5 {cosine_text(cosine.p5)}, min {cosine_text(cosine.min)}"
        rows.append(("cosine", "", cosine_text(cosine.mean), spread))
    if quality.snr_db is not None and math.isfinite(quality.snr_db):
        rows.append(("SNR", "", f"{quality.snr_db:.1f} dB", ""))
    if quality.metric:
        metric = quality.metric
        spread = " to ".join(
            f"{bound + 0.0:+.2g}" for bound in metric.interval if bound is not None
        )
        values = number_text(metric.before), number_text(metric.after)
        rows.append((metric.name, *values, f"change {spread}" if spread else ""))
    show_table(console, ["", "IN", "OUT", "change"], rows, words=["", "change"])


def stages_text(stages: Sequence[str]) -> str:
    """Stages with their numbers alone: "factorize-gemm rank=96 + quantize-weights bits=8"."""
    short = []
    for stage in stages:
        name, _, options = stage.partition("(")
        short.append(" ".join([name, *re.findall(r"\w+=-?[\d.]+(?=[,)])", options)]))
    return " + ".join(short)


def _print_changed(console: Console, layers: Sequence[LayerRow], top: int) -> None:
    def saved(layer: LayerRow) -> int:
        return (layer.bytes_before or 0) - (layer.bytes_after or 0)

    changed = sorted((layer for layer in layers if layer.changed), key=saved, reverse=True)
    if not changed:
        return
    console.print()
    rows = [
        (
            layer.name,
            layer.op,
            stages_text(layer.stages),
            bytes_text(layer.bytes_before),
            bytes_text(layer.bytes_after),
            number_text(layer.error),
            layer.why,
        )
        for layer in changed[: top or None]
    ]
    show_table(
        console,
        ["layer", "op", "done", "IN", "OUT", "error", "why"],
        rows,
        title=f"{len(changed)} of {len(layers)} layers changed",
        words=["layer", "op", "done", "why"],
        optional=["why", "op"],
    )
    if top and len(changed) > top:
        show_line(console, f"and {len(changed) - top} more", "dim")


def _print_operators(console: Console, report: Report) -> None:
    """How often operators occur before and after, those that change most first."""
    changes = {
        name: (int(count.before or 0), int(count.after))
        for name, count in report.operators.items()
        if count.after is not None and count.before != count.after
    }
    ranked = sorted(changes.items(), key=lambda item: (-abs(item[1][1] - item[1][0]), item[0]))
    texts = [f"{name} {before} -> {after}" for name, (before, after) in ranked]
    if texts:
        more = f", and {len(texts) - _OPERATORS} more" if len(texts) > _OPERATORS else ""
        console.print()
        show_line(console, "nodes by operator: " + ", ".join(texts[:_OPERATORS]) + more)


def _print_unchanged(console: Console, report: Report) -> None:
    reasons = why_nothing(report)
    if not report.layers and report.ladder:  # clean-up alone looks at no layer
        show_line(console, "the model has no layer that can be compressed")
    if reasons:
        console.print()
        some = any(layer.changed for layer in report.layers)
        show_line(console, "left as they were:" if some else "why nothing was changed:")
    for why, count in reasons:
        show_line(console, f"  {count} {'layer' if count == 1 else 'layers'}: {why}")


def print_profile(console: Console, passes: Sequence[PassRow]) -> None:
    """Print what each pass did and cost (`--profile`)."""
    console.print()
    if not passes:
        show_line(console, "no pass ran")
        return
    told = [row for row in passes if row.rewritten or row.changed or row.remarks]
    rows = [
        (
            row.name,
            row.calls,
            seconds_text(row.seconds),
            seconds_text(row.cpu_seconds),
            row.rewritten,
            row.remarks,
        )
        for row in told
    ]
    if quiet := [row for row in passes if row not in told]:
        wall, cpu = (sum(getattr(r, key) for r in quiet) for key in ("seconds", "cpu_seconds"))
        name = f"{len(quiet)} that found nothing"
        rows.append((name, 0, seconds_text(wall), seconds_text(cpu), 0, ""))
    columns = ["pass", "calls", "time", "CPU time", "rewritten", "left alone"]
    words = ["pass", "left alone"]
    show_table(console, columns, rows, title="passes", words=words, optional=["left alone"])
