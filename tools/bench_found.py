"""What a bench has found so far, by suite, kept as JSON after each row."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from tools.bench_models import machine
from tools.bench_tables import row_of, table_of

__all__ = ["Found"]


class _Row(Protocol):
    """A dataclass that says why a measurement failed."""

    @property
    def error(self) -> str: ...


Kind = TypeVar("Kind", bound=_Row)


class Found:
    """Rows and other findings by suite, and the machine.

    Args:
        suites: their names.
        threads: of each session.
        path: of the JSON file; None: nothing is written.
        resume: begin with what the file holds.
    """

    def __init__(
        self, suites: Sequence[str], threads: int, path: Path | None, *, resume: bool
    ) -> None:
        self.path = path
        self.all: dict[str, Any] = {"machine": machine(threads)}
        if resume and path is not None and path.is_file():
            before = json.loads(path.read_text(encoding="utf-8"))
            self.all |= {suite: before[suite] for suite in suites if suite in before}

    def rows(self, suite: str, kind: type[Kind]) -> list[Kind]:
        """The rows of a suite; those that failed are dropped, so that they are made again."""
        rows = [row_of(kind, table) for table in self.all.get(suite, [])]
        rows = [row for row in rows if not row.error]
        self.all[suite] = [table_of(row) for row in rows]
        return rows

    def add(self, suite: str, row: Any) -> None:
        """Keep one more row."""
        self.all.setdefault(suite, []).append(table_of(row))
        self.write()

    def put(self, name: str, value: Any) -> None:
        """Keep what is no row."""
        self.all[name] = value
        self.write()

    def write(self) -> None:
        """Everything as JSON."""
        if self.path is not None:
            self.path.write_text(json.dumps(self.all, indent=1), encoding="utf-8")
