"""Gram matrices against numpy in float64 on activations of one uncut run."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_rx.calibration import moments, observers, readings
from onnxslim_rx.passbase import Layer

CUTS = [1, 30_000, 1 << 30]  # bytes: at every node, at a few, nowhere


@pytest.mark.parametrize("memory_bytes", CUTS)
@pytest.mark.parametrize("panel", [5, 1024])
def test_residual_network_of_dynamic_length(
    rng, monkeypatch, steps_run, memory_bytes, panel, model_of, assert_statistics, noise
):
    monkeypatch.setattr(moments, "_PANEL", panel)
    model = model_of(
        "float[N,S,7] x => float[N,S,7] y",
        """
        q = MatMul(x, wq)  k = MatMul(x, wk)  kt = Transpose<perm=[0,2,1]>(k)
        scores = MatMul(q, kt)  p = Softmax(scores)  v = MatMul(x, wv)  a = MatMul(p, v)
        o = MatMul(a, wo)  r = Add(o, x)  h = MatMul(r, w1)  g = Tanh(h)  m = MatMul(g, w2)
        s = Add(m, r)  n = Add(s, x)  shape = Shape(x)  y = Reshape(n, shape)
        """.replace(
            "scores = MatMul(q, kt)", 'scores = Einsum<equation="nsk,nkt->nst">(q, kt)'
        ).replace("a = MatMul(p, v)", 'a = Einsum<equation="nst,ntk->nsk">(p, v)'),
        **{name: noise(rng, 7, 7) for name in ("wq", "wk", "wv", "wo")},
        w1=noise(rng, 7, 31),
        w2=noise(rng, 31, 7),
    )
    lengths = [(1, 5), (2, 11), (1, 1), (3, 130), (1, 17), (1, 600)]
    data = [{"x": rng.standard_normal((n, s, 7)).astype(np.float32)} for n, s in lengths]
    statistics = assert_statistics(model, data, memory_bytes)
    assert statistics["wq:q"].shape == (1, 600, 7)
    assert (steps_run[0] == 1) == (memory_bytes == 1 << 30)
    assert memory_bytes != 1 or steps_run[0] >= 8


@pytest.mark.parametrize("memory_bytes", [1, 1 << 30])
def test_of_very_many_columns_each_is_seen_alone(
    rng, monkeypatch, memory_bytes, model_of, layers_of, collect, noise
):
    monkeypatch.setattr(readings, "MOST_COLUMNS", 8)
    model = model_of(
        "float[N,9] x => float[N,5] y", "h = MatMul(x, v)  y = MatMul(h, w)",
        v=noise(rng, 9, 8), w=noise(rng, 8, 5),
    )  # fmt: skip
    rows = rng.standard_normal((40, 9)).astype(np.float32)
    data = [{"x": part} for part in np.split(rows, 4)]
    found = collect(model, layers_of(model), data, memory_bytes=memory_bytes)
    wide, narrow = (found[name] for name in sorted(found, key=lambda n: "v" not in n))
    assert wide.gram is None
    assert narrow.gram is not None
    assert wide.rows == 40
    assert wide.mean_abs == pytest.approx(np.abs(rows).mean(axis=0), rel=1e-5)
    assert wide.sample is not None
    assert wide.sample.shape == (40, 9)


@pytest.mark.parametrize("memory_bytes", [1, 1 << 30])
@pytest.mark.parametrize("constant", [0, 1])
@pytest.mark.parametrize("trans_a", [0, 1])
@pytest.mark.parametrize("trans_b", [0, 1])
def test_gemm(rng, memory_bytes, constant, trans_a, trans_b, model_of, assert_statistics, noise):
    shapes = [(5, 6)[:: 1 - 2 * trans_a], (6, 9)[:: 1 - 2 * trans_b]]
    operands = ("w", "h") if constant == 0 else ("h", "w")
    kept = shapes[1 - constant]
    model = model_of(
        f"float[{kept[0]},{kept[1]}] x => float[M,N] y",
        f"h = Sin(x) y = Gemm<transA={trans_a}, transB={trans_b}>({operands[0]}, {operands[1]})",
        w=noise(rng, *shapes[constant]),
    )
    data = [{"x": rng.standard_normal(kept).astype(np.float32)} for _ in range(3)]
    statistics = assert_statistics(model, data, memory_bytes)
    assert statistics["w:y"].gram.shape == (6, 6)


@pytest.mark.parametrize(
    ("x", "w", "left"),
    [
        ((2, 6, 9), (5, 6), True),
        ((6,), (5, 6), True),
        ((3, 6, 4), (3, 5, 6), True),
        ((6, 4), (3, 5, 6), True),
        ((6, 4), (6,), True),
        ((2, 4, 6), (6, 5), False),
        ((6,), (6, 5), False),
        ((3, 4, 6), (3, 6, 5), False),
        ((4, 6), (3, 6, 5), False),
        ((2, 3, 4, 6), (6,), False),
    ],
)
def test_matmul_of_any_rank_and_side(rng, x, w, left, model_of, assert_statistics, noise):
    operands = "w, h" if left else "h, w"
    model = model_of(
        f"float[{','.join(map(str, x))}] x => float y",
        f"h = Cos(x) z = MatMul({operands}) y = ReduceSum<keepdims=0>(z)",
        w=noise(rng, *w),
    )
    data = [{"x": rng.standard_normal(x).astype(np.float32)} for _ in range(3)]
    assert assert_statistics(model, data, 1)["w:z"].gram.shape == (6, 6)


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_other_float_types(rng, dtype, collect, model_of, layers_of, activations, noise):
    name = {"float16": "float16", "float64": "double"}[dtype]
    model = model_of(
        f"{name}[N,6] x => {name}[N,5] y",
        "h = MatMul(x, w1) a = Relu(h) y = MatMul(a, w2)",
        w1=noise(rng, 6, 8, dtype=dtype),
        w2=noise(rng, 8, 5, dtype=dtype),
    )
    data = [{"x": rng.standard_normal((4, 6)).astype(dtype)} for _ in range(3)]
    layers = layers_of(model)
    seen = activations(model, layers, data)
    statistics = collect(model, layers, data, memory_bytes=1)
    for layer in layers:
        rows = np.concatenate(seen[layer.name]).astype(np.float64)
        error = np.abs(statistics[layer.name].gram - rows.T @ rows).max()
        # the kernel may keep float16 products in float32; squares of it are off by two roundings
        assert error <= (1e-13 if dtype == "float64" else 2e-2) * np.abs(rows.T @ rows).max()
    # doubles are not summed in float32
    assert statistics["w1:h"].sample.dtype == ("float32" if dtype == "float16" else "float64")


def test_large_activations_do_not_overflow(rng, collect, model_of, layers_of, noise):
    model = model_of("float[N,3] x => float[N,2] y", "y = MatMul(x, w)", w=noise(rng, 3, 2))
    data = [{"x": np.full((4, 3), 1e30, np.float32)}]
    statistics = collect(model, layers_of(model), data)
    np.testing.assert_allclose(statistics["w:y"].gram, np.full((3, 3), 4e60), rtol=1e-6)


def test_constant_activations_and_graph_inputs(
    rng, collect, model_of, assert_gram, noise, producer
):
    model = model_of(
        "float[N,6] x => float[N,5] y",
        "c = Constant<value_floats=[3.0,1,4,1,5,9]>() o = MatMul(c, w1)"
        "p = MatMul(table, w1) q = Gather(rows, last) r = MatMul(q, w1) s = MatMul(x, w1)"
        "t = Sum(o, p, r) y = Add(s, t)",
        table=noise(rng, 1, 6),
        rows=noise(rng, 4, 6),
        last=np.array([-1, 1]),
        w1=noise(rng, 6, 5),
    )
    layers = [Layer(output, "MatMul", "linear", producer(model, output), 1, 0) for output in "oprs"]
    layers.append(Layer("rows", "Gather", "embedding", producer(model, "q"), 0, 1))
    data = [{"x": noise(rng, 2, 6)}, {"x": noise(rng, 2, 6)}]
    for memory_bytes in (1, 1 << 30):
        statistics = collect(model, layers, data, memory_bytes=memory_bytes)
        table = model.graph.initializers["table"].const_value.numpy()
        rows = model.graph.initializers["rows"].const_value.numpy()[[-1, 1]]
        assert_gram(statistics["p"].gram, np.concatenate([table] * 2).astype(np.float64))
        pi = np.array([[3.0, 1, 4, 1, 5, 9]] * 2)
        assert_gram(statistics["o"].gram, pi)
        assert_gram(statistics["r"].gram, np.concatenate([rows] * 2).astype(np.float64))
        assert_gram(statistics["s"].gram, np.concatenate([s["x"] for s in data]).astype(float))
        assert statistics["rows"].counts.tolist() == [0, 2, 0, 2]


def test_many_short_samples_and_one_long(rng, monkeypatch, model_of, assert_statistics, noise):
    """Rows are collected over samples before they are multiplied."""
    flushes = []
    take = observers._Rows._take

    def counting(self, chunk):
        flushes.append(len(chunk))
        take(self, chunk)

    monkeypatch.setattr(observers._Rows, "_take", counting)
    model = model_of("float[N,3] x => float[N,2] y", "y = MatMul(x, w)", w=noise(rng, 3, 2))
    data = [{"x": noise(rng, 5, 3)} for _ in range(200)] + [{"x": noise(rng, 1300, 3)}]
    assert_statistics(model, data, 1 << 30)
    assert sum(flushes) == 2300
    assert len(flushes) <= 7
    assert max(flushes) <= 512


def test_a_data_set_may_reuse_its_memory(rng, collect, model_of, layers_of, noise):
    class Reusing:
        place = np.zeros((3, 8), np.float32)

        def __len__(self):
            return 5

        def __getitem__(self, number):
            if number >= 5:
                raise IndexError
            self.place[:] = number
            return {"x": self.place}

    model = model_of("float[N,8] x => float[N,2] y", "y = MatMul(x, w)", w=noise(rng, 8, 2))
    found = collect(model, layers_of(model), Reusing())["w:y"]
    assert (found.gram == 3 * (1 + 4 + 9 + 16)).all()
    assert sorted(found.sample[:, 0]) == sorted(3 * [0, 1, 2, 3, 4])
