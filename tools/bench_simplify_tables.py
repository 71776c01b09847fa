"""What bench_simplify.py prints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from tools import bench_simplify_models as models
from tools.bench_simplify_cases import Case


def table(headers: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Aligned text; the first column to the left, numbers to the right."""
    content = [tuple(headers), *map(tuple, lines)]
    widths = [max(len(line[column]) for line in content) for column in range(len(headers))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in content
    )


def show(value: float | None, digits: int = 0) -> str:
    """A number, "-" for none."""
    return "-" if value is None else f"{value:.{digits}f}"


def node_table(rows: Sequence[models.Row], tools: Sequence[str], peers: Sequence[str]) -> str:
    """Nodes; x: wrong or none, !: file grown, *: optional inputs dropped."""

    def cell(row: models.Row, tool: str) -> str:
        run = row.runs[tool]
        marks = ("" if run.right else "x") + "!" * row.grown(tool) + "*" * bool(run.dropped)
        return show(run.nodes) + marks

    headers = ("nodes", "original", *tools, "fewest", "honest")
    return table(headers, (
        (row.name, str(row.nodes), *(cell(row, tool) for tool in tools),
         str(row.fewest(peers, honest=False)), str(row.fewest(peers, honest=True)))
        for row in rows
    ))  # fmt: skip


def cost_table(
    title: str, rows: Sequence[models.Row], tools: Sequence[str], key: str, digits: int
) -> str:
    """One cost, such as "cpu_seconds", of each tool."""
    values = ((row.name, [getattr(row.runs[tool], key) for tool in tools]) for row in rows)
    return table((title, *tools), ((n, *(show(v, digits) for v in line)) for n, line in values))


def failures(rows: Sequence[models.Row], tools: Sequence[str]) -> list[str]:
    """Wrong results and errors, a line each."""
    return [
        f"{row.name}, {tool}: {row.runs[tool].error or '; '.join(row.runs[tool].wrong)}"
        for row in rows
        for tool in tools
        if not row.runs[tool].right
    ]


def summary(rows: Sequence[models.Row], tools: Sequence[str], peers: Sequence[str]) -> list[str]:
    """What the tables come to, for each of our tools and in all."""
    lines = []
    for own in (tool for tool in tools if tool not in peers):
        for honest, which in ((False, "best right peer"), (True, "best honest right peer")):
            found = models.more(rows, own, peers, honest=honest)
            lines.append(f"{own}: more nodes than the {which} on {len(found)}: {', '.join(found)}")
        for peer in peers:
            ratios = models.cpu_ratios(rows, own, peer)
            if ratios:
                ours, theirs = models.cpu_sums(rows, own, peer)
                worst = max(ratios, key=ratios.__getitem__)
                lines.append(
                    f"{own}: CPU by {peer}: median {models.median(ratios):.2f},"
                    f" most {ratios[worst]:.2f} ({worst}); sums {ours:.1f} / {theirs:.1f} s"
                )
    for tool in tools:
        right = sum(row.runs[tool].right for row in rows)
        lines.append(f"{tool}: right on {right} of {len(rows)}")
    return lines


def group_table(found: Mapping[str, Sequence[Case]], good: Callable[[Case], bool]) -> str:
    """Good cases by all cases of each group."""
    counts = {tool: Counter(c.group for c in results if good(c)) for tool, results in found.items()}
    sizes = {tool: Counter(c.group for c in results) for tool, results in found.items()}
    groups = list(dict.fromkeys(group for size in sizes.values() for group in size))
    lines = [
        (group, *(f"{counts[tool][group]}/{sizes[tool][group]}" for tool in found))
        for group in groups
    ]
    totals = (f"{counts[tool].total()}/{sizes[tool].total()}" for tool in found)
    return table(("group", *found), [*lines, ("all", *totals)])
