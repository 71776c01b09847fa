"""What a run asks of calibration."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
import pytest

from onnxslim_rx.layers import Layer, weight_layers
from onnxslim_rx.passbase import CompressionPass, Skipped
from onnxslim_rx.preparation import statistics


@dataclasses.dataclass(frozen=True)
class Plain(CompressionPass):
    """Names the linear layers."""

    def layers(self, model: ir.Model) -> Iterator[Layer | Skipped]:
        """All of them."""
        return weight_layers(model, {"linear": "linear"}, min_elements=1)


@dataclasses.dataclass(frozen=True)
class Curious(Plain):
    """Wants to know ranges."""

    reads_ranges = True


@pytest.fixture
def model() -> ir.Model:
    found = ir.from_onnx_text(
        '<ir_version: 8, opset_import: ["": 17]> g (float[N,3] x, float[3,4] w) => (float[N,4] y)'
        " { y = MatMul(x, w) }"
    )
    weight = found.graph.inputs.pop()
    weight.const_value = ir.tensor(np.ones((3, 4), np.float32), name="w")
    found.graph.register_initializer(weight)
    return found


@pytest.mark.parametrize(("asks", "blind"), [(True, False), (False, False), (True, True)])
def test_ranges_are_found_where_a_pass_reads_them(model: ir.Model, asks: bool, blind: bool) -> None:
    data = [{"x": np.ones((2, 3), np.float32)}]
    passes = {"plain": Plain(), "other": Curious() if asks else Plain()}
    found = statistics(
        model, passes, data, cache=None, memory_bytes=None, seed=0, shapes_only=blind
    )
    assert len(found) == 1
    (one,) = found.values()
    wanted = asks and not blind
    assert (one.entering is not None) == (one.leaving is not None) == wanted
    if one.leaving is not None:
        assert one.leaving.high == 3.0
