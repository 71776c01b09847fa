"""Descriptors mean the same to the library (C++) and to the tools (Python)."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.native import cpp
from tools import kernel_families
from tools.kernel_families import Family

ROUNDS = 60  # of each family


@pytest.fixture(scope="module")
def twin() -> Path:
    return cpp.built() / "opencl_twin"


def answers(twin: Path, lines: list[str]) -> list[str]:
    """What the library says to each line."""
    run = cpp.run(twin, kernel_families.FOLDER, stdin="\n".join(lines) + "\n")
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


def written(values: Mapping[str, int]) -> str:
    return "".join(f" {name}={value}" for name, value in values.items())


def expected(family: Family, values: dict[str, int], sizes: dict[str, int]) -> str:
    """The line that the library should give, "error" where arithmetic fails."""
    try:
        derived = family.derived(values)
        options = {name: values[name] for name in family.table["options"]}
        chosen = family.choose(options, sizes)
        known = {**values, **sizes}
        from_sizes = {
            name: kernel_families.evaluate(one, known)
            for name, one in family.table.get("from_sizes", {}).items()
        }
        shapes = {name: family.geometry(name, values, sizes) for name in family.table["kernels"]}
    except ZeroDivisionError:
        return "error"
    parameters = {name: chosen[name] for name in family.table["parameters"]}
    parts = [
        f"legal {int(family.legal(values))}"
        + written({name: derived[name] for name in family.table.get("derived", {})}),
        "class" + (written(parameters) if family.legal(chosen) else " none"),
        "from" + written(from_sizes),
    ]
    for name, (everywhere, group) in shapes.items():
        padded = [*everywhere, 1, 1][:3] + [*group, 1, 1][:3]
        parts.append(" ".join([name, *map(str, padded)]))
    return "; ".join(parts)


@pytest.mark.parametrize("family", kernel_families.families(), ids=lambda one: one.name)
def test_descriptors(twin: Path, family: Family) -> None:
    rng = random.Random(family.name)
    lines, wanted = [], []
    for _ in range(ROUNDS):
        sizes = {name: rng.choice((1, 2, 7, 64, 1000, 4097)) for name in family.table["sizes"]}
        values = {name: rng.choice(all_) for name, all_ in family.table["options"].items()}
        for name, one in family.table["parameters"].items():
            values[name] = rng.choice(one["values"])
        lines.append(f"family {family.name}|{written({**sizes, **values})}")
        wanted.append(expected(family, values, sizes))
    found = answers(twin, lines)
    assert len(found) == len(wanted)
    for line, one, other in zip(lines, found, wanted, strict=True):
        if other == "error":
            assert one.startswith("error "), line
        elif "class none" in other:  # the library then takes the nearest legal parameters
            assert one.split(";")[0] == other.split(";")[0], line
        else:
            assert one == other, line


def grown(rng: random.Random, depth: int) -> str:
    """A random expression over a, b, c."""
    if depth == 0:
        return rng.choice(("a", "b", "c", "0", "1", "3", "10"))
    one, two, three = (grown(rng, rng.randrange(depth)) for _ in range(3))
    forms = (
        *(f"{one} {sign} {two}" for sign in ("+", "-", "*", "/", "%", "and", "or")),
        *(f"({one}) {sign} ({two})" for sign in ("+", "*", "/", "%", "==", "!=", "<", "<=", ">")),
        f"({one}) < ({two}) <= ({three})",
        f"not ({one})",
        f"not {one}",
        f"-({one})",
        f"({one})",
        f"min({one}, {two}, {three})",
        f"max({one}, {two})",
        f"ceil_div({one}, {two})",
        f"round_up({one}, {two})",
        f"select({one}, {two}, {three})",
    )
    return rng.choice(forms)


def test_expressions(twin: Path) -> None:
    rng = random.Random(8)
    lines: list[str] = []
    wanted: list[str] = []
    while len(lines) < 3000:
        expression = grown(rng, 4)
        values = {name: rng.randrange(-20, 21) for name in "abc"}
        try:
            value = kernel_families.evaluate(expression, values)
        except ZeroDivisionError:
            wanted.append("error")
        except SyntaxError:  # `1 + not a`
            wanted.append("error")
        else:
            wanted.append(f"value {value}" if abs(value) < 2**62 else "error")
        lines.append(f"expression {expression}|{written(values)}")
    for line, one, other in zip(lines, answers(twin, lines), wanted, strict=True):
        assert one == other or (other == "error" and one.startswith("error ")), line


@pytest.mark.parametrize(
    "expression", ["a ** b", "a & b", "a.b", "[a]", "a if b else c", "f(a)", "a +", "min(a)", "d"]
)
def test_both_refuse(twin: Path, expression: str) -> None:
    values = {"a": 1, "b": 2, "c": 3}
    assert answers(twin, [f"expression {expression}|{written(values)}"])[0].startswith("error ")
