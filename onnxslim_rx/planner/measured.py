"""Numbers that were measured before, in a small JSON file."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from pathlib import Path

from onnxslim_rx.errors import InputError
from onnxslim_rx.ir import write_text

__all__ = ["Measured", "key_for"]


def key_for(about: object) -> str:
    """Hash of something that JSON can hold, 32 hexadecimal digits."""
    text = json.dumps(about, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class Measured:
    """Numbers by name that outlive the process; entries that are damaged count as not there.

    Args:
        path: of the file; None: nothing is kept.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._numbers: dict[str, float] = {} if path is None else _read(path)

    def __contains__(self, name: str) -> bool:
        return name in self._numbers

    def __getitem__(self, name: str) -> float:
        return self._numbers[name]

    def __setitem__(self, name: str, number: float) -> None:
        self._numbers[name] = number

    def save(self) -> None:
        """Write the file, whole or not at all; where that is not possible, time is lost later."""
        if self._path is None:
            return
        with contextlib.suppress(OSError, InputError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_text(self._path, json.dumps(self._numbers, indent=0, sort_keys=True))


def _read(path: Path) -> dict[str, float]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {
        name: float(number)
        for name, number in found.items()
        if isinstance(number, (int, float))
        and not isinstance(number, bool)
        and not math.isnan(number)
    }
