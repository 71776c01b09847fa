"""Does a rewritten model still compute the same, up to rounding?

A rewrite is exact in real arithmetic, so all that may differ is rounding. How much that is
depends on the model. Two numbers bound it, and the larger holds, for the relative error
`||y' - y||_2 / ||y||_2` of each output:

- what rounding theory expects of any model of this size: `4 u sqrt(K L)` with u the unit roundoff,
  K the longest sum of a layer and L the number of nodes. Errors of independent roundings grow
  with the root of their number (Higham & Mary, SIAM J. Sci. Comput. 41(5), 2019).
- sixteen times the model's own noise: how far ONNX Runtime's optimised run of the original lies
  from the plain run of it. This covers models that amplify rounding, and random operators.

For outputs that are not floating point the same numbers bound the share of unequal elements.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

import numpy.typing as npt
import onnx_ir as ir

from onnxslim_rx.ir import clone, constant, nodes
from onnxslim_rx.runtime import Runner
from onnxslim_rx.verify import OutputError, compare_runs, generate_inputs

__all__ = ["Equivalence", "first_difference", "rounding_bound"]

Array = npt.NDArray[Any]

_NOISE_FACTOR = 16.0
_SAMPLES = 2
_ROUNDOFF = {ir.DataType.FLOAT16: 2.0**-11, ir.DataType.BFLOAT16: 2.0**-8}
_FLOAT32_ROUNDOFF = 2.0**-24
_MOST_TRACED_NODES = 2000  # values of all nodes of a larger model would fill the memory


class Equivalence:
    """Compares models with one reference, on the same seeded inputs.

    Args:
        reference: what is right; must not be changed while this is in use.
        seed: of the inputs.

    Raises:
        InputError: ONNX Runtime cannot run the reference, or no inputs can be made for it.
    """

    def __init__(self, reference: ir.Model, *, seed: int = 0) -> None:
        self.data = generate_inputs(reference, samples=_SAMPLES, seed=seed)
        self._model = reference
        runner = Runner(reference)
        self._right = [(sample, runner(sample)) for sample in self.data]
        self._bound = rounding_bound(reference)

    @functools.cached_property
    def _noise(self) -> Mapping[str, float]:
        """The model's own noise by output; measured where rounding theory does not suffice."""
        plain = compare_runs(self._reference, Runner(self._model, optimize=False), self.data)
        return {output.name: _error(output) for output in plain.outputs}

    def _reference(self, sample: Mapping[str, Array]) -> Mapping[str, Any]:
        return next(outputs for known, outputs in self._right if known is sample)

    def difference(self, model: ir.Model) -> str | None:
        """What `model` computes differently, beyond rounding, or None.

        Raises:
            InputError: ONNX Runtime cannot run it.
        """
        found = compare_runs(self._reference, Runner(model), self.data)
        for output in found.outputs:
            limit, error = self._bound, _error(output)
            if error > limit:
                limit = max(limit, _NOISE_FACTOR * self._noise.get(output.name, 0.0))
            if error > limit:
                detail = output.failures[0] if output.failures else f"error {error:.1e}"
                return f"output {output.name!r}: {detail}, of which rounding explains {limit:.1e}"
        return None


def _error(output: OutputError) -> float:
    """Relative error of a float output, share of unequal elements of any other."""
    if output.failures:
        return math.inf
    if output.kind == "float":
        return float(10.0 ** (-output.snr_db / 20.0))
    return 1.0 - float(output.per_sample.min())


def rounding_bound(model: ir.Model) -> float:
    """Relative error that rounding alone may cause (see above), no unit."""
    sums, count, roundoff = 64, 0, _FLOAT32_ROUNDOFF
    for node in nodes(model):
        count += 1
        for value in (*node.inputs, *node.outputs):
            dtype = None if value is None else value.dtype
            roundoff = max(roundoff, _ROUNDOFF.get(dtype, 0.0)) if dtype else roundoff
        if node.op_type in ("MatMul", "Gemm", "Conv", "ConvTranspose") and len(node.inputs) > 1:
            weight = constant(node.inputs[1])
            if weight is not None and weight.size:
                sums = max(sums, weight.size // min(weight.shape.numpy()))
    return 4.0 * roundoff * math.sqrt(sums * max(count, 1))


def first_difference(
    before: ir.Model, after: ir.Model, sample: Mapping[str, Array]
) -> ir.Node | None:
    """The first node of `after` that computes a value otherwise than `before` does.

    Values are matched by name, in the main graph. None where no value tells, or the models are
    too large to look at every value.
    """
    old = {value.name for node in before.graph for value in node.outputs if value.name}
    made = [(value.name, node) for node in after.graph for value in node.outputs]
    common = {name: node for name, node in made if name in old}
    if len(common) > _MOST_TRACED_NODES or not common:
        return None
    runs = [Runner(_with_outputs(model, common), optimize=False) for model in (before, after)]
    found = compare_runs(runs[0], runs[1], [sample], outputs=list(common))
    limit = rounding_bound(before)
    for output in found.outputs:  # in the order of the nodes
        if _error(output) > limit:
            return common[output.name.partition("[")[0]]
    return None


def _with_outputs(model: ir.Model, names: Mapping[str, ir.Node]) -> ir.Model:
    copy = clone(model)
    values = {value.name: value for node in copy.graph for value in node.outputs}
    copy.graph.outputs[:] = [values[name] for name in names]
    return copy
