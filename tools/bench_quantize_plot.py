"""Cosine over bytes and over latency on both domains, our front and every peer's point."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tools.bench_quantize_data import DOMAINS
from tools.bench_quantize_rows import Row

__all__ = ["draw", "front"]

MARKERS = ("o", "s", "^", "D", "v")


def draw(rows: Sequence[Row], path: Path) -> None:
    """A row of panels for each domain; peers are numbered as in the legend."""
    from matplotlib.figure import Figure

    usable = [row for row in rows if not row.error]
    peers = [row for row in usable if row.peer]
    tools = list(dict.fromkeys(row.name.split()[0] for row in peers))
    figure = Figure(figsize=(14, 10), layout="constrained")
    panels = figure.subplots(len(DOMAINS), 2)
    for domain, (size, time) in zip(DOMAINS, panels, strict=True):
        size.set(xlabel="bytes, of float32's", xscale="log")
        time.set(xlabel="latency of 32 tokens, of float32's", xscale="log")
        for panel, costs in ((size, [1 / row.times_smaller for row in usable]),
                             (time, [row.ratio for row in usable])):  # fmt: skip
            points = [(c, 1.0 - r.cosine[domain][0]) for c, r in zip(costs, usable, strict=True)]
            own = front([p for p, row in zip(points, usable, strict=True) if not row.peer])
            panel.plot(*zip(*own, strict=True), "k.-", drawstyle="steps-post") if own else None
            for number, row in enumerate(peers, 1):
                tool = tools.index(row.name.split()[0])
                cost, loss = points[usable.index(row)]
                label = f"{number}: {row.name}"
                panel.plot(cost, loss, f"C{tool}", marker=MARKERS[tool % 5], ls="", label=label)
                panel.annotate(str(number), (cost, loss), fontsize="x-small")
            panel.set(ylabel=f"1 - mean cosine, {domain}", yscale="log")
            panel.invert_yaxis()
            panel.grid(alpha=0.3)
    if peers:
        handles, labels = size.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right upper", fontsize="x-small")
    figure.savefig(path)


def front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Those (cost, loss) that no other has less of both, by cost."""
    found: list[tuple[float, float]] = []
    for cost, loss in sorted(points):
        if not found or loss < found[-1][1]:
            found.append((cost, loss))
    return found
