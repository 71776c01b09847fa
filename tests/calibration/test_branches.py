"""Layers inside bodies: measured from outside where that is possible, else with a reason."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_rx.passbase import Layer

IF = """
    h = Sin(x)
    total = ReduceSum<keepdims=0>(h)
    c = Greater(total, zero)
    late = Cos(h)
    d = Less(total, one)
    y = If (c) <
        then_branch = t () => (float[N,5] p) { p = MatMul(h, w1) },
        else_branch = e () => (float[N,5] q) {
            q0 = MatMul(late, w1)
            z = Neg(late)
            q1 = MatMul(z, w1)
            q2 = If (d) <
                then_branch = t2 () => (float[N,5] r) { r = MatMul(x, w1) },
                else_branch = e2 () => (float[N,5] s) { f = Gather(table, i) s = MatMul(h, w1) }
            >
            q = Sum(q0, q1, q2)
        }
    >
"""


def inner(model, output):
    return next(node for node in model.graph.all_nodes() if node.outputs[0].name == output)


def linear(model, *outputs):
    return [Layer(o, "MatMul", "linear", inner(model, o), 1, 0) for o in outputs]


@pytest.fixture
def branches(rng, model_of, noise):
    return model_of(
        "float[N,6] x, int64[M] i => float[N,5] y",
        IF,
        w1=noise(rng, 6, 5),
        table=noise(rng, 9, 5),
        zero=np.array(0, np.float32),
        one=np.array(-1, np.float32),
    )


@pytest.mark.parametrize("memory_bytes", [1, 1 << 30])
def test_branches_are_measured_on_the_samples_that_take_them(
    rng, memory_bytes, branches, collect, assert_gram
):
    layers = linear(branches, "p", "q0", "q1", "r", "s")
    layers.append(Layer("table", "Gather", "embedding", inner(branches, "f"), 0, 1))
    data = [
        {"x": rng.standard_normal((4, 6)).astype(np.float32), "i": rng.integers(0, 9, 5)}
        for _ in range(40)
    ]
    statistics = collect(branches, layers, data, memory_bytes=memory_bytes)

    sine = [np.sin(sample["x"]).astype(np.float64) for sample in data]
    total = np.array([one.sum() for one in sine])
    then, less = total > 0, total < -1
    assert 5 < then.sum() < 35
    assert 5 < less.sum() < 35

    def stacked(arrays, keep):
        return np.concatenate([array for array, one in zip(arrays, keep, strict=True) if one])

    inputs = [sample["x"].astype(np.float64) for sample in data]
    for name, arrays, keep in (
        ("p", sine, then),
        ("q0", [np.cos(one) for one in sine], ~then),
        ("r", inputs, ~then & less),
        ("s", sine, ~then & ~less),
    ):
        assert_gram(statistics[name].gram, stacked(arrays, keep))
        assert statistics[name].rows == 4 * keep.sum()
    indices = stacked([sample["i"] for sample in data], ~then & ~less)
    assert statistics["table"].counts.tolist() == np.bincount(indices, minlength=9).tolist()
    assert statistics.reasons == {"q1": "it lies in a branch of an If, and so does what it reads"}


def test_a_branch_that_no_sample_takes_has_no_rows(branches, collect):
    data = [{"x": np.full((2, 6), 0.5, np.float32), "i": np.array([1])}] * 3
    found = collect(branches, linear(branches, "q0", "p"), data)
    assert found["q0"].rows == 0
    assert not found["q0"].gram.any()
    assert found["q0"].sample.shape == (0, 6)
    assert not found["q0"].mean.any()
    assert found["q0"].low.tolist() == found["q0"].high.tolist() == [0.0] * 6
    assert found["p"].rows == 6


@pytest.mark.parametrize("ranges", [False, True])
def test_what_cannot_be_seen_from_outside_says_why(rng, collect, model_of, noise, ranges):
    model = model_of(
        "float[N,6,6] x, bool c => float[N,6,5] y",
        """
        trips = Constant<value = int64 {2}>()
        a = Loop (trips, , x) <
            body = b (int64 n, bool go, float[N,6,6] s) => (bool on, float[N,6,6] t) {
                on = Identity(go)
                t = MatMul(s, w1)
            }
        >
        k = If (c) <
            then_branch = t () => (float[N,6,6] p) {
                inside = Not(c)
                p = If (inside) <
                    then_branch = t3 () => (float[N,6,6] u) { u = MatMul(x, w1) },
                    else_branch = e3 () => (float[N,6,6] v) { v = Identity(x) }
                >
            },
            else_branch = e () => (float[N,6,6] q) { q = Conv(x, k1) }
        >
        g = f.inner(a, w1)
        h = Add(g, k)
        y = MatMul(h, w)
        """,
        '<domain: "f", opset_import: ["": 17]> inner (a, b) => (m) { m = MatMul(a, b) }',
        w1=noise(rng, 6, 6),
        w=noise(rng, 6, 5),
        k1=noise(rng, 6, 6, 1),
    )
    function = next(iter(model.functions.values()))
    layers = [
        *linear(model, "t", "u", "y"),
        Layer("m", "MatMul", "linear", next(iter(function)), 1, 0),
        Layer("q", "Conv", "conv", inner(model, "q"), 1, 0),
    ]
    data = [{"x": noise(rng, 2, 6, 6), "c": np.array(True)}]
    statistics = collect(model, layers, data, ranges=ranges)
    assert list(statistics) == ["y", "q"]
    assert statistics["q"].rows == 0
    assert (statistics["y"].leaving is not None) == ranges
    assert statistics["q"].entering is statistics["q"].leaving is None
    assert statistics.reasons == {
        "t": "it lies in the body of a Loop",
        "u": "it lies in a branch of an If whose condition is computed in another branch",
        "m": "it lies in a function",
    }
