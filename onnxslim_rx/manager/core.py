"""The manager itself: groups passes, runs them, keeps the journal."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable
from typing import Literal, TypeVar

import onnx_ir as ir

from onnxslim_rx import registry
from onnxslim_rx.errors import InputError, PassError, VerificationError
from onnxslim_rx.ir import ModelLike, clone, kind_of, load, to_kind
from onnxslim_rx.manager.compress import carry_out, check_runs
from onnxslim_rx.manager.contract import inspect
from onnxslim_rx.manager.equivalence import Equivalence
from onnxslim_rx.manager.group import Group
from onnxslim_rx.manager.invariants import count_nodes, problem, signature
from onnxslim_rx.manager.journal import Journal, ManagerResult, OnFailure, Stopwatch
from onnxslim_rx.passbase import CompressionPass, RewritePass
from onnxslim_rx.progress import task
from onnxslim_rx.targets import Target, load_target

__all__ = ["PassManager"]

Verify = Literal["end", "each"]
_T = TypeVar("_T")


class PassManager:
    """Runs passes over a model.

    Neighbouring rewrite passes are repeated together until none changes anything. A compression
    pass runs once; on each of its layers it carries out its first candidate.

    In the end the graph must be valid, and names, types and dimensions of inputs and outputs,
    versions of operators and metadata must have survived; what broke it is found by bisection.
    After each call of a pass of others, and of all passes where results are verified, what it
    says of itself is compared with what it did as well. Rules cannot be wrong about that: their
    driver counts.

    Args:
        passes: instances, classes (all options at their defaults) or registered names.
        verify: compare outputs with those from before, on seeded inputs: at the "end" of each
            run of rewrite passes (a failure is then traced to the guilty pass), after "each"
            pass, or not at all (None). What a compression pass computes must differ, so there it
            is only asked to run and to be finite where it was.
        target: the device profile, by name or as a file.
        seed: of inputs and of anything random.
        max_rounds: most repetitions of neighbouring rewrite passes, at least 1.
        on_failure: "raise" what went wrong, or "rollback": undo the pass, note it in the
            journal, and go on without it.

    Raises:
        InputError: an unknown pass or target, or an option outside its range.
    """

    def __init__(
        self,
        passes: Iterable[registry.Pass | registry.PassType | str],
        *,
        verify: Verify | None = "end",
        target: str | Target = "ort-cpu",
        seed: int = 0,
        max_rounds: int = 8,
        on_failure: OnFailure = "raise",
    ) -> None:
        if verify not in ("end", "each", None):
            raise InputError(f"verify = {verify!r}", expected='"end", "each" or None')
        if on_failure not in ("raise", "rollback"):
            raise InputError(f"on_failure = {on_failure!r}", expected='"raise" or "rollback"')
        if max_rounds < 1:
            raise InputError(f"max_rounds = {max_rounds}", expected="at least 1")
        self.passes = tuple(_instance(one) for one in passes)
        self.verify = verify
        self.target = load_target(target)
        self.seed = seed
        self.max_rounds = max_rounds
        self.on_failure = on_failure

    def __call__(self, model: ModelLike) -> ModelLike:
        """Run the passes; return the same kind as `model` (for a path, the `onnx_ir.Model`).

        Raises:
            InputError: the model cannot be used, or ONNX Runtime cannot run it to verify.
            PassError: a pass broke its contract.
            VerificationError: a pass changed what the model computes.
        """
        return to_kind(self.run(load(model)).model, kind_of(model))

    def run(self, model: ir.Model, *, again: Callable[[], ir.Model] | None = None) -> ManagerResult:
        """Run the passes; raises as calling does.

        Args:
            model: left as it is, unless `again` is given.
            again: makes `model` once more, equal in all; then `model` itself is changed, which
                saves a copy where nothing has to be undone.
        """
        if why := problem(model):
            raise InputError(f"the model is not valid: {why}")
        return _Run(self, model, again).result()


def _instance(one: registry.Pass | registry.PassType | str) -> registry.Pass:
    if isinstance(one, str):
        return registry.make(one)
    if isinstance(one, type) and issubclass(one, (RewritePass, CompressionPass)):
        return one()
    if isinstance(one, (RewritePass, CompressionPass)):
        return one
    raise InputError(
        f"a pass cannot be of type {type(one).__name__}",
        expected="a pass, a class of passes, or a registered name",
    )


class _Run:
    """One run of a manager."""

    def __init__(
        self, manager: PassManager, model: ir.Model, again: Callable[[], ir.Model] | None
    ) -> None:
        self.manager = manager
        self.model = model
        self.again = again
        rewrites = [one for one in manager.passes if isinstance(one, RewritePass)]
        rises = any(one.raises_opset for one in rewrites)
        self.promise = dataclasses.replace(signature(model), may_rise=rises)
        self.journal = Journal([one.name for one in manager.passes], manager.on_failure)
        self.unverified = ""

    def result(self) -> ManagerResult:
        """Run all passes."""
        passes = dict(enumerate(self.manager.passes))
        # neighbouring rewrite passes together (key -1), each compression pass alone
        keys = {i: -1 if isinstance(one, RewritePass) else i for i, one in passes.items()}
        groups = [list(group) for _, group in itertools.groupby(passes, keys.__getitem__)]
        if not groups:
            self.model = clone(self.model)
        with task("passes", total=len(groups)) as advance:
            for group in groups:
                rewrites = {i: p for i in group if isinstance(p := passes[i], RewritePass)}
                if rewrites:
                    self.rewrite(rewrites)
                else:
                    self.compress(group[0])
                advance(1)
        for one in passes.values():
            if isinstance(one, CompressionPass):
                one.release(self.model)
        return ManagerResult(self.model, self.journal.entries, self.unverified)

    def rewrite(self, passes: dict[int, RewritePass]) -> None:
        """Run a group of rewrite passes."""
        check = self.if_it_runs(lambda: Equivalence(self.model, seed=self.manager.seed))
        start, self.again = self.again, None  # later groups start from what this one made
        if start is None or check is not None:  # which compares with the original
            original = self.model
            self.model, start = clone(original), lambda: clone(original)
        group = Group(
            passes,
            self.model,
            start,
            promise=self.promise,
            journal=self.journal,
            target=self.manager.target,
            seed=self.manager.seed,
            max_rounds=self.manager.max_rounds,
        )
        self.model = group.run(check, each=self.manager.verify == "each")

    def compress(self, index: int) -> None:
        """Run a compression pass."""
        one = self.manager.passes[index]
        assert isinstance(one, CompressionPass)  # groups of rewrite passes are run elsewhere
        start, self.model, self.again = self.model, clone(self.model), None
        watch, before = Stopwatch(), count_nodes(start)
        try:
            result = carry_out(one, self.model, self.manager.target)
            inspect(one.name, self.model, self.promise)
            seed = self.manager.seed
            if result.modified:
                self.if_it_runs(lambda: check_runs(one.name, start, self.model, seed))
        except (PassError, VerificationError) as failure:
            self.model = start
            self.journal.note(index, watch.read(), (before, before), None)
            self.journal.reject(index, failure)
        else:
            self.journal.note(index, watch.read(), (before, count_nodes(self.model)), result)

    def if_it_runs(self, verify: Callable[[], _T]) -> _T | None:
        """The value of `verify`; None where that is not asked, or the original does not run.

        Raises:
            InputError: the original does not run, and failures are to be raised.
        """
        if self.manager.verify is None:
            return None
        try:
            return verify()
        except InputError as error:
            if self.manager.on_failure == "raise":
                raise InputError(
                    f"the model cannot be verified: {error}", advice="verify=None leaves it out"
                ) from error
            self.unverified = str(error)
            return None
