"""The table of kernels on gfx803: what each timed launch needs, and what the model says of it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from tools import isa_costs
from tools.isa_assembly import Kernel
from tools.isa_compile import compile_family
from tools.isa_emulate import Trace, launch
from tools.isa_metrics import Metrics, measure
from tools.isa_model import BANDWIDTH, LATENCY, Estimate, estimate
from tools.kernel_case import Case, Launch, Timing, module
from tools.kernel_families import Family, Values
from tools.kernel_params import class_of, tuned

__all__ = ["CARD", "Row", "broken", "compiled_rows", "markdown", "timed_rows"]

CARD = {"vendor": "AMD", "architecture": "gfx803"}


@dataclasses.dataclass(frozen=True)
class Row:
    """One kernel of one launch.

    Args:
        family: its name.
        kernel: its name.
        case: what is launched: a timing's name, "defaults" or "shipped".
        size_class: the descriptor's class, "" where none holds.
        values: options and parameters.
        metrics: of the machine code.
        groups: of the launch; 0 where it was not timed.
        estimate: of the model, None where it was not timed.
        roofline: share of the ideal time in that of all launches of the case.
    """

    family: str
    kernel: str
    case: str
    size_class: str
    values: Values
    metrics: Metrics
    groups: int = 0
    estimate: Estimate | None = None
    roofline: float = 0.0

    def figures(self) -> dict[str, float]:
        """The figures that bars and files name."""
        found = dataclasses.asdict(self.metrics)
        found |= {"fma_density": self.metrics.fma_density, "local_share": self.metrics.local_share}
        found["loop"] = found["loop"]["instructions"]
        if self.estimate:
            found |= dataclasses.asdict(self.estimate)
            found |= {"groups": self.groups, "roofline": self.roofline}
        return found


def compiled_rows(family: Family, compiler: str) -> list[Row]:
    """Rows of the defaults, and of each timed launch with its shipped parameters: no model."""
    known: dict[tuple[str, ...], tuple[str, str, Values]] = {}
    wanted = [("defaults", "", family.defaults)]
    for one in module(family.name).TIMED:
        name = class_of(family, one.options, one.sizes)
        wanted.append((one.name, name, tuned(family, one.options, one.sizes, CARD)))
    for case, name, values in wanted:
        known.setdefault(tuple(family.defines(values)), (case, name, values))
    return [
        Row(family.name, kernel, case, name, values, measure(code))
        for case, name, values in known.values()
        for kernel, code in compile_family(family, values, compiler).items()
    ]


def timed_rows(
    family: Family, timing: Timing, compiler: str, values: Values | None = None
) -> list[Row]:
    """Rows of the launches of a timing, with the model's figures.

    Args:
        family: of the kernels.
        timing: what to launch.
        compiler: a key of `isa_compile.COMPILERS`.
        values: options and parameters; None: as shipped for gfx803.
    """
    values = values or tuned(family, timing.options, timing.sizes, CARD)
    case = module(family.name).make(values, timing.sizes)
    name = class_of(family, timing.options, timing.sizes)
    kernels = compile_family(family, values, compiler)
    rows = []
    for one in case.launches:
        kernel = kernels[one.kernel]
        groups, traces, moved = _traced(family, kernel, case, one)
        found = estimate(kernel, traces, groups, moved, LATENCY)
        metrics = measure(kernel)
        rows.append(Row(family.name, one.kernel, timing.name, name, values, metrics, groups, found))
    total = sum(one.estimate.seconds for one in rows if one.estimate)
    ideal = max(case.flops / isa_costs.PEAK_FLOPS, case.moved / BANDWIDTH)
    return [dataclasses.replace(one, roofline=ideal / total) for one in rows]


def _traced(
    family: Family, kernel: Kernel, case: Case, one: Launch
) -> tuple[int, list[list[Trace]], float]:
    """Groups of a launch, traces of two of them, and bytes of the buffers that they touch."""
    everywhere, group = family.geometry(one.kernel, case.values, {**case.sizes, **one.sizes})
    grid = [whole // local for whole, local in zip(everywhere, group, strict=True)]
    chosen = sorted({(0, 0, 0), (grid[0] // 2, grid[1] // 2, grid[2] // 2)})
    given = [case.buffers[each] if isinstance(each, str) else each for each in one.arguments]
    ran = launch(kernel, grid, group, given, chosen)
    moved = sum(np.asarray(given[place]).nbytes for place in ran.touched)
    return math.prod(grid), ran.traces, moved


def broken(family: Family, rows: Sequence[Row]) -> list[str]:
    """What is wrong with the rows of a family: spills, scratch, and bars of its descriptor.

    The descriptor's "bars" is a list of {"kernel", "class" (optional), and limits}: "fma_density",
    "steady", "groups", "waves", "roofline" are least values, all others greatest ones.
    """
    wrong = []
    for row in rows:
        figures = row.figures()
        limits: dict[str, float] = {"spills": 0, "scratch": 0}
        for bar in family.table.get("bars", ()):
            if bar["kernel"] == row.kernel and bar.get("class", row.size_class) == row.size_class:
                limits |= {key: one for key, one in bar.items() if key not in ("kernel", "class")}
        for key, limit in limits.items():
            if key in figures and not _holds(key, figures[key], limit):
                where = f"{row.family}/{row.kernel} ({row.case})"
                wrong.append(f"{where}: {key} is {figures[key]:.4g}, the bar is {limit:.4g}")
    return wrong


def _holds(key: str, found: float, limit: float) -> bool:
    least = key in ("fma_density", "steady", "groups", "waves", "roofline")
    return found >= limit if least else found <= limit


_HEAD = (
    "kernel", "launch", "class", "VGPRs", "SGPRs", "spills", "scratch", "LDS", "waves/SIMD",
    "FMA density", "groups", "model µs", "% of peak, busy", "% of roofline", "LDS conflicts",
)  # fmt: skip


def markdown(rows: Sequence[Row]) -> str:
    """A table of `rows`."""
    lines = [f"| {' | '.join(_HEAD)} |", "|" + " --- |" * len(_HEAD)]
    return "\n".join(lines + [f"| {' | '.join(_cells(row))} |" for row in rows])


def _cells(row: Row) -> list[str]:
    one, model = row.metrics, row.estimate
    cells = [
        f"{row.family}/{row.kernel}", row.case, row.size_class, str(one.vgprs), str(one.sgprs),
        str(one.spills), str(one.scratch), str(one.local_bytes), f"{one.waves:g}",
        f"{one.fma_density:.2f}",
    ]  # fmt: skip
    if model is None:
        return [*cells, "", "", "", "", ""]
    return [
        *cells, str(row.groups), f"{model.seconds * 1e6:.1f}", f"{100 * model.steady:.0f}",
        f"{100 * row.roofline:.0f}",
        f"{100 * model.conflicts:.0f}%",
    ]  # fmt: skip
