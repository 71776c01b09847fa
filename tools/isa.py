"""Checks kernels for gfx803 (RX 460 to 590) without the card: compiles, measures, emulates, times.

    python tools/isa.py table [FAMILY...]   registers, spills, occupancy, model time, as Markdown
    python tools/isa.py gate [FAMILY...]    exit 1 where a kernel spills or breaks a stated bar
    python tools/isa.py run FAMILY...       machine code against float64 numpy, exit 1 where wrong

Needs clang-15 or clang-19 and rocm-device-libs. Model times rank kernels; they are no forecast.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.isa_compile import COMPILERS, available
from tools.isa_emulate import Emulator
from tools.isa_report import Row, broken, compiled_rows, markdown, timed_rows
from tools.kernel_case import cases, module, run
from tools.kernel_families import Family, families, family

__all__ = ["main"]


def _timed(one: Family, compiler: str) -> list[Row]:
    timings = module(one.name).TIMED
    return [row for timing in timings for row in timed_rows(one, timing, compiler)]


def _table(chosen: Sequence[Family], arguments: argparse.Namespace) -> int:
    rows = [row for one in chosen for row in _timed(one, arguments.compiler)]
    text = markdown(rows)
    print(text)
    if arguments.markdown:
        arguments.markdown.write_text(text + "\n", encoding="utf-8")
    if arguments.json:
        found = [
            {"family": row.family, "kernel": row.kernel, "case": row.case, "class": row.size_class}
            | {"values": dict(row.values), "compiler": arguments.compiler, **row.figures()}
            for row in rows
        ]
        arguments.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


def _gate(chosen: Sequence[Family], arguments: argparse.Namespace) -> int:
    wrong = []
    for one in chosen:
        rows = compiled_rows(one, arguments.compiler)
        if one.table.get("bars"):
            rows += _timed(one, arguments.compiler)
        wrong += broken(one, rows)
        print(f"{one.name}: {len(rows)} kernels", file=sys.stderr)
    print("\n".join(wrong) or f"{arguments.compiler}: no spills, no scratch, all bars hold")
    return 1 if wrong else 0


def _run(chosen: Sequence[Family], arguments: argparse.Namespace) -> int:
    emulator, wrong = Emulator(arguments.compiler), False
    for one in chosen:
        for case in cases(one.name):
            found, _ = run(case, emulator.launch)
            worst = case.worst(found)
            wrong |= not worst <= 1
            print(f"{one.name} {case.name}: error / bound {worst:.3g}")
    return 1 if wrong else 0


def main(given: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 2 where the compiler is missing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("table", "gate", "run"))
    parser.add_argument("family", nargs="*", help="all where none is named")
    parser.add_argument("--compiler", choices=tuple(COMPILERS), default="clang-15")
    parser.add_argument("--json", type=Path, help="write the table's figures here")
    parser.add_argument("--markdown", type=Path, help="write the table here")
    arguments = parser.parse_args(given)
    if not available(arguments.compiler):
        print(f"{arguments.compiler} or rocm-device-libs is not installed", file=sys.stderr)
        return 2
    known = {one.name for one in families()}
    for name in arguments.family:
        if name not in known:
            parser.error(f"no family {name}; there are {', '.join(sorted(known))}")
    chosen = [family(name) for name in arguments.family or sorted(known)]
    return {"table": _table, "gate": _gate, "run": _run}[arguments.what](chosen, arguments)


if __name__ == "__main__":
    sys.exit(main())
