"""Rewrite passes, repeated together until none changes anything, and verified."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from onnxslim_rx.errors import InputError, PassError, VerificationError
from onnxslim_rx.ir import clone
from onnxslim_rx.manager.contract import call, context
from onnxslim_rx.manager.equivalence import Equivalence, first_difference
from onnxslim_rx.manager.invariants import Fingerprint, Signature, fingerprint
from onnxslim_rx.manager.journal import Journal, Stopwatch
from onnxslim_rx.passbase import RewritePass
from onnxslim_rx.targets import Target

__all__ = ["Group"]

_log = logging.getLogger(__name__)


class Group:
    """Neighbouring rewrite passes.

    Undoing is replaying: passes are deterministic, so the model before a call is made again from
    the model at the start and the calls since. Nothing is copied as long as nothing fails.

    Args:
        passes: by their position in the journal.
        start: the model that they start from; left as it is.
        promise: what callers rely on.
        journal: where calls are noted.
        target: the device profile.
        seed: of anything random.
        max_rounds: most repetitions.
    """

    def __init__(
        self,
        passes: Mapping[int, RewritePass],
        start: ir.Model,
        *,
        promise: Signature,
        journal: Journal,
        target: Target,
        seed: int,
        max_rounds: int,
    ) -> None:
        self._passes = passes
        self._start = start
        self._promise = promise
        self._journal = journal
        self._target = target
        self._seed = seed
        self._max_rounds = max_rounds
        self._set(clone(start), fingerprint(start))

    def _set(self, model: ir.Model, print_: Fingerprint) -> None:
        self._model = model
        self._print = print_

    def run(self, check: Equivalence | None, *, each: bool) -> ir.Model:
        """The model after the passes.

        Args:
            check: verifies; None: nothing is verified.
            each: verify after each call that changed something, not only at the end.

        Raises:
            PassError: a pass broke its contract, and the journal raises failures.
            VerificationError: a pass changed what the model computes, likewise.
        """
        while True:
            trace = self._settle(check if each else None)
            if check is None or each or not trace:
                return self._model
            guilty = self._blame(trace, check)
            if guilty is None:
                return self._model
            self._journal.reject(*guilty)
            self._set(clone(self._start), fingerprint(self._start))

    def _settle(self, check: Equivalence | None) -> list[int]:
        """Call the passes in turns; return the calls, in order, that changed the model."""
        trace: list[int] = []
        seen: dict[int, int] = {}  # the length of the trace when a pass was called last
        for _ in range(self._max_rounds):
            for index in self._passes:
                if self._journal.failed(index) or seen.get(index) == len(trace):
                    continue
                seen[index] = len(trace)
                if self._call(index, trace, check):
                    trace.append(index)
            if all(self._journal.failed(i) or seen[i] == len(trace) for i in self._passes):
                return trace
        _log.warning("passes still change the model after %d rounds", self._max_rounds)
        return trace

    def _call(self, index: int, trace: Sequence[int], check: Equivalence | None) -> bool:
        """Call one pass and check it; whether it changed the model, and that was kept."""
        one = self._passes[index]
        watch, before = Stopwatch(), self._print
        try:
            ctx = context(self._model, self._target, self._seed)
            result, after = call(one, self._model, ctx, self._promise, before)
            if check is not None and result.modified:
                why = _difference(check, result.model)
                if why is not None:
                    raise VerificationError(_guilty(one.name, why))
        except (PassError, VerificationError) as failure:
            model = self._replay(trace)
            self._set(model, fingerprint(model))
            self._journal.note(index, watch, (before.nodes, self._print.nodes), None)
            self._journal.reject(index, failure)
            return False
        self._set(result.model, after)
        self._journal.note(index, watch, (before.nodes, after.nodes), result)
        return result.modified

    def _replay(self, trace: Sequence[int]) -> ir.Model:
        model = clone(self._start)
        for index in trace:
            ctx = context(model, self._target, self._seed)
            model = self._passes[index](model, ctx).model
        return model

    def _blame(
        self, trace: Sequence[int], check: Equivalence
    ) -> tuple[int, VerificationError] | None:
        """The call that made the model compute something else, by bisection; None if none did."""
        why = _difference(check, self._model)
        if why is None:
            return None
        low, high = 0, len(trace)  # after `low` calls the model is right, after `high` wrong
        while high - low > 1:
            middle = (low + high) // 2
            found = _difference(check, self._replay(trace[:middle]))
            if found is None:
                low = middle
            else:
                high, why = middle, found
        guilty = trace[high - 1]
        right, wrong = self._replay(trace[:low]), self._replay(trace[:high])
        try:
            node = first_difference(right, wrong, check.data[0])
        except InputError:  # the wrong model does not even run
            node = None
        place = f", first at {node.op_type} {node.name!r}" if node is not None else ""
        return guilty, VerificationError(_guilty(self._passes[guilty].name, why + place))


def _difference(check: Equivalence, model: ir.Model) -> str | None:
    try:
        return check.difference(model)
    except InputError as error:  # the original ran, so this is not the user's fault
        return f"it does not run any more: {error}"


def _guilty(name: str, why: str) -> str:
    return f"the pass {name!r} changed what the model computes: {why}"
