"""Pictures of what bench_simplify.py measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def draw(report: Mapping[str, Any], path: Path) -> None:
    """CPU seconds by nodes for suite `scaling`, else nodes and CPU seconds by model, as PNG."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure = _scaling(pyplot, report) if report["suite"] == "scaling" else _models(pyplot, report)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _scaling(pyplot: Any, report: Mapping[str, Any]) -> Any:
    figure, axes = pyplot.subplots(figsize=(7, 5), layout="constrained")
    rows = report["rows"]
    for tool in rows[0]["runs"]:
        points = [(row["nodes"], row["runs"][tool]["cpu_seconds"]) for row in rows]
        points = [point for point in points if point[1]]
        exponent = report["slopes"].get(tool)
        label = tool if exponent is None else f"{tool}: n^{exponent:.2f}"
        axes.plot(*zip(*points, strict=True), "o-", label=label)
    axes.set(xscale="log", yscale="log", xlabel="nodes", ylabel="CPU seconds")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def _models(pyplot: Any, report: Mapping[str, Any]) -> Any:
    rows = report["rows"]
    figure, both = pyplot.subplots(
        1, 2, figsize=(12, 1.5 + 0.25 * len(rows)), sharey=True, layout="constrained"
    )
    places = range(len(rows))
    for tool in rows[0]["runs"]:
        runs = [row["runs"][tool] for row in rows]
        kept = [
            run["nodes"] / row["nodes"] if run["nodes"] and not run["wrong"] else None
            for run, row in zip(runs, rows, strict=True)
        ]
        for axes, values in zip(both, (kept, [run["cpu_seconds"] for run in runs]), strict=True):
            points = [(value, place) for value, place in zip(values, places, strict=True) if value]
            if points:
                axes.plot(*zip(*points, strict=True), "o", alpha=0.7, label=tool)
    both[0].set(xlabel="nodes by the original's (right results)", yticks=list(places))
    both[0].set_yticklabels([row["name"] for row in rows])
    both[0].invert_yaxis()
    both[1].set(xlabel="CPU seconds", xscale="log")
    both[1].legend()
    for axes in both:
        axes.grid(alpha=0.3)
    return figure
