"""Models that come quantized: brought back to floating point before they are planned anew."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import onnx_ir as ir

from onnxslim_rx import registry
from onnxslim_rx.analysis.stored import count_quantized
from onnxslim_rx.manager import JournalEntry, ManagerResult, PassManager
from onnxslim_rx.pipeline import clean

__all__ = ["dequantized", "hint", "outcome_notes"]

_PASS = "dequantize"


def dequantized(found: ManagerResult, options: Mapping[str, Any], **how: Any) -> ManagerResult:
    """A model that was cleaned, in floating point, and cleaned again.

    What is computed on integers now would not pass for equal afterwards: so the pass is not
    verified as those of the clean-up are; the caller compares.

    Args:
        found: what the clean-up made; its journal comes first in that of the result.
        options: of the pass `dequantize`.
        how: arguments of the clean-up.

    Raises:
        InputError: an option outside its range.
        PassError: the pass failed.
    """
    target, seed = how["target"], how["seed"]
    manager = PassManager([registry.make(_PASS, options)], verify=None, target=target, seed=seed)
    floating = manager.run(found.model)
    journal = [*found.journal, *floating.journal]
    if not floating.journal[0].changed:
        return ManagerResult(found.model, journal, found.unverified)
    again = clean(floating.model, **how)
    journal += [entry for entry in again.journal if entry.changed or entry.failure]
    return ManagerResult(again.model, journal, found.unverified or again.unverified)


def outcome_notes(original: ir.Model, journal: list[JournalEntry]) -> list[str]:
    """What to tell of the pass, by its entry in the journal.

    Args:
        original: the model as it came.
        journal: of the clean-up and of the pass.
    """
    (entry,) = (entry for entry in journal if entry.name == _PASS)
    notes = []
    if not entry.changed:
        notes.append("Nothing that is known as quantized was found.")
    else:
        notes.append(
            f"{_weights(count_quantized(original))} came quantized; the model was brought back to"
            " floating point."
        )
    if entry.skipped:
        (why, count), *_ = Counter(skipped.why for skipped in entry.skipped).most_common(1)
        notes.append(
            f"{len(entry.skipped)} nodes still compute on integers; of {count} the reason is:"
            f" {why}."
        )
    return notes


def hint(model: ir.Model) -> list[str]:
    """What a user is told whose model comes quantized, and is planned as it is; mostly nothing."""
    count = count_quantized(model)
    if not count:
        return []
    return [
        f"{_weights(count)} came quantized and stayed as they are. With requantize (--requantize)"
        " the model is brought back to floating point first and planned anew, with the model as it"
        " came as the reference."
    ]


def _weights(count: int) -> str:
    return "1 weight" if count == 1 else f"{count} weights"
