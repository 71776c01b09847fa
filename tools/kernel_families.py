"""Families of OpenCL kernels as their descriptors state them: parameters, constraints, geometry.

A descriptor is `kernels/cl/NAME.json` beside `NAME.cl`. The library, the tuner, `tools/isa.py` and
the tests read the same file, so that a launch has one definition.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

__all__ = ["FOLDER", "Family", "Values", "evaluate", "families", "family"]

FOLDER = Path(__file__).resolve().parent.parent / "kernels" / "cl"

Values = Mapping[str, int]

_FUNCTIONS: dict[str, Callable[..., int]] = {
    "min": min,
    "max": max,
    "ceil_div": lambda a, b: -(-a // b),
    "round_up": lambda a, b: -(-a // b) * b,
    "select": lambda holds, then, otherwise: then if holds else otherwise,
}
_ALLOWED = (
    ast.Expression, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.Call, ast.Name, ast.Load,
    ast.Constant, ast.operator, ast.unaryop, ast.boolop, ast.cmpop,
)  # fmt: skip


@functools.cache
def _compiled(expression: str) -> Any:
    tree = ast.parse(expression.replace("/", "//"), mode="eval")
    for node in ast.walk(tree):
        if not isinstance(node, _ALLOWED):
            raise ValueError(f"{expression!r}: {type(node).__name__} is not part of the language")
    return compile(tree, expression, "eval")


def evaluate(expression: str, values: Values) -> int:
    """The integer that `expression` of a descriptor has under `values`; booleans are 0 and 1.

    Raises:
        ValueError: it uses what the language lacks.
        NameError: a name that `values` lacks.
    """
    return int(eval(_compiled(str(expression)), {"__builtins__": {}}, {**_FUNCTIONS, **values}))


@dataclasses.dataclass(frozen=True)
class Family:
    """One descriptor.

    Args:
        name: of the family, and of its two files.
        table: the parsed JSON.
        folder: where the files lie.
    """

    name: str
    table: Mapping[str, Any]
    folder: Path = FOLDER

    @property
    def source(self) -> str:
        """The OpenCL source, with `#include "..."` of the same folder expanded."""
        return self._expanded(self.table["source"])

    @property
    def defaults(self) -> dict[str, int]:
        """Options and parameters as they are where nobody says otherwise."""
        options = {name: values[0] for name, values in self.table["options"].items()}
        return options | {name: one["default"] for name, one in self.table["parameters"].items()}

    def choose(self, options: Values, sizes: Values) -> dict[str, int]:
        """Options and parameters for these sizes by the descriptor's classes alone."""
        known = {**self.defaults, **options}
        for one in self.table.get("classes", ()):
            if evaluate(one["when"], {**known, **sizes}):
                return {**known, **one.get("parameters", {})}
        return known

    def derived(self, values: Values) -> dict[str, int]:
        """`values` and the names that the descriptor derives from them."""
        found = dict(values)
        for name, expression in self.table.get("derived", {}).items():
            found[name] = evaluate(expression, found)
        return found

    def legal(self, values: Values) -> bool:
        """Whether all constraints hold for these options and parameters."""
        try:
            known = self.derived(values)
        except ZeroDivisionError:
            return False
        return all(evaluate(one, known) for one in self.table.get("constraints", ()))

    def legal_choices(self, options: Values | None = None) -> Iterator[dict[str, int]]:
        """Every legal assignment of parameters, under `options`."""
        names = list(self.table["parameters"])
        spaces = [self.table["parameters"][name]["values"] for name in names]
        for each in itertools.product(*spaces):
            values = {**self.defaults, **(options or {}), **dict(zip(names, each, strict=True))}
            if self.legal(values):
                yield values

    def defines(self, values: Values) -> list[str]:
        """`NAME=value` for the compiler, of options and parameters only, in order."""
        return [f"{name}={values[name]}" for name in self.defaults]

    def geometry(
        self, kernel: str, values: Values, sizes: Values
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Global and local size of a launch, in work-items."""
        known = self.derived({**values, **sizes})
        shape = self.table["kernels"][kernel]
        return (
            tuple(evaluate(one, known) for one in shape["global"]),
            tuple(evaluate(one, known) for one in shape["local"]),
        )

    def _expanded(self, name: str) -> str:
        text = (self.folder / name).read_text(encoding="utf-8")
        return re.sub(
            r'^#include "(.+)"$', lambda m: self._expanded(m.group(1)), text, flags=re.MULTILINE
        )


def family(name: str, folder: Path = FOLDER) -> Family:
    """The family of that name."""
    return Family(name, json.loads((folder / f"{name}.json").read_text(encoding="utf-8")), folder)


def families(folder: Path = FOLDER) -> list[Family]:
    """All families, by name."""
    return [family(path.stem, folder) for path in sorted(folder.glob("*.json"))]
