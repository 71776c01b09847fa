"""DeduplicateInitializers: equal bits are kept once."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxslim_rx.manager import PassManager
from onnxslim_rx_passes.deduplicate_initializers import DeduplicateInitializers

TWO = "g (float[4, 200] x) => (float[4, 200] y) { a = MatMul(x, v)  y = MatMul(a, w) }"


def test_equal_ones_become_the_first(rewrite, rng):
    weight = rng.standard_normal((200, 200)).astype("f")

    done = rewrite(DeduplicateInitializers(), TWO, {"v": weight, "w": weight.copy()})

    assert set(done.after.graph.initializers) == {"v"}
    assert done.entry.rewritten == 1


def test_one_element_that_differs_is_enough_to_stay(rewrite, rng):
    weight = rng.standard_normal((200, 200)).astype("f")
    other = weight.copy()
    other[77, 77] += 1  # not among the samples that are compared first

    assert not rewrite(DeduplicateInitializers(), TWO, {"v": weight, "w": other}).entry.changed


def test_type_shape_and_the_sign_of_zero_count(rewrite):
    text = """g (float[4] x) => (float[4] y, float[4] z, float[4, 1] q) {
    a = Mul(x, p)  y = Add(a, n)  i = Cast<to=1>(k)  z = Mul(x, i)  q = Expand(s, e) }"""
    weights = {
        "p": np.zeros(4, "f"),
        "n": -np.zeros(4, "f"),
        "k": np.zeros(4, "i4"),
        "s": np.zeros((4, 1), "f"),
        "e": np.array([4, 1]),
    }

    assert not rewrite(DeduplicateInitializers(), text, weights).entry.changed


def test_inputs_outputs_and_large_ones_stay(rewrite):
    text = """g (float[4] x, float[4] w) => (float[4] y, float[4] r)
    { a = Mul(x, w)  b = Mul(a, u)  c = Mul(b, v)  y = Mul(c, r) }"""
    weights = {name: np.ones(4, "f") for name in "wruv"}

    done = rewrite(DeduplicateInitializers(), text, weights)
    assert set(done.after.graph.initializers) == {"w", "r", "u"}

    done = rewrite(DeduplicateInitializers(max_bytes=15), text, weights)
    assert not done.entry.changed
    assert done.reasons == ["has 16 bytes"] * 2


def test_arrays_that_are_not_contiguous(rng):
    weight = rng.standard_normal((30, 20)).astype("f")
    x = ir.val("x", ir.DataType.FLOAT, [2, 20])
    tape = ir.tape.Tape()
    first, second = (tape.initializer(ir.tensor(weight.T, name=name)) for name in "ab")
    y = tape.op("Add", [tape.op("MatMul", [x, first]), tape.op("MatMul", [x, second])])
    y.name, y.type = "y", ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph(
        [x], [y], nodes=tape.nodes, initializers=tape.initializers, opset_imports={"": 17}, name="g"
    )

    result = PassManager([DeduplicateInitializers()]).run(ir.Model(graph, ir_version=8))

    assert len(result.model.graph.initializers) == 1
