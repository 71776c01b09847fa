"""A compression pass without a planner: its first candidate on every layer."""

from __future__ import annotations

import onnx_ir as ir

from onnxslim_rx import registry
from onnxslim_rx.errors import InputError, VerificationError
from onnxslim_rx.manager.contract import guarded
from onnxslim_rx.manager.invariants import fingerprint
from onnxslim_rx.passbase import CompressionPass, Layer, PassResult, Skipped
from onnxslim_rx.runtime import Runner
from onnxslim_rx.stages import Treatment, apply_treatments, finish
from onnxslim_rx.targets import Target
from onnxslim_rx.verify import compare_runs, generate_inputs

__all__ = ["carry_out", "check_runs"]


def carry_out(one: CompressionPass, model: ir.Model, target: Target) -> PassResult:
    """Treat each layer of `model` with the first candidate that `one` offers, in place.

    Raises:
        PassError: the pass raised.
    """
    before = fingerprint(model)
    result = guarded(one.name, lambda: _treat(one, model, target))
    return PassResult(model, fingerprint(model) != before, result.rewritten, result.skipped)


def _treat(one: CompressionPass, model: ir.Model, target: Target) -> PassResult:
    treatments: list[Treatment] = []
    skipped: list[Skipped] = []
    for layer in one.layers(model):
        if not isinstance(layer, Layer):
            skipped.append(layer)
            continue
        first = next(iter(one.candidates(layer, None, target)), None)
        if first is None:
            skipped.append(Skipped(layer.name, "nothing that the options allow pays here"))
        else:
            treatments.append((layer, first.stages, None))
    passes = {one.name: one}
    for name in sorted({stage.pass_name for _, stages, _ in treatments for stage in stages}):
        if name not in passes:
            other = registry.make(name)
            assert isinstance(other, CompressionPass)  # no others make stages
            passes[name] = other
    refused = apply_treatments(model, treatments, passes)
    finish(model, [stages for _, stages, _ in treatments], passes)
    left = {entry.where for entry in refused}
    done = sum(1 for layer, _, _ in treatments if layer.name not in left)
    return PassResult(model, done > 0, done, (*skipped, *refused))


def check_runs(name: str, before: ir.Model, after: ir.Model, seed: int) -> None:
    """Ask a compressed model to run, and to be finite where the original is.

    Raises:
        InputError: the original cannot be run.
        VerificationError: the compressed one does not, or not with finite numbers.
    """
    data = generate_inputs(before, samples=1, seed=seed)
    reference = Runner(before)
    try:
        failures = compare_runs(reference, Runner(after), data).failures
    except InputError as error:
        raise VerificationError(f"the pass {name!r} broke the model: {error}") from error
    if failures:
        raise VerificationError(f"the pass {name!r} broke the model: {failures[0]}")
