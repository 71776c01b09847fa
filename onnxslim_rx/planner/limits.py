"""Limits on size, latency and operations, and the promise never to make a model worse."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import onnx_ir as ir

from onnxslim_rx.calibration import Dataset, fed
from onnxslim_rx.ir import size_bytes
from onnxslim_rx.plans import Budget
from onnxslim_rx.runtime import Runner, Timing, time_interleaved

__all__ = ["CostLimits"]

# A result that is slower by more than this is no improvement, whatever its size.
SLOWEST = 1.05
_SAMPLES = 4


class CostLimits:
    """Holds models against the budget's costs and against the original.

    Args:
        original: the original model, or its path.
        original_bytes: size of the original, as the user's file has it.
        budget: what must hold.
        data: samples to time on; the first few are taken.
        flops: counts the operations of a model; None where it is not known.
    """

    def __init__(
        self,
        original: ir.Model | str,
        original_bytes: int,
        budget: Budget,
        data: Dataset,
        flops: Callable[[ir.Model], int | None],
    ) -> None:
        # threads spin between runs, as in the sessions of those who will use the model
        self._reference = Runner(original, spin=True)
        self._original_bytes = original_bytes
        self._budget = budget
        inputs = self._reference.inputs
        self._samples = [fed(data[i], inputs) for i in range(min(len(data), _SAMPLES))]
        self._flops = flops

    @property
    def note(self) -> str:
        """What is to be known of latencies; empty where nothing is."""
        if not self._reference.frugal:
            return ""
        return (
            "The model is large: it was run and timed without packed copies of its weights, which"
            " ONNX Runtime makes unless session.disable_prepacking is set. Ratios of latencies hold"
            " for that; with packed weights all runs are faster."
        )

    def time(self, model: ir.Model, *, seconds: float = 0.5) -> tuple[Timing, Timing]:
        """Latency of one sample of the original and of `model`, in turns, milliseconds."""
        candidate = Runner(model, spin=True, frugal=self._reference.frugal)
        runs = [functools.partial(_run_all, r, self._samples) for r in (self._reference, candidate)]
        before, after = time_interleaved(runs, min_seconds=seconds, max_seconds=4 * seconds)
        return _per_sample(before, len(self._samples)), _per_sample(after, len(self._samples))

    def operations(self, model: ir.Model) -> int | None:
        """Operations of one sample, two per multiply-add; None: they cannot be counted."""
        return self._flops(model)

    def broken(self, model: ir.Model) -> str:
        """The limit that `model` breaks, one clause; empty where all hold."""
        budget = self._budget
        size = size_bytes(model) if budget.max_bytes is not None else 0
        if budget.max_bytes is not None and size > budget.max_bytes:
            return f"the model has {size:,} bytes, above {budget.max_bytes:,}"
        if budget.max_flops is not None:
            flops = self.operations(model)
            if flops is None:
                return "the operations of the model cannot be counted"
            if flops > budget.max_flops:
                return f"the model has {flops:,} operations, above {budget.max_flops:,}"
        if budget.max_latency is not None:
            _, after = self.time(model)
            if after.median_ms > budget.max_latency:
                return f"one run takes {after.median_ms:.3g} ms, above {budget.max_latency:g}"
        return ""

    def worse_than_before(self, model: ir.Model) -> str:
        """Why `model` is larger or slower than the original; empty where it is neither."""
        size = size_bytes(model)
        if size > self._original_bytes:
            return f"the model grows from {self._original_bytes:,} to {size:,} bytes"
        _, after = self.time(model, seconds=0.3)
        if after.ratio > SLOWEST:
            # once more and longer, before a plan is thrown away for a hiccup of the machine
            _, after = self.time(model, seconds=1.5)
        if after.ratio > SLOWEST:
            return f"one run takes {after.ratio:.2f} times as long as before"
        return ""


def _run_all(runner: Runner, samples: Sequence[dict[str, object]]) -> None:
    for sample in samples:
        runner(sample)


def _per_sample(timing: Timing, samples: int) -> Timing:
    return Timing(
        timing.median_ms / samples,
        timing.p10 / samples,
        timing.p90 / samples,
        timing.runs,
        timing.ratio,
    )
