"""What `plan` prints: what would be done to each layer, and the curve of plans."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from onnxslim_rx.report.console import stages_text
from onnxslim_rx.report.model import LayerRow, Report, Rung
from onnxslim_rx.report.tables import show_line, show_table
from onnxslim_rx.report.text import bytes_text, cosine_text, ms_text, number_text
from onnxslim_rx.report.verdict import full_ladder, headline, is_tried, why_nothing

__all__ = ["print_plan"]


def print_plan(console: Console, report: Report, *, saved: str | None) -> None:
    """Print what a plan does to each layer that it changes, and the plans it was chosen from.

    Args:
        console: from `tables.make_console`.
        report: of the run that made the plan.
        saved: where the plan was written.
    """
    changed = [layer for layer in report.layers if layer.changed]
    title = f"{len(changed)} of {len(report.layers)} layers would be changed"
    if changed:
        timed = any(layer.latency_before_ms is not None for layer in changed)
        columns = ["layer", "what would be done", "error", "damage", "IN", "OUT"]
        columns += ["time IN > OUT"] if timed else []
        rows = [_layer(layer)[: len(columns)] for layer in changed]
        words = columns[:2]
        show_table(console, columns, rows, title=title, words=words, optional=columns[6:])
        show_line(
            console,
            "error: of the layer's output; damage: 1 - cosine of the model's, both predicted",
            "dim",
        )
    else:
        show_line(console, title)
        for why, count in why_nothing(report):
            show_line(console, f"  {count} {'layer' if count == 1 else 'layers'}: {why}")
    _print_curve(console, full_ladder(report))
    console.print()
    show_line(console, headline(report), "bold")
    for note in report.notes:
        show_line(console, f"note: {note}", "yellow")
    where = f"wrote {saved}" if saved else "-o FILE writes the plan"
    show_line(console, f"{where}; optimize --plan FILE carries it out", "dim")


def _layer(layer: LayerRow) -> Sequence[object]:
    before, after = ms_text(layer.latency_before_ms), ms_text(layer.latency_after_ms)
    return (
        layer.name,
        stages_text(layer.stages),
        number_text(layer.error),
        number_text(layer.damage),
        bytes_text(layer.bytes_before),
        bytes_text(layer.bytes_after),
        "-" if layer.latency_before_ms is None else f"{before} > {after}",
    )


def _print_curve(console: Console, rungs: Sequence[Rung]) -> None:
    """Quality against size and latency, predicted and measured, from untouched to smallest."""
    if len(rungs) < 2:
        return
    rows = [
        (
            rung.name,
            bytes_text(rung.bytes),
            ms_text(rung.predicted_ms),
            ms_text(rung.latency_ms),
            cosine_text(rung.predicted),
            cosine_text(rung.cosine) if is_tried(rung) else "-",
            "*" if rung.chosen else "missed" if rung.passed is False else "",
        )
        for rung in rungs
    ]
    console.print()
    show_table(
        console,
        ["plan", "size", "time predicted", "measured", "cosine predicted", "measured", "chosen"],
        rows,
        title="plans, predicted and measured",
        words=["plan"],
    )
