"""What each pass did, how long it took, and what was taken back."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Sequence
from typing import Literal

import onnx_ir as ir

from onnxslim_rx.errors import OnnxslimError
from onnxslim_rx.passbase import PassResult, Skipped
from onnxslim_rx.rules import Driven

__all__ = ["Journal", "JournalEntry", "ManagerResult", "OnFailure", "Stopwatch"]

OnFailure = Literal["raise", "rollback"]

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class JournalEntry:
    """What one pass did, over all its calls.

    Args:
        name: of the pass.
        seconds: wall time, of the pass and of the checks after it.
        cpu_seconds: CPU time of the process, likewise.
        calls: number of calls.
        nodes_before: nodes of the model at the first call, in all graphs and functions.
        nodes_after: nodes after the last.
        changed: whether anything changed and was kept.
        rewritten: places rewritten and kept.
        skipped: places refused, in the last call.
        failure: why the pass was rolled back, or "".
    """

    name: str
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    calls: int = 0
    nodes_before: int = 0
    nodes_after: int = 0
    changed: bool = False
    rewritten: int = 0
    skipped: tuple[Skipped, ...] = ()
    failure: str = ""


@dataclasses.dataclass(frozen=True)
class ManagerResult:
    """The model after all passes, and the record of them.

    Args:
        model: a new model.
        journal: one entry for each pass, in order.
        unverified: why the result could not be verified although that was asked, or "".
    """

    model: ir.Model
    journal: list[JournalEntry]
    unverified: str = ""


class Stopwatch:
    """Starts when made."""

    def __init__(self) -> None:
        self._start = time.perf_counter(), time.process_time()

    def read(self) -> tuple[float, float]:
        """Wall and CPU seconds since then."""
        return time.perf_counter() - self._start[0], time.process_time() - self._start[1]


class Journal:
    """The entries of one run.

    Args:
        names: of the passes, in order.
        on_failure: "raise" failures, or note them ("rollback").
    """

    def __init__(self, names: Sequence[str], on_failure: OnFailure) -> None:
        self.entries = [JournalEntry(name) for name in names]
        self._on_failure = on_failure

    def failed(self, index: int) -> bool:
        """Whether the pass at this position was rolled back."""
        return bool(self.entries[index].failure)

    def note(
        self,
        index: int,
        spent: tuple[float, float],
        nodes: tuple[int, int],
        result: PassResult | None,
    ) -> None:
        """Add one call.

        Args:
            index: position of the pass.
            spent: wall and CPU seconds.
            nodes: of the model before and after.
            result: what the pass returned; None where it was taken back.
        """
        old = self.entries[index]
        seconds, cpu_seconds = spent
        self.entries[index] = dataclasses.replace(
            old,
            seconds=old.seconds + seconds,
            cpu_seconds=old.cpu_seconds + cpu_seconds,
            calls=old.calls + 1,
            nodes_before=old.nodes_before if old.calls else nodes[0],
            nodes_after=nodes[1],
            changed=old.changed or (result is not None and result.modified),
            rewritten=old.rewritten + (result.rewritten if result is not None else 0),
            skipped=result.skipped if result is not None else old.skipped,
        )

    def note_drive(
        self,
        indices: Sequence[int],
        spent: tuple[float, float],
        nodes: tuple[int, int],
        model: ir.Model,
        driven: Driven,
    ) -> None:
        """Add one drive of rules.

        Each is charged the time of its own attempts, and CPU time in proportion; what looking for
        nodes takes is shared among all. Nodes are counted for the drive as a whole.

        Args:
            indices: positions of the rules.
            spent: wall and CPU seconds.
            nodes: of the model before and after.
            model: the model after.
            driven: what the drive did.
        """
        seconds, cpu_seconds = spent
        attempts = sum(tally.seconds for tally in driven.tallies)
        rest = max(0.0, seconds - attempts) / len(indices)
        for position, index in enumerate(indices):
            own = driven.tallies[position].seconds + rest
            share = own, cpu_seconds * own / seconds if seconds else 0.0
            self.note(index, share, nodes, driven.result(position, model))

    def reject(self, index: int, failure: OnnxslimError) -> None:
        """Raise `failure`, or note that the pass at this position was rolled back."""
        if self._on_failure == "raise":
            raise failure
        _log.warning("rolled back: %s", failure)
        self.entries[index] = dataclasses.replace(
            self.entries[index], changed=False, rewritten=0, failure=str(failure)
        )
