"""Rewrite passes, repeated together until none changes anything, and verified."""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections.abc import Callable, Mapping, Sequence

import onnx_ir as ir

from onnxslim_rx.analysis.facts import Facts
from onnxslim_rx.errors import InputError, OnnxslimError, PassError, VerificationError
from onnxslim_rx.manager.contract import call, context
from onnxslim_rx.manager.equivalence import Equivalence, first_difference
from onnxslim_rx.manager.invariants import (
    Signature,
    broken_promise,
    count_nodes,
    problem,
    signature,
)
from onnxslim_rx.manager.journal import Journal, Stopwatch
from onnxslim_rx.passbase import PassContext, RewritePass
from onnxslim_rx.rules import Rule, RuleError, drive
from onnxslim_rx.targets import Target

__all__ = ["Group"]

_log = logging.getLogger(__name__)

_OWN = "onnxslim_rx_passes."
"""Passes of this package: their tests hold them to what they say and leave. Looking at the whole
model after each call takes long on large ones; the model is looked at in the end."""

Unit = tuple[int, ...]
"""Positions of passes that are called together: rules of one phase, or one pass."""


@dataclasses.dataclass(frozen=True)
class _Step:
    """A call that changed the model.

    Args:
        unit: the passes that were called, without those that had failed before.
        log: the pass behind each rewrite, in order; one entry for a pass that is no rule.
    """

    unit: Unit
    log: tuple[int, ...]


