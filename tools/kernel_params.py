"""Tuned parameters as they ship: `kernels/params/NAME.json`, by class of sizes and device."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tools.kernel_families import FOLDER, Family, Values, evaluate

__all__ = ["class_of", "tuned"]

PARAMS = FOLDER.parent / "params"
_KEYS = ("device", "architecture", "vendor")  # the most specific first


def class_of(family: Family, options: Values, sizes: Values) -> str:
    """Name of the first class of the descriptor that holds, "" where none does."""
    known = {**family.defaults, **options, **sizes}
    classes = family.table.get("classes", ())
    return next((one["name"] for one in classes if evaluate(one["when"], known)), "")


def tuned(
    family: Family,
    options: Values,
    sizes: Values,
    device: Mapping[str, str],
    folder: Path = PARAMS,
) -> dict[str, int]:
    """All options and parameters for a launch: tuned ones, else the class's, else the defaults.

    Args:
        family: of the kernel.
        options: that differ from the defaults.
        sizes: of the launch.
        device: "vendor", "architecture", "device", as far as they are known.
        folder: of the files.
    """
    values = family.choose(options, sizes)
    path = folder / f"{family.name}.json"
    if not path.exists():
        return values
    name = class_of(family, options, sizes)
    entries = json.loads(path.read_text(encoding="utf-8"))
    fitting = [one for one in entries if _fits(one, name, values, device)]
    best = max(fitting, key=_rank, default=None)
    chosen = {**values, **best["parameters"]} if best else values
    return chosen if family.legal(chosen) else values


def _fits(entry: Mapping[str, Any], name: str, values: Values, device: Mapping[str, str]) -> bool:
    return (
        entry.get("class", "") in ("", name)
        and all(not entry.get(key) or entry[key] == device.get(key) for key in _KEYS)
        and all(values[key] == value for key, value in entry.get("options", {}).items())
    )


def _rank(entry: Mapping[str, Any]) -> tuple[int, ...]:
    named = (bool(entry.get(key)) for key in (*_KEYS, "class"))
    return (*named, len(entry.get("options", {})))
