"""Tables of what was looked at rather than made: layers, differences, timings, passes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from onnxslim_rx.report.tables import show_line, show_table
from onnxslim_rx.report.text import (
    bytes_text,
    cosine_text,
    count_text,
    ms_text,
    number_text,
    percent_text,
    ratio_text,
)

__all__ = [
    "print_benchmark",
    "print_comparison",
    "print_inspection",
    "print_passes",
]

Table = Mapping[str, Any]


def print_inspection(console: Console, inspection: Table, *, top: int) -> None:
    """Print what a model holds and costs.

    Args:
        console: from `tables.make_console`.
        inspection: from `analysis.Inspection.to_dict`.
        top: at most this many rows, the largest ones, in the order of the model; 0: all.
    """
    totals, rows = inspection["totals"], inspection["rows"]
    _print_model(console, totals)
    largest = sorted(rows, key=lambda row: (row["bytes"], row["macs"] or 0), reverse=True)
    kept = {id(row) for row in (largest[:top] if top else largest)}
    shown = [row for row in rows if id(row) in kept and (row["params"] or row["macs"])]
    console.print()
    show_table(
        console,
        ["layer", "op", "shape", "params", "MACs", "size", "share", "rank", "compressible"],
        [_inspection_row(row) for row in shown],
        words=["layer", "op", "shape", "compressible"],
        optional=["shape", "rank", "op"],
    )
    if len(kept) < len(rows):
        show_line(console, f"and {len(rows) - len(kept)} more (--top 0 shows all)", "dim")
    show_line(
        console, "rank: the least that keeps 99 % of the weight's energy, of the full one", "dim"
    )
    for reason in totals["macs_unknown"]:
        show_line(console, f"note: multiply-adds are incomplete: {reason}", "yellow")
    if totals["assumed"]:
        sizes = ", ".join(f"{name} = {size}" for name, size in totals["assumed"].items())
        show_line(console, f"note: multiply-adds are for {sizes}", "yellow")
    if totals["duplicate_bytes"]:
        size = bytes_text(totals["duplicate_bytes"])
        show_line(console, f"note: {size} are stored twice; simplify merges them", "yellow")


def _print_model(console: Console, totals: Table) -> None:
    opsets = ", ".join(f"{name or 'ai.onnx'} {n}" for name, n in totals["opsets"].items())
    ops = [f"{op} {count}" for op, count in list(totals["ops"].items())[:6]]
    rows = [
        ("file", bytes_text(totals["file_bytes"])),
        ("parameters", count_text(totals["params"])),
        ("compressible", f"{bytes_text(totals['compressible_bytes'])} of weights"),
        ("multiply-adds", count_text(totals["macs"])),
        (
            "nodes",
            f"{totals['nodes']}: {', '.join(ops)}{', ...' if len(totals['ops']) > 6 else ''}",
        ),
        ("opsets", opsets),
        ("producer", totals["producer"] or "-"),
        *(("input", _port(port)) for port in totals["inputs"]),
        *(("output", _port(port)) for port in totals["outputs"]),
    ]
    show_table(console, ["model", ""], rows, words=["model", ""])


def _port(port: Table) -> str:
    shape = "unknown shape" if port["shape"] is None else _shape(port["shape"])
    return f"{port['name']}: {port['type']} {shape}"


def _shape(shape: Sequence[object]) -> str:
    return f"[{', '.join('?' if size is None else str(size) for size in shape)}]"


def _inspection_row(row: Table) -> Sequence[object]:
    return (
        row["name"],
        row["op"] or "-",
        _shape(row["shape"]) if row["params"] else "-",
        count_text(row["params"]),
        count_text(row["macs"]),
        bytes_text(row["bytes"]),
        percent_text(row["share"]),
        _rank(row),
        "yes" if row["compressible"] else f"no: {row['why']}",
    )


def _rank(row: Table) -> str:
    shape = row["shape"]
    if row["rank99"] is None or len(shape) < 2:
        return "-"
    full = min(shape[0], math.prod(shape[1:]))
    return f"{row['rank99']}/{full}"


def print_comparison(console: Console, comparison: Table) -> None:
    """Print how far one model's outputs are from another's.

    Args:
        console: from `tables.make_console`.
        comparison: from `verify.Comparison.to_dict`.
    """
    rows = [
        (
            output["name"],
            cosine_text(output["cosine_mean"]),
            cosine_text(output["cosine_p5"]),
            cosine_text(output["cosine_min"]),
            "exact" if output["max_abs"] == 0 else number_text(output["snr_db"]),
            number_text(output["max_abs"]),
            number_text(output["max_rel"]),
            percent_text(output["agreement"]),
        )
        for output in comparison["outputs"]
    ]
    columns = ["output", "cosine", "p5", "min", "SNR dB", "max abs", "max rel", "agreement"]
    if all(output["agreement"] is None for output in comparison["outputs"]):
        columns = columns[:-1]
        rows = [row[:-1] for row in rows]  # type: ignore[misc]  # one column less
    show_table(console, columns, rows, words=["output"])
    show_line(console, f"compared on {comparison['samples']} samples", "dim")
    for output in comparison["outputs"]:
        for failure in output["failures"]:
            show_line(console, f"note: {output['name']}: {failure}", "red")


def print_passes(console: Console, passes: Sequence[Any]) -> None:
    """Print the passes that are installed.

    Args:
        console: from `tables.make_console`.
        passes: `registry.PassInfo` of each.
    """
    rows = [(info.name, info.kind, info.summary, info.distribution) for info in passes]
    columns = ["pass", "kind", "what it does", "from"]
    show_table(console, columns, rows, words=columns, optional=["from"])


def print_benchmark(console: Console, benchmark: Table) -> None:
    """Print measured models side by side; those that no other beats in everything are marked.

    Args:
        console: from `tables.make_console`.
        benchmark: from `api.Benchmark.to_dict`.
    """
    rows = benchmark["rows"]
    quality = "metric" if any(row["metric"] is not None for row in rows) else "cosine"
    text = number_text if quality == "metric" else cosine_text
    show_table(
        console,
        ["model", "size", "params", "latency", "p10", "p90", "ratio", "memory", quality, "best"],
        [
            (
                row["name"],
                bytes_text(row["bytes"]),
                count_text(row["params"]),
                ms_text(row["latency_ms"]),
                ms_text(row["p10"]),
                ms_text(row["p90"]),
                ratio_text(row["ratio"]),
                bytes_text(row["memory_bytes"]),
                text(row[quality]),
                "*" if row["pareto"] else "",
            )
            for row in rows
        ],
        words=["model"],
    )
    show_line(console, f"{benchmark['samples']} samples, by turns; latency of one sample", "dim")
    show_line(console, f"best: no other model is as good in size, latency and {quality}", "dim")
    for note in benchmark["notes"]:
        show_line(console, f"note: {note}", "yellow")
