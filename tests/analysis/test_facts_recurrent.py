"""Facts about recurrent layers: all results have one batch and one hidden size."""

from __future__ import annotations

import pytest
from onnx import parser

from onnxslim_rx.analysis.facts import Facts
from onnxslim_rx.ir import load

TEXT = """<ir_version: 8, opset_import: ["": {opset}]>
g ({inputs}, float[{d}, W, I] w, float[{d}, W, 5] r, float[{d}, B, 5] h) => (float[A] y)
{{ y, yh{c} = {op}<{attributes}>(x, w, r, , , h) }}"""


def shapes(op, x, *, attributes="hidden_size = 5", d=1, opset=17):
    text = TEXT.format(
        op=op,
        inputs=x,
        attributes=attributes,
        d=d,
        opset=opset,
        c=", yc" if op == "LSTM" else "",
    )
    model = load(parser.parse_model(text))
    facts = Facts(model)
    return [facts.shape(value) for value in model.graph[0].outputs]


@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
def test_sizes_come_from_the_input(op):
    whole, *last = shapes(op, "float[T, 3, I] x")

    assert [str(dim) for dim in whole] == ["T", "1", "3", "5"]
    assert set(last) == {(1, 3, 5)}


def test_an_input_of_unknown_rank_leaves_the_batch_to_the_state():
    whole, hidden, cell = shapes("LSTM", "float[] x".replace("[]", ""))

    assert hidden == cell == (1, whole[2], 5)
    assert str(whole[2]) == "B"


@pytest.mark.parametrize("hidden", ["hidden_size = 5, ", ""])
def test_both_directions_and_batch_first(hidden):
    attributes = f'{hidden}direction = "bidirectional", layout = 1'
    whole, last = shapes("GRU", "float[2, T, I] x", attributes=attributes, d=2)

    assert [str(dim) for dim in whole] == ["2", "T", "2", "5"]
    assert last == (2, 2, 5)
