"""What the tuner keeps: a journal to go on from, and files of parameters to use and to send in."""

from __future__ import annotations

import datetime
import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from onnxslim_rx.ir import write_text
from tools.kernel_families import Family
from tools.tune_search import Group, Outcome

__all__ = ["Journal", "Target", "entry", "publish"]

Target = Mapping[str, str]
"""The device: `vendor`, `architecture`, `device`, and `driver`."""

_PLACE = ("vendor", "architecture", "device", "class")
_WORTH = 0.98  # a best that saves less than 2% is the default, and noise


class Journal:
    """Outcomes so far, a line each; a run that was stopped goes on from them.

    Those of other sources of the kernels, and of other drivers, are in other files.

    Args:
        folder: where it lies; made if needed.
        family: of the kernels.
        target: the device.
    """

    def __init__(self, folder: Path, family: Family, target: Target) -> None:
        about = json.dumps([family.source, family.table, dict(target)], sort_keys=True)
        digest = hashlib.blake2b(about.encode(), digest_size=8).hexdigest()
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{family.name}-{digest}.jsonl"

    def read(self, group: Group) -> list[Outcome]:
        """What is known of a group; a last line that was cut off is passed over."""
        if not self.path.exists():
            return []
        found = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                table = json.loads(line)
            except json.JSONDecodeError:
                continue
            if table["group"] == group.name:
                found.append(Outcome(table["parameters"], table["seconds"], table["error"]))
        return found

    def add(self, group: Group, outcome: Outcome) -> None:
        """Write one outcome down at once."""
        table = {
            "group": group.name,
            "parameters": outcome.parameters,
            "seconds": dict(outcome.seconds),
            "error": outcome.error,
        }
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(table) + "\n")
            file.flush()
            os.fsync(file.fileno())


def entry(
    group: Group, target: Target, default: Outcome, best: Outcome, day: datetime.date
) -> dict[str, Any] | None:
    """An entry of a file of parameters; None where the best is hardly better than the default."""
    if not best.seconds:
        return None
    names = list(best.seconds)
    before = [default.seconds[name] for name in names] if default.seconds else []
    if before and best.cost > default.cost + math.log(_WORTH):
        return None
    return {
        "vendor": target["vendor"],
        "architecture": target["architecture"],
        "device": target["device"],
        "class": group.size_class,
        "source": f"measured, tools/tune.py, {day.isoformat()}",
        "options": dict(group.options),
        "parameters": dict(best.parameters),
        "driver": target["driver"],
        "launches": names,
        "best_seconds": [best.seconds[name] for name in names],
        "default_seconds": before,
    }


def publish(path: Path, entries: Sequence[Mapping[str, Any]]) -> None:
    """Put entries into a file of parameters; those of other devices, classes and options stay.

    Raises:
        InputError: it cannot be written.
    """
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    new = {_place(one) for one in entries}
    kept = [one for one in before if _place(one) not in new]
    lines = ",\n".join("  " + json.dumps(one) for one in [*kept, *entries])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, f"[\n{lines}\n]\n" if lines else "[]\n")


def _place(one: Mapping[str, Any]) -> tuple[Any, ...]:
    options = tuple(sorted(one.get("options", {}).items()))
    return (*(one.get(name, "") for name in _PLACE), options)
