"""Tables that rows are sliced from are stored in fewer bits as well, row by row."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

import onnxslim_rx as rx
from onnxslim_rx.passbase import Layer
from onnxslim_rx.runtime import Runner
from onnxslim_rx_passes._picked_layers import PICKED, picked_layers
from onnxslim_rx_passes.quantize_weights import QuantizeWeights
from tests.passes.conftest import build

TEXT = """g (float[1, n, 24] x, int64[1] n1) => (float[1, n, 24] y) {
    zero = Constant <value = int64[1] {0}> ()
    rows = Slice(table, zero, n1, zero)
    y = Add(x, rows)
}"""


def tables(text, table):
    return list(picked_layers(build(text, {"table": table}), 512))


def test_rows_have_scales_of_their_own(rng):
    table = (rng.standard_normal((64, 24)) * np.logspace(0, -4, 64)[:, None]).astype(np.float32)
    model = build(TEXT, {"table": table})
    (layer,) = (
        one
        for one in QuantizeWeights().layers(model)
        if isinstance(one, Layer) and one.kind == PICKED
    )
    assert layer.name == "table"
    made = rx.PassManager([QuantizeWeights(bits=8, group=0)], verify=None)(model)
    feeds = {"x": np.zeros((1, 40, 24), np.float32), "n1": np.array([40])}
    found = Runner(made)(feeds)["y"][0]
    # 255 values over the range of each row, of which the loudest is 3,000 times the quietest: to
    # nearest at most half a step, 0.7% of the root mean square at a peak of 3.5 of it
    lost = np.linalg.norm(found - table[:40], axis=1) / np.linalg.norm(table[:40], axis=1)
    assert lost.max() < 0.01
    assert isinstance(made, ir.Model)
    tensors = [tensor for v in made.graph.initializers.values() if (tensor := v.const_value)]
    assert {tensor.dtype for tensor in tensors if tensor.size > 500} == {ir.DataType.INT8}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("y = Add(x, rows)", "z = Add(x, rows)  y = MatMul(z, square)"),  # a reader of another kind
        ("Slice(table, zero, n1, zero)", "Slice(table, zero, one, zero)"),  # folds away
        ("Slice(table, zero, n1, zero)", "Gather(table, n1)"),  # an embedding
    ],
)
def test_others_are_none(rng, old, new):
    text = TEXT.replace(old, new).replace(
        "rows =", "one = Constant <value = int64[1] {8}> () rows ="
    )
    if "square" in text:
        text = text.replace("square", "table")
        table = rng.standard_normal((24, 24)).astype(np.float32)
    else:
        table = rng.standard_normal((64, 24)).astype(np.float32)
    assert tables(text, table) == []
    assert tables(TEXT, table[:10]) == []  # too small


def test_vectors_are_left_alone(rng):
    text = TEXT.replace("[1, n, 24]", "[n]")
    assert tables(text, rng.standard_normal(1024).astype(np.float32)) == []
