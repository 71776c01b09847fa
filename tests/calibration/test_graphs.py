"""Graphs that are not plain chains of nodes: control flow, sequences, computed weights."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from onnxslim_rx.calibration import spool
from onnxslim_rx.passbase import Layer

CUTS = [1, 30_000, 1 << 30]  # bytes: at every node, at a few, nowhere

CONTROL = """
    h = MatMul(x, w1)
    total = ReduceSum<keepdims=0>(h)
    c = Greater(total, zero)
    b = If (c) <
        then_branch = t () => (float[N,S,6] p) { p = Add(h, x) },
        else_branch = e () => (float[N,S,6] q) { q0 = MatMul(x, w3) q = Sub(q0, h) }
    >
    parts = SplitToSequence<axis=2>(b, three)
    last = SequenceAt(parts, one)
    both = Concat<axis=2>(last, last)
    g = f.twice(both)
    m = MatMul(g, w2)
    y = Add(m, b)
"""

TWICE = '<domain: "f", opset_import: ["": 17]> twice (a) => (r) { r = Add(a, a) }'


@pytest.mark.parametrize("memory_bytes", CUTS)
def test_captures_sequences_and_functions(
    rng, steps_run, memory_bytes, model_of, assert_statistics, noise
):
    model = model_of(
        "float[N,S,6] x => float[N,S,6] y",
        CONTROL,
        TWICE,
        **{name: noise(rng, 6, 6) for name in ("w1", "w2", "w3")},
        zero=np.array(0, np.float32),
        one=np.array(1),
        three=np.array(3),
    )
    data = [{"x": rng.standard_normal((1, s, 6)).astype(np.float32)} for s in (3, 8, 2, 5)]
    assert_statistics(model, data, memory_bytes)
    # the sequence is met on the way, and the cut moves
    assert len(steps_run) == (2 if memory_bytes == 1 else 1)


@pytest.mark.parametrize("overridable", [False, True])
def test_weights_that_are_computed_are_not_written_to_disk(
    rng, monkeypatch, overridable, collect, model_of, noise, producer
):
    quantized = rng.integers(-127, 127, (6, 6)).astype(np.int8)
    model = model_of(
        "float[N,6] x => float[N,5] y",
        """
        h = MatMul(x, w1)  f = Cast<to=1>(q)  w = Mul(f, scale)  a = MatMul(h, w)
        b = Relu(a)  c = Mul(b, w)  y = MatMul(c, w2)
        """,
        w1=noise(rng, 6, 6),
        q=quantized,
        scale=np.full(6, 0.01, np.float32),
        w2=noise(rng, 6, 5),
    )
    if overridable:
        model.graph.inputs.append(model.graph.initializers["q"])
    saved = set()
    write = spool.Spool.writer

    def noting(self, names, stack):
        names = list(names)
        saved.update(names)
        return write(self, names, stack)

    monkeypatch.setattr(spool.Spool, "writer", noting)
    layers = [
        Layer(weight, "MatMul", "linear", producer(model, output), 1, 0)
        for weight, output in (("w1", "h"), ("w", "a"), ("w2", "y"))
    ]
    statistics = collect(model, layers, [{"x": noise(rng, 6, 6)}], memory_bytes=1)
    assert len(statistics) == 3
    assert saved
    assert not saved & {"f", "w"}


def test_random_nodes_are_not_run_anew_in_each_block(rng, collect, model_of, layers_of, noise):
    """Both layers must see the same random numbers, which lie before a cut."""
    model = model_of(
        "float[4,6] x => float[4,6] y",
        """
        k = Neg(zero) r = RandomNormal<shape=[4,6]>() a = MatMul(r, w1) z = Mul(x, zero)
        b = Sum(z, k, r) y = MatMul(b, w2)
        """,
        w1=noise(rng, 6, 6),
        w2=noise(rng, 6, 6),
        zero=np.zeros(6, np.float32),
    )
    statistics = collect(model, layers_of(model), [{"x": noise(rng, 4, 6)}] * 3, memory_bytes=1)
    np.testing.assert_array_equal(statistics["w1:a"].gram, statistics["w2:y"].gram)


def test_strings_do_not_cross_a_cut(rng, steps_run, model_of, assert_statistics, noise):
    model = model_of(
        "float[N,6] x => float[N,5] y",
        "h = MatMul(x, w1) r = Round(h) s = Cast<to=8>(r) i = Identity(s) f = Cast<to=1>(i)"
        "y = MatMul(f, w2)",
        w1=noise(rng, 6, 6),
        w2=noise(rng, 6, 5),
    )
    data = [{"x": 9 * noise(rng, 4, 6)} for _ in range(2)]
    assert_statistics(model, data, 1)
    assert len(steps_run) > 1


def test_shapes_that_the_model_states_wrongly_do_not_matter(
    rng, collect, model_of, layers_of, noise
):
    """Exporters leave the sizes of their example in the middle of models of dynamic batch."""
    model = model_of(
        "float[N,6] x => float[N,5] y",
        "a = MatMul(x, w1) b = Relu(a) y = MatMul(b, w2)",
        w1=noise(rng, 6, 6),
        w2=noise(rng, 6, 5),
    )
    for node in list(model.graph)[:2]:
        node.outputs[0].shape = ir.Shape([1, 6])
        node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    statistics = collect(model, layers_of(model), [{"x": noise(rng, 4, 6)}] * 2, memory_bytes=1)
    assert statistics["w2:y"].rows == 8
