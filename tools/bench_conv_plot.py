"""Accuracy over multiply-adds and over latency for every method, the mix and the peers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from tools.bench_conv_cifar import MIX, Row

__all__ = ["draw"]


def draw(rows: Sequence[Row], path: Path) -> None:
    """Two panels; peers dashed, uniform allocation dotted, the mix black."""
    from matplotlib.figure import Figure

    usable = [row for row in rows if not math.isnan(row.accuracy[1])]
    methods = list(dict.fromkeys(row.method for row in usable))
    colours = {name: "black" if name == MIX else f"C{i % 10}" for i, name in enumerate(methods)}
    figure = Figure(figsize=(13, 5.5), layout="constrained")
    work, time = figure.subplots(1, 2, sharey=True)
    for method, allocation in dict.fromkeys((row.method, row.allocation) for row in usable):
        mine = [row for row in usable if (row.method, row.allocation) == (method, allocation)]
        peer = mine[0].is_peer
        style = {
            "color": colours[method],
            "linestyle": "--" if peer else ":" if allocation == "uniform" else "-",
            "marker": "x" if peer else "o",
            "linewidth": 2.5 if method == MIX else 1.2,
            "label": method if peer else f"{method}, {allocation}",
        }
        for panel, where in ((work, [r.kept for r in mine]), (time, [r.ratio for r in mine])):
            reached = [100.0 * row.accuracy[1] for row in mine]
            points = sorted(zip(where, reached, strict=True))
            panel.plot([x for x, _ in points], [y for _, y in points], **style)
    for panel in (work, time):
        if usable:
            panel.axhline(100.0 * usable[0].accuracy[0], color="grey", linewidth=0.8)
        panel.grid(alpha=0.3)
    work.set(xlabel="share of the multiply-adds kept", ylabel="top-1, %, held out")
    time.set(xlabel="latency, of the original's")
    work.legend(fontsize="x-small", ncols=2)
    figure.savefig(path)
