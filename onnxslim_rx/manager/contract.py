"""One call of a pass, held to the pass's contract."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from onnxslim_rx.analysis.facts import Facts
from onnxslim_rx.errors import OnnxslimError, PassError
from onnxslim_rx.manager.invariants import (
    Signature,
    broken_promise,
    fingerprint,
    problem,
    signature,
)
from onnxslim_rx.passbase import PassContext, PassResult, RewritePass
from onnxslim_rx.runtime import evaluate
from onnxslim_rx.targets import Target

__all__ = ["call", "context", "guarded", "inspect"]


def context(model: ir.Model, target: Target, seed: int, facts: Facts | None = None) -> PassContext:
    """What is lent to a pass that works on `model`."""
    return PassContext(
        evaluate=lambda nodes, feeds: evaluate(nodes, feeds, model.opset_imports),
        target=target,
        seed=seed,
        facts=facts,
    )


def call(
    one: RewritePass,
    model: ir.Model,
    ctx: PassContext,
    promise: Signature,
    *,
    strict: bool,
) -> PassResult:
    """Call a rewrite pass and check what it says and what it left.

    Args:
        one: the pass.
        model: what it works on.
        ctx: what is lent to it.
        promise: what callers of the model rely on.
        strict: look at what it left, and compare with what it says of `modified`; else only
            whether it raised counts.

    Raises:
        PassError: it raised, lied about `modified`, or left a broken model.
    """
    before = fingerprint(model) if strict else None

    def run() -> PassResult:
        one.requires(model)
        result = one(model, ctx)
        one.ensures(result.model)
        return result

    result = guarded(one.name, run)
    if before is not None:
        changed = fingerprint(result.model) != before
        if changed and not result.modified:
            raise PassError(f"the pass {one.name!r} says that it left the model, and it changed it")
        if result.modified and not changed:
            raise PassError(f"the pass {one.name!r} says that it changed the model, and it did not")
        if result.modified:
            inspect(one.name, result.model, promise)
    return result


def guarded(name: str, run: Callable[[], PassResult]) -> PassResult:
    """What `run`, which is code of the pass `name`, returns.

    Raises:
        PassError: it raised something that is not an error of this package.
    """
    try:
        return run()
    except OnnxslimError:
        raise
    except Exception as error:  # whatever a third party's pass raises is its fault
        raise PassError(f"the pass {name!r} raised {type(error).__name__}: {error}") from error


def inspect(name: str, model: ir.Model, promise: Signature) -> None:
    """Look at what the pass `name` left.

    Raises:
        PassError: the graph is not valid, or callers lost something that they rely on.
    """
    why = problem(model) or broken_promise(promise, signature(model))
    if why is not None:
        raise PassError(f"the pass {name!r} left a broken model: {why}")
