"""Low rank for the weights of LSTM, GRU and RNN, of the inputs and of the state.

`X W^T` becomes `(X P) Q`: a product in front of the operator, and a narrower W for all directions.
The operator has no place for a factored R. So for `h P Q` the steps are written out as a Scan.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxslim_rx.errors import InputError
from onnxslim_rx.ir import marked
from onnxslim_rx.passbase import (
    Array,
    Candidate,
    Factors,
    Layer,
    LayerStatistics,
    Skip,
    Skipped,
    Stage,
    weight_layers,
)
from onnxslim_rx.targets import Target
from onnxslim_rx_passes._factors import (
    factorize,
    is_finite,
    output_curve,
    settle_method,
    spectra,
    statistics_of_input,
)
from onnxslim_rx_passes._linear import store, tensor_of
from onnxslim_rx_passes._ranks import LowRankPass
from onnxslim_rx_passes._recurrent import read_cell, why_not_written_out
from onnxslim_rx_passes._steps import Writer

__all__ = ["FactorizeRecurrent"]

_OF_INPUT, _OF_STATE = 1, 2  # which input of the operator W and R are


@dataclasses.dataclass(frozen=True, kw_only=True)
class FactorizeRecurrent(LowRankPass):
    """Replace W or R of LSTM, GRU and RNN by products of low rank.

    Shapes: X (T, B, K), W (D, G H, K), R (D, G H, H) with D directions and G gates.

    - W: ``X W^T ~= (X P) Q``, P (K, R) shared by all directions and gates; the operator stays,
      reads ``X P``, and its new W is (D, G H, R).
    - R: ``h R^T ~= h P Q``, P (D, H, R), one for each direction, shared by its gates. The operator
      becomes a product for all steps and a Scan for each direction. Nothing is known of h, so the
      weight itself is kept, not the product.

    W and R are layers of their own, each under the name of its weight.

    A step of the Scan costs some 12 us before it computes anything. Time against that of the
    operator, measured on 2 cores (ONNX Runtime 1.31, one thread, batch 1, K = H, 60% / 25% of the
    weight kept):

    ========  ===========  ===========  ===========
    H, steps  1            32           128
    ========  ===========  ===========  ===========
    LSTM, R
    128       1.52 / 1.46  2.59 / 2.39  2.69 / 2.52
    512       0.91 / 0.77  0.74 / 0.31  0.72 / 0.26
    GRU, R
    128       1.95 / 1.86  3.26 / 3.06  3.51 / 3.17
    512       1.06 / 0.75  0.81 / 0.39  0.74 / 0.32
    LSTM, W
    128       0.90 / 0.86  0.88 / 0.82  0.86 / 0.79
    512       0.82 / 0.69  0.93 / 0.84  0.95 / 0.93
    ========  ===========  ===========  ===========

    Args:
        rank, ratio, energy, max_rel_error, min_quality, rule, min_saving, min_elements: see
            `LowRankPass`.
        method: see `LowRankPass`; of R always "svd".

    Raises:
        InputError: an option outside its range, or more than one that settles the rank.

    Source: Eckart & Young, Psychometrika 1(3), 1936; shared left factors for the gates of an LSTM:
    Prabhavalkar et al., ICASSP 2016.
    """

    name: ClassVar[str] = "factorize-recurrent"

    def layers(self, model: ir.Model) -> Iterable[Layer | Skipped]:
        """W and R of recurrent operators; W also where a Scan took the operator's place."""
        found = list(
            weight_layers(model, {"recurrent": "recurrent"}, min_elements=self.min_elements)
        )
        inputs = {
            layer.node: layer
            for layer in found
            if isinstance(layer, Layer) and layer.weight_index == _OF_INPUT
        }
        for layer in found:
            if isinstance(layer, Skipped):
                yield layer
            elif why := self._why_not(layer):
                yield Skipped(layer.name, f"{layer.op}: {why}")
            elif layer.weight_index == _OF_STATE:
                # what enters is measured at W, and tells for how many steps to time it
                members = (inputs[layer.node],) if layer.node in inputs else ()
                yield dataclasses.replace(layer, members=members)
            else:
                yield layer
        for layer in weight_layers(model, {"linear": "linear"}, min_elements=self.min_elements):
            if isinstance(layer, Layer) and self._is_scanned(layer):
                yield layer

    def _why_not(self, layer: Layer) -> str | None:
        if len(layer.weight.uses()) > 1:
            return f"{len(layer.weight.uses())} nodes share it"
        if layer.weight_index == _OF_STATE:
            return why_not_written_out(layer.node)
        return "is a factor already" if self._made(layer.activation.producer()) else None

    def _is_scanned(self, layer: Layer) -> bool:
        """Whether it is what was W before R was factorized, and is no factor itself."""
        made, reader = self._made(layer.node), next((n for n, _ in layer.output.uses()), None)
        return (
            made
            and len(layer.weight.uses()) == 1
            and not self._made(layer.activation.producer())
            and reader is not None
            and reader.op_type in ("Add", "Split", "Scan")
            and self._made(reader)
        )

    def _made(self, node: ir.Node | None) -> bool:
        return node is not None and marked(node) == self.name

    def candidates(
        self, layer: Layer, stats: LayerStatistics | None, target: Target
    ) -> Iterable[Candidate]:
        """The rank that the options settle, or the ladder, where it saves enough."""
        tensor = tensor_of(layer.weight)
        if not is_finite(tensor.numpy()):
            return
        weight = _applied(layer, tensor.numpy())
        *batch, k, n = weight.shape
        top = self.largest(k, n)
        if top < 1:
            return
        known = _of_input(layer, stats)
        method = (
            "svd"
            if layer.weight_index == _OF_STATE
            else settle_method(self.method, known, self.name)
        )
        curve = output_curve(weight, method, top, known)
        for rank in self.ranks(k, n, target, curve, spectra(weight)):
            elements = math.prod(batch) * rank * (k + n)
            stage = Stage(self.name, {"method": method, "rank": rank})
            size = elements * tensor.dtype.itemsize
            yield Candidate((stage,), error=float(curve[rank]), bytes=size, flops=2 * elements)

    def transform(
        self, layer: Layer, stage: Stage, factors: Factors, stats: LayerStatistics | None
    ) -> Factors:
        """`(P, Q)`: of W (K, R) and (R, D G H), of R (D, H, R) and (D, R, G H)."""
        if len(factors) != 1:
            raise InputError(f"{layer.name} is factorized already", expected="one weight")
        return self._factorize(layer, stage, factors[0], stats)

    def restore(self, layer: Layer, factors: Factors) -> Factors:
        """The weight, in the layout of the operator's own, that `factors` stand for."""
        product = factors[0] if len(factors) == 1 else np.matmul(*factors)
        if len(factors) == 1 or layer.op == "MatMul":
            return (product,)
        shape = tensor_of(layer.weight).shape.numpy()
        return (np.swapaxes(product, -1, -2).reshape(shape),)

    def apply(
        self, layer: Layer, stage: Stage, stats: LayerStatistics | None, tape: ir.tape.Tape
    ) -> Mapping[ir.Value, ir.Value] | Skip:
        """Emit the narrower operator behind a product, or the steps written out."""
        tensor = tensor_of(layer.weight)
        weight = tensor.numpy()
        if not is_finite(weight):
            return Skip("the weight has NaN or infinity")
        rank = int(stage.options["rank"])
        if not 1 <= rank <= min(_applied(layer, weight).shape[-2:]):
            return Skip(f"rank {rank} does not fit a weight of {weight.shape}")
        p, q = self._factorize(layer, stage, weight, stats)
        name = str(layer.weight.name)
        if layer.weight_index == _OF_STATE:
            return self._written_out(layer, p, q, tape)
        new = q if layer.op == "MatMul" else q.T.reshape(*weight.shape[:-1], rank)
        first, second = store(tape, [p, new], [f"{name}.p", f"{name}.q"], tensor.dtype)
        node = layer.node
        rest = [tape.op("MatMul", [layer.activation, first]), second, *node.inputs[2:]]
        outputs = tape.op_multi_out(
            node.op_type, rest, node.attributes, num_outputs=len(node.outputs)
        )
        return {**dict(zip(node.outputs, outputs, strict=True)), layer.weight: second}

    def _written_out(
        self, layer: Layer, p: Array, q: Array, tape: ir.tape.Tape
    ) -> Mapping[ir.Value, ir.Value] | Skip:
        if why := why_not_written_out(layer.node):
            return Skip(why)
        cell, node, tensor = read_cell(layer.node), layer.node, tensor_of(layer.weight)
        arrays, names = [], []
        for number, (first, second) in enumerate(zip(p, q, strict=True)):
            before_product = cell.op == "GRU" and not cell.reset_after
            parts = np.split(second, [2 * cell.hidden], axis=1) if before_product else [second]
            arrays += [first, *parts]
            names += [f"{layer.weight.name}.{number}.{part}" for part in range(1 + len(parts))]
        factors = store(tape, arrays, names, tensor.dtype)
        of_input = node.inputs[_OF_INPUT]
        assert of_input is not None  # `why_not_written_out` has nothing against it
        (wide,) = store(tape, [cell.weight], [f"{of_input.name}.t"], tensor.dtype)
        each = len(factors) // len(p)
        graph = node.graph
        assert graph is not None  # it is in the graph that is rewritten
        writer = Writer(cell, graph.opset_imports[""], tape, str(layer.weight.name), self.name)
        made = writer.emit(
            wide, [factors[start : start + each] for start in range(0, len(factors), each)]
        )
        return {**made, of_input: wide}

    def _factorize(
        self, layer: Layer, stage: Stage, weight: Array, stats: LayerStatistics | None
    ) -> tuple[Array, Array]:
        known = _of_input(layer, stats)
        method = settle_method(str(stage.options["method"]), known, self.name)
        return factorize(_applied(layer, weight), method, int(stage.options["rank"]), known)


def _of_input(layer: Layer, stats: LayerStatistics | None) -> LayerStatistics | None:
    """What is known of the rows that the weight is multiplied with: of the state nothing."""
    if layer.weight_index == _OF_STATE:
        return None
    return statistics_of_input(stats)


def _applied(layer: Layer, stored: Array) -> Array:
    """W as (K, D G H), R as (D, H, G H), so that rows are multiplied from the left."""
    if layer.op == "MatMul":
        return stored
    flat = stored.reshape(-1, stored.shape[-1]) if layer.weight_index == _OF_INPUT else stored
    applied: Array = np.swapaxes(flat, -1, -2)
    return applied
