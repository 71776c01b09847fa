"""What a plan names and is no longer there: left out where a treatment took it, else refused."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
import onnx_ir as ir
import pytest

from onnxslim_rx.errors import InputError
from onnxslim_rx.passbase import CompressionPass, Stage, weight_layers
from onnxslim_rx.planner import apply_plan
from onnxslim_rx.plans import LayerPlan
from onnxslim_rx_passes.quantize_dynamic import QuantizeDynamic
from tests.passes.conftest import build

TEXT = "g (float[n, 64] x) => (float[n, 96] y) { y = MatMul(x, w) }"


@dataclasses.dataclass(frozen=True)
class Narrower(CompressionPass):
    """Stands in for passes that leave a part of a weight: half of its columns, and no names."""

    name: ClassVar[str] = "narrower"
    partial: ClassVar[bool] = True

    def layers(self, model):
        return weight_layers(model, {"linear": "linear"}, min_elements=1)

    def apply(self, layer, stage, stats, tape):
        half = layer.weight.const_value.numpy()[:, ::2]
        weight = tape.initializer(ir.tensor(np.ascontiguousarray(half), name="half"))
        y = tape.op("MatMul", [layer.activation, weight])
        return {layer.output: tape.op("Concat", [y, y], {"axis": 1}), layer.weight: weight}


def test_a_layer_that_another_treatment_took_is_left_out(rng):
    model = build(TEXT, {"w": rng.standard_normal((64, 96)).astype(np.float32)})
    passes = {one.name: one for one in (Narrower(), QuantizeDynamic())}  # from 4,096 entries on
    integers = Stage("quantize-dynamic", {"bits": 8})
    _, refused = apply_plan(model, [LayerPlan("w", (integers,))], passes, {})
    assert refused == []
    # plans of one layer each: the bundle of both is what the planner makes
    both = [LayerPlan("w", (Stage("narrower"),)), LayerPlan("w", (integers,))]
    made, (skipped,) = apply_plan(model, both, passes, {})
    assert skipped.where == "w"
    assert "quantize-dynamic" in skipped.why
    assert [node.op_type for node in made.graph] == ["MatMul", "Concat"]


def test_a_layer_that_never_was_is_refused(rng):
    model = build(TEXT, {"w": rng.standard_normal((64, 96)).astype(np.float32)})
    one = QuantizeDynamic()
    plan = [LayerPlan("another", (Stage("quantize-dynamic", {"bits": 8}),))]
    with pytest.raises(InputError, match="finds no layer 'another'"):
        apply_plan(model, plan, {one.name: one}, {})