class Group:
    """Neighbouring rewrite passes.

    Undoing is replaying: passes are deterministic, so the model before a call, or in the middle of
    one, is made again from the model at the start and the calls since. Nothing is copied as long
    as nothing fails.

    Args:
        passes: by their position in the journal.
        model: the model that they start from, which is changed.
        start: makes that model once more.
        promise: what callers rely on.
        journal: where calls are noted.
        target: the device profile.
        seed: of anything random.
        max_rounds: most repetitions.
    """

    def __init__(
        self,
        passes: Mapping[int, RewritePass],
        model: ir.Model,
        start: Callable[[], ir.Model],
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
        self._set(model)

    def _set(self, model: ir.Model) -> None:
        self._model = model
        self._nodes = count_nodes(model)
        self._facts = Facts(model)

    def run(self, check: Equivalence | None, *, each: bool) -> ir.Model:
        """The model after the passes.

        Args:
            check: verifies; None: nothing is verified.
            each: call rules one by one, and verify after each call that changed something.

        Raises:
            PassError: a pass broke its contract, and the journal raises failures.
            VerificationError: a pass changed what the model computes, likewise.
        """
        while True:
            trace = self._settle(check, each=each)
            guilty = self._blame(trace, None if each else check)
            if guilty is None:
                return self._model
            self._journal.reject(*guilty)
            self._set(self._start())

    def _settle(self, check: Equivalence | None, *, each: bool) -> list[_Step]:
        """Call the passes in turns; return the calls, in order, that changed the model."""
        trace: list[_Step] = []
        seen: dict[Unit, int] = {}  # the length of the trace when a unit was called last
        units = self._units(together=not each)
        for _ in range(self._max_rounds):
            for unit in units:
                if seen.get(unit) == len(trace):
                    continue
                seen[unit] = len(trace)
                step = self._call(unit, trace, check, each=each)
                if step is not None:
                    trace.append(step)
            if all(seen[unit] == len(trace) for unit in units):
                return trace
        _log.warning("passes still change the model after %d rounds", self._max_rounds)
        return trace

    def _units(self, *, together: bool) -> list[Unit]:
        def key(index: int) -> tuple[int, int]:
            one = self._passes[index]
            return (-1, one.phase) if together and isinstance(one, Rule) else (index, 0)

        return [tuple(unit) for _, unit in itertools.groupby(self._passes, key)]

    def _call(
        self, unit: Unit, trace: Sequence[_Step], check: Equivalence | None, *, each: bool
    ) -> _Step | None:
        """Call the passes of a unit and check them; None where nothing was changed, or kept."""
        while unit := tuple(index for index in unit if not self._journal.failed(index)):
            watch, before = Stopwatch(), self._nodes
            try:
                step = self._apply(unit, watch, before, strict=check is not None)
                if step is not None and each and check is not None:
                    why = _difference(check, self._model)
                    if why is not None:
                        name = self._passes[unit[0]].name
                        raise _FailedError(unit[0], VerificationError(_guilty(name, why)))
            except _FailedError as failure:
                self._set(self._replay(trace))
                self._journal.note(failure.index, watch.read(), (before, before), None)
                self._journal.reject(failure.index, failure.error)
            else:
                return step
        return None

    def _apply(self, unit: Unit, watch: Stopwatch, before: int, *, strict: bool) -> _Step | None:
        """Call the passes of a unit, look at what they left, and note it in the journal."""
        ctx = context(self._model, self._target, self._seed, self._facts)
        rules = self._rules(unit)
        if rules:
            step = self._drive(unit, rules, ctx, watch, before)
        else:
            (index,) = unit
            one = self._passes[index]
            strict = strict or not type(one).__module__.startswith(_OWN)
            try:
                result = call(one, self._model, ctx, self._promise, strict=strict)
            except OnnxslimError as error:
                raise _FailedError(index, error) from error
            if result.model is not self._model:
                self._set(result.model)
            elif result.modified:
                self._facts.forget()
                self._nodes = count_nodes(self._model)
            self._journal.note(index, watch.read(), (before, self._nodes), result)
            step = _Step(unit, (index,) if result.modified else ())
        return step if step.log else None

    def _drive(
        self,
        unit: Unit,
        rules: Sequence[Rule],
        ctx: PassContext,
        watch: Stopwatch,
        before: int,
    ) -> _Step:
        try:
            driven = drive(self._model, rules, ctx)
        except RuleError as error:
            name, cause = rules[error.index].name, error.__cause__
            found = PassError(
                f"the pass {name!r} raised {type(cause).__name__} at {error.where}: {cause}"
            )
            raise _FailedError(unit[error.index], found) from error
        step = _Step(unit, tuple(unit[i] for i in driven.log))
        if step.log:
            self._nodes = count_nodes(self._model)
        counts = before, self._nodes
        self._journal.note_drive(unit, watch.read(), counts, self._model, driven)
        return step

    def _broken(self, model: ir.Model) -> str | None:
        return problem(model) or broken_promise(self._promise, signature(model))

    def _rules(self, unit: Unit) -> list[Rule]:
        """The rules of a unit; none where it is a pass of another kind."""
        found = [self._passes[index] for index in unit]
        return [one for one in found if isinstance(one, Rule)]

    def _replay(self, trace: Sequence[_Step], most: int | None = None) -> ir.Model:
        """The model after the steps of `trace`, or after the first `most` rewrites in them."""
        model = self._start()
        facts = Facts(model)
        for step in trace:
            if most is not None and most <= 0:
                break
            ctx = context(model, self._target, self._seed, facts)
            rules = self._rules(step.unit)
            if rules:
                drive(model, rules, ctx, limit=len(step.log) if most is None else most)
            else:
                model = self._passes[step.unit[0]](model, ctx).model
                facts = Facts(model)
            if most is not None:
                most -= len(step.log)
        return model

    def _blame(
        self, trace: Sequence[_Step], check: Equivalence | None
    ) -> tuple[int, OnnxslimError] | None:
        """The pass that broke the model, or made it compute something else; None if none did."""
        if not trace:
            return None
        why = self._broken(self._model)
        if why is not None:
            guilty, why, _, _ = self._bisect(trace, why, self._broken)
            name = self._passes[guilty].name
            return guilty, PassError(f"the pass {name!r} left a broken model: {why}")
        if check is None or (why := _difference(check, self._model)) is None:
            return None
        guilty, why, right, wrong = self._bisect(trace, why, lambda m: _difference(check, m))
        try:
            node = first_difference(right, wrong, check.data[0])
        except InputError:  # the wrong model does not even run
            node = None
        place = f", first at {node.op_type} {node.name!r}" if node is not None else ""
        return guilty, VerificationError(_guilty(self._passes[guilty].name, why + place))

    def _bisect(
        self, trace: Sequence[_Step], why: str, wrong_with: Callable[[ir.Model], str | None]
    ) -> tuple[int, str, ir.Model, ir.Model]:
        """The pass behind the rewrite that made the model wrong.

        Args:
            trace: steps that lead from a right model to a wrong one.
            why: what is wrong after the last.
            wrong_with: what is wrong with a model, or None.

        Returns:
            The position of the pass, what is wrong after its rewrite, and the models before and
            after it.
        """
        log = [index for step in trace for index in step.log]
        low, high = 0, len(log)  # after `low` rewrites the model is right, after `high` wrong
        while high - low > 1:
            middle = (low + high) // 2
            found = wrong_with(self._replay(trace, middle))
            if found is None:
                low = middle
            else:
                high, why = middle, found
        return log[high - 1], why, self._replay(trace, low), self._replay(trace, high)


class _FailedError(Exception):
    """A pass failed.

    Args:
        index: its position.
        error: what is to be told.
    """

    def __init__(self, index: int, error: OnnxslimError) -> None:
        super().__init__(str(error))
        self.index = index
        self.error = error


def _difference(check: Equivalence, model: ir.Model) -> str | None:
    try:
        return check.difference(model)
    except InputError as error:  # the original ran, so this is not the user's fault
        return f"it does not run any more: {error}"


def _guilty(name: str, why: str) -> str:
    return f"the pass {name!r} changed what the model computes: {why}"
