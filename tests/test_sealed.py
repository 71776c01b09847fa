"""Before version 4 of the format initializers are listed as inputs, and are constants."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

import onnxslim_rx as rx
from onnxslim_rx.errors import InputError
from onnxslim_rx.ir import constant, load, to_kind
from onnxslim_rx.runtime import Runner

TEXT = """g (float[2, 3] x, float[3] w, float[3] c) => (float[2, 3] y)
    { i = Identity(w)  k = Add(i, c)  y = Mul(x, k) }"""


def build(version):
    model = parser.parse_model(f'<ir_version: {version}, opset_import: ["": 9]>\n{TEXT}')
    for name, numbers in (("w", [1, 2, 3]), ("c", [1, 1, 1])):
        array = np.asarray(numbers, dtype=np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


def run(model):
    return Runner(load(model))({"x": np.ones((2, 3), np.float32)})["y"]


def test_they_are_folded_and_leave_no_unused_copy():
    result: Any = rx.simplify(build(3))

    assert [node.op_type for node in result.graph.node if node.op_type != "Constant"] == ["Mul"]
    assert [value.name for value in result.graph.input] == ["x"]
    assert not result.graph.initializer  # version 3 would have to list it as an input
    onnx.checker.check_model(result, full_check=True)
    np.testing.assert_array_equal(run(result), run(build(3)))


def test_from_version_4_on_callers_may_feed_them():
    result: Any = rx.simplify(build(4))

    assert [value.name for value in result.graph.input] == ["x", "w", "c"]
    assert len(result.graph.initializer) == 2


@pytest.mark.parametrize("version", [3, 4])
def test_onnxruntime_agrees_on_who_may_be_fed(version):
    """What the code relies on: version 3 refuses to be fed an initializer, version 4 takes it."""
    runner = Runner(load(build(version)))
    feeds = {"x": np.ones((2, 3), np.float32), "w": np.full(3, 9, np.float32)}

    if version == 3:
        with pytest.raises(InputError, match="w"):
            runner(feeds)
    else:
        assert runner(feeds)["y"][0, 0] == 10


def test_a_copy_and_a_model_in_memory_know_it_too():
    model = load(to_kind(load(build(3)), "ir"))

    assert constant(model.graph.inputs[1]) is not None
    assert constant(model.clone().graph.inputs[1]) is not None
