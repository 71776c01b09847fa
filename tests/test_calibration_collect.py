"""Statistics of layers against numpy in float64 on activations of one uncut run."""

from __future__ import annotations

import errno
import gc
import tempfile
import tracemalloc

import numpy as np
import onnx_ir as ir
import pytest

from onnxslim_rx import calibration, progress
from onnxslim_rx.calibration import observers, spool
from onnxslim_rx.errors import InputError
from onnxslim_rx.passbase import Layer
from onnxslim_rx.runtime import Runner

CUTS = [1, 30_000, 1 << 30]  # bytes: at every node, at a few, nowhere


def collect(*args, **options):
    return calibration.collect(*args, **options)


def model_of(signature, body, functions="", **weights):
    """A model in ONNX's text syntax whose weights are the given arrays."""
    shapes = ", ".join(
        f"{ir.DataType.from_numpy(w.dtype).name.lower().replace('float64', 'double')}"
        f"[{','.join(map(str, w.shape))}] {name}"
        for name, w in weights.items()
    )
    inputs, outputs = signature.split("=>")
    declared = f"{inputs}{', ' if inputs.strip() and shapes else ''}{shapes}"
    model = ir.from_onnx_text(
        '<ir_version: 8, opset_import: ["": 17, "f": 1, "com.microsoft": 1]>'
        f"g ({declared}) => ({outputs}) {{ {body} }} {functions}"
    )
    for value in list(model.graph.inputs):
        if value.name in weights:
            model.graph.inputs.remove(value)
            value.const_value = ir.tensor(weights[value.name], name=value.name)
            model.graph.register_initializer(value)
    return model


def layers_of(model):
    """Every node with an initializer as a weight."""
    found = []
    for node in model.graph:
        kinds = {"MatMul": "linear", "Gemm": "linear", "Conv": "conv", "Gather": "embedding"}
        if node.op_type not in kinds:
            continue
        weight = next(i for i, value in enumerate(node.inputs[:2]) if value.is_initializer())
        name = f"{node.inputs[weight].name}:{node.outputs[0].name}"
        found.append(Layer(name, node.op_type, kinds[node.op_type], node, weight, 1 - weight))
    return found


def activations(model, layers, data):
    """The tensor that enters each layer, by layer name, one a sample, from one uncut run."""
    whole = model.clone()
    values = {value.name: value for node in whole.graph for value in node.outputs}
    wanted = {layer.activation.name for layer in layers}
    for name in sorted(wanted & values.keys()):
        if not values[name].is_graph_output():
            whole.graph.outputs.append(values[name])
    runner = Runner(whole, optimize=False)
    runs = [{**sample, **runner(sample)} for sample in data]
    return {layer.name: [run[layer.activation.name] for run in runs] for layer in layers}


def as_rows(layer, found):
    """X of `Y = X W` in float64, written down anew for every case."""
    found = np.asarray(found, dtype=np.float64)
    flag = {name: bool(a.as_int()) for name, a in layer.node.attributes.items() if "trans" in name}
    if found.ndim == 1:
        return found[None]
    if layer.activation_index == 0:
        found = found.T if flag.get("transA") else found
    elif not flag.get("transB"):
        found = np.moveaxis(found, -1, -2)
    return found.reshape(-1, found.shape[-1])


def assert_gram(gram, rows):
    """Rounding of 512 products summed in float32, and of activations a few layers deep."""
    assert gram.dtype == np.float64
    bound = 2048 * 2.0**-24 * (np.abs(rows).T @ np.abs(rows)) + 1e-30
    assert (np.abs(gram - rows.T @ rows) <= bound).all()
    np.testing.assert_array_equal(gram, gram.T)


def assert_statistics(model, data, memory_bytes):
    """Linear layers only."""
    layers = layers_of(model)
    assert layers
    seen = activations(model, layers, data)
    statistics = collect(model, layers, data, memory_bytes=memory_bytes)
    assert list(statistics) == [layer.name for layer in layers]
    assert statistics.reasons == {}
    for layer in layers:
        found = statistics[layer.name]
        rows = np.concatenate([as_rows(layer, one) for one in seen[layer.name]])
        assert found.rows == len(rows)
        assert_gram(found.gram, rows)
        assert found.shape == max((one.shape for one in seen[layer.name]), key=np.prod)
        assert found.counts is None
        assert found.sample.shape == (min(len(rows), 256), rows.shape[1])
        # each sampled row is one of the rows, and none is drawn twice
        distance = np.abs(found.sample[:, None, :] - rows[None]).max(axis=2)
        nearest = distance.argmin(axis=1)
        assert len(set(nearest)) == len(nearest)
        assert (distance.min(axis=1) <= 1e-4 * np.abs(rows).max()).all()
    return statistics


def noise(rng, *shape, dtype=np.float32):
    return (rng.standard_normal(shape) / np.sqrt(shape[-1])).astype(dtype)


@pytest.fixture
def steps_run(monkeypatch):
    """Counts the steps of each call."""
    module = __import__("onnxslim_rx.calibration.collect", fromlist=["plan_steps"])
    plan, counts = module.plan_steps, []

    def counting(*args):
        steps = plan(*args)
        counts.append(len(steps))
        return steps

    monkeypatch.setattr(module, "plan_steps", counting)
    return counts


@pytest.mark.parametrize("memory_bytes", CUTS)
@pytest.mark.parametrize("panel", [5, 1024])
def test_residual_network_of_dynamic_length(rng, monkeypatch, steps_run, memory_bytes, panel):
    monkeypatch.setattr(observers, "_PANEL", panel)
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
@pytest.mark.parametrize("constant", [0, 1])
@pytest.mark.parametrize("trans_a", [0, 1])
@pytest.mark.parametrize("trans_b", [0, 1])
def test_gemm(rng, memory_bytes, constant, trans_a, trans_b):
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
def test_matmul_of_any_rank_and_side(rng, x, w, left):
    operands = "w, h" if left else "h, w"
    model = model_of(
        f"float[{','.join(map(str, x))}] x => float y",
        f"h = Cos(x) z = MatMul({operands}) y = ReduceSum<keepdims=0>(z)",
        w=noise(rng, *w),
    )
    data = [{"x": rng.standard_normal(x).astype(np.float32)} for _ in range(3)]
    assert assert_statistics(model, data, 1)["w:z"].gram.shape == (6, 6)


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_other_float_types(rng, dtype):
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


def test_large_activations_do_not_overflow(rng):
    model = model_of("float[N,3] x => float[N,2] y", "y = MatMul(x, w)", w=noise(rng, 3, 2))
    data = [{"x": np.full((4, 3), 1e30, np.float32)}]
    statistics = collect(model, layers_of(model), data)
    np.testing.assert_allclose(statistics["w:y"].gram, np.full((3, 3), 4e60), rtol=1e-6)


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
def test_captures_sequences_and_functions(rng, steps_run, memory_bytes):
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


def test_layers_inside_bodies_say_why_they_have_none(rng):
    model = model_of(
        "float[N,S,6] x => float[N,S,6] y",
        CONTROL,
        TWICE,
        **{name: noise(rng, 6, 6) for name in ("w1", "w2", "w3")},
        zero=np.array(0, np.float32),
        one=np.array(1),
        three=np.array(3),
    )
    inner = next(node for node in model.graph.all_nodes() if node.outputs[0].name == "q0")
    layers = [*layers_of(model), Layer("w3", "MatMul", "linear", inner, 1, 0)]
    statistics = collect(model, layers, [{"x": noise(rng, 1, 4, 6)}])
    assert statistics.reasons == {
        "w3": "it lies in a function or in the body of an If, Loop or Scan"
    }
    assert statistics.get("w3") is None
    assert len(statistics) == 2


@pytest.mark.parametrize("overridable", [False, True])
def test_weights_that_are_computed_are_not_written_to_disk(rng, monkeypatch, overridable):
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


def producer(model, name):
    return next(node for node in model.graph if node.outputs[0].name == name)


def test_constant_activations_and_graph_inputs(rng):
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


TEXT = """
    h = Gather(words, ids)
    n = Constant<value = int64[1] {-1}>()
    m = MatMul(h, w1)
    width = Constant<value = int64[2] {-1, 6}>()
    flat = Reshape(m, width)
    y = Gemm(flat, w2)
"""


def text_model(rng, mask="attention_mask"):
    return model_of(
        f"int64[N,S] ids, int64[N,S] {mask} => float[M,5] y",
        TEXT,
        words=noise(rng, 11, 4),
        w1=noise(rng, 4, 6),
        w2=noise(rng, 6, 5),
    )


@pytest.mark.parametrize("memory_bytes", [1, 1 << 30])
def test_padding_does_not_count(rng, memory_bytes):
    model = text_model(rng)
    ids = rng.integers(-11, 11, (4, 3, 7))
    masks = (rng.random((4, 3, 7)) < 0.6).astype(np.int64)
    data = [{"ids": i, "attention_mask": m} for i, m in zip(ids, masks, strict=True)]
    layers = layers_of(model)
    statistics = collect(model, layers, data, memory_bytes=memory_bytes)
    seen = activations(model, layers, data)
    real = masks.astype(bool)

    kept = ids[real] % 11
    assert statistics["words:h"].counts.tolist() == np.bincount(kept, minlength=11).tolist()
    assert statistics["words:h"].gram is None
    assert statistics["words:h"].sample is None
    assert statistics["words:h"].shape == (3, 7)
    for name in ("w1:m", "w2:y"):  # (batch, sequence, K) and (batch * sequence, K)
        rows = [a.reshape(21, -1)[m.ravel()] for a, m in zip(seen[name], real, strict=True)]
        assert_gram(statistics[name].gram, np.concatenate(rows).astype(np.float64))
    assert {found.rows for found in statistics.values()} == {int(masks.sum())}


def test_masks_that_contradict_each_other_decide_nothing(rng):
    model = model_of(
        "int64[N,S] source_mask, int64[N,S] target_mask, float[N,S,6] x => float[N,S,5] y",
        "y = MatMul(x, w)",
        w=noise(rng, 6, 5),
    )
    half, most = np.array([[1, 1, 0, 0]]), np.array([[1, 1, 1, 0]])
    other_length = np.array([[1, 0, 1]])
    for source, target, rows in ((half, half, 2), (half, most, 4), (half, other_length, 2)):
        # the label is no input and so means nothing
        sample = {"source_mask": source, "target_mask": target, "label_mask": most}
        data = [{"x": noise(rng, 1, 4, 6), **sample}]
        assert collect(model, layers_of(model), data)["w:y"].rows == rows


def test_a_mask_of_padding_is_not_taken_for_its_opposite(rng):
    model = text_model(rng, mask="src_key_padding_mask")
    data = [{"ids": np.ones((2, 3), int), "src_key_padding_mask": np.array([[0, 0, 1]] * 2)}]
    assert collect(model, layers_of(model), data)["w1:m"].rows == 6


@pytest.mark.parametrize("memory_bytes", [1, 1 << 30])
def test_convolutions_have_rows_and_shape(rng, memory_bytes):
    model = model_of(
        "float[N,3,H,W] x => float[N,5] y",
        """
        a = Conv<strides=[2,2]>(x, k1)  b = Relu(a)  c = Conv(b, k2)
        d = GlobalAveragePool(c)  e = Flatten(d)  y = MatMul(e, w)
        """,
        k1=noise(rng, 4, 3, 3, 3),
        k2=noise(rng, 6, 4, 1, 1),
        w=noise(rng, 6, 5),
    )
    data = [{"x": noise(rng, n, 3, s, 9)} for n, s in ((1, 9), (2, 13), (1, 11))]
    layers = layers_of(model)
    statistics = collect(model, layers, data, memory_bytes=memory_bytes)
    first, second = statistics["k1:a"], statistics["k2:c"]
    assert first.gram is first.counts is first.sample is None
    assert first.shape == (2, 3, 13, 9)
    assert second.shape == (2, 4, 6, 4)
    assert first.rows == second.rows == 4 * 4 + 2 * 6 * 4 + 5 * 4
    rows = np.concatenate(activations(model, layers, data)["w:y"]).astype(np.float64)
    assert_gram(statistics["w:y"].gram, rows)


def test_random_nodes_are_not_run_anew_in_each_block(rng):
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


def test_strings_do_not_cross_a_cut(rng, steps_run):
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


def test_shapes_that_the_model_states_wrongly_do_not_matter(rng):
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


def test_cuts_do_not_change_the_result(rng):
    model = chain(rng, depth=5, width=20)
    data = [{"x": rng.standard_normal((s, 20)).astype(np.float32)} for s in (300, 40, 700)]
    layers = layers_of(model)
    results = [collect(model, layers, data, memory_bytes=m, seed=5) for m in (1, 20_000, 20_000)]
    for layer in layers:
        few, many, again = (result[layer.name] for result in results)
        np.testing.assert_array_equal(few.sample, many.sample)
        np.testing.assert_array_equal(few.gram, many.gram)
        np.testing.assert_array_equal(many.gram, again.gram)
    other = collect(model, layers, data, seed=6)
    name = layers[0].name
    assert not np.array_equal(other[name].sample, results[0][name].sample)
    np.testing.assert_array_equal(other[name].gram, results[0][name].gram)


def test_sampled_rows_come_from_all_samples(rng):
    model = model_of("float[N,2] x => float[N,2] y", "y = MatMul(x, w)", w=noise(rng, 2, 2))
    data = [{"x": np.full((200, 2), number, np.float32)} for number in range(20)]
    sample = collect(model, layers_of(model), data)["w:y"].sample[:, 0]
    assert len(sample) == 256
    # each of 20 samples expects 12.8 rows; hypergeometric, 6 standard deviations are 20
    assert np.bincount(sample.astype(int), minlength=20).max() <= 33
    assert set(sample) == set(range(20))


def chain(rng, depth, width):
    body = " ".join(f"m{i} = MatMul(h{i}, w{i}) h{i + 1} = Tanh(m{i})" for i in range(depth))
    weights = {f"w{i}": noise(rng, width, width) for i in range(depth)}
    return model_of(
        f"float[N,{width}] x => float[N,{width}] y",
        f"h0 = Sin(x) {body} y = Identity(h{depth})",
        **weights,
    )


def test_memory_is_bounded(rng):
    width, depth = 384, 16
    model = chain(rng, depth, width)
    data = [{"x": rng.standard_normal((16, width)).astype(np.float32)} for _ in range(4)]
    layers = layers_of(model)
    gram = width * width * 8  # 1.2 MB each, 19 MB together
    collect(model, layers[:1], data)  # caches of the libraries are no memory of ours
    gc.collect()
    tracemalloc.start()
    try:
        statistics = collect(model, layers, data, memory_bytes=6 * gram)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(statistics) == depth
    # numpy tells tracemalloc what it takes; the weights belong to the model, before the start
    assert peak <= 6 * gram
    assert depth * gram > 2 * peak


def test_activations_that_are_not_finite_are_refused(rng, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    model = model_of(
        "float[N,6] x => float[N,5] y", "h = Log(x) y = MatMul(h, w)", w=noise(rng, 6, 5)
    )
    data = [{"x": np.ones((1, 6), np.float32)}, {"x": -np.ones((1, 6), np.float32)}]
    with pytest.raises(InputError, match="NaN or infinity at 'h' on calibration sample 1"):
        collect(model, layers_of(model), data)
    assert not list(tmp_path.iterdir())


def test_padding_may_be_nan(rng):
    model = model_of(
        "float[N,S,6] x, int64[N,S] mask => float[N,S,5] y",
        "h = Log(x) y = MatMul(h, w)",
        w=noise(rng, 6, 5),
    )
    x = np.ones((1, 3, 6), np.float32)
    x[0, 2] = -1
    statistics = collect(model, layers_of(model), [{"x": x, "mask": np.array([[1, 1, 0]])}])
    assert statistics["w:y"].rows == 2


def test_no_files_are_left(rng, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    model = chain(rng, 3, 8)
    data = [{"x": noise(rng, 4, 8)}]
    statistics = collect(model, layers_of(model), data, memory_bytes=1)
    (folder,) = tmp_path.iterdir()  # that of the statistics; the frontiers' is gone
    assert list(folder.glob("*.gram.npy"))
    assert not list(folder.glob("*.frontier"))
    gram = statistics["w1:m1"].gram
    before = gram.copy()
    del statistics
    gc.collect()
    assert not list(tmp_path.iterdir())
    np.testing.assert_array_equal(gram, before)  # what was taken out stays


def test_frontiers_are_deleted_when_they_were_read(rng, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    most = []
    write = spool.Spool.writer

    def counting(self, *args):
        most.append(len(list(tmp_path.rglob("*.frontier"))))
        return write(self, *args)

    monkeypatch.setattr(spool.Spool, "writer", counting)
    model = chain(rng, 8, 8)
    collect(model, layers_of(model), [{"x": noise(rng, 4, 8)}], memory_bytes=1)
    assert len(most) >= 8
    assert max(most) == 1


def test_a_data_set_may_reuse_its_memory(rng):
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


@pytest.mark.parametrize("failing", ["frontier", "gram"])
def test_a_full_disk_is_one_clear_line(rng, tmp_path, monkeypatch, failing):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    save = np.save

    def full(file, *args, **options):
        if failing in str(getattr(file, "name", file)):
            raise OSError(errno.ENOSPC, "No space left on device")
        save(file, *args, **options)

    monkeypatch.setattr(np, "save", full)
    model = chain(rng, 3, 8)
    with pytest.raises(InputError, match="No space left on device; make space there"):
        collect(model, layers_of(model), [{"x": noise(rng, 4, 8)}], memory_bytes=1)
    assert not list(tmp_path.iterdir())


def test_progress_counts_every_step_of_every_sample(rng):
    class Listener:
        def task(self, title, total):
            self.title, self.total, self.done = title, total, 0
            return self

        def __enter__(self):
            return self.advance

        def __exit__(self, *_):
            return None

        def advance(self, steps):
            self.done += steps

    listener = Listener()
    model = chain(rng, 3, 8)
    with progress.listen(listener):
        collect(model, layers_of(model), [{"x": noise(rng, 4, 8)}] * 5, memory_bytes=1)
    assert listener.title == "calibrate"
    assert listener.done == listener.total
    assert listener.total % 5 == 0
    assert listener.total >= 15


def test_extra_arrays_are_not_fed(rng):
    model = chain(rng, 1, 8)
    data = [{"x": noise(rng, 4, 8), "label": np.array([3])}]
    assert collect(model, layers_of(model), data)["w0:m0"].rows == 4


def test_no_samples(rng):
    model = chain(rng, 1, 8)
    with pytest.raises(InputError, match="no calibration samples"):
        collect(model, layers_of(model), [])


def test_many_short_samples_and_one_long(rng, monkeypatch):
    """Rows are collected over samples before they are multiplied."""
    flushes = []
    flush = observers._Rows._flush

    def counting(self):
        flushes.append(self._buffered)
        flush(self)

    monkeypatch.setattr(observers._Rows, "_flush", counting)
    model = model_of("float[N,3] x => float[N,2] y", "y = MatMul(x, w)", w=noise(rng, 3, 2))
    data = [{"x": noise(rng, 5, 3)} for _ in range(200)] + [{"x": noise(rng, 1300, 3)}]
    assert_statistics(model, data, 1 << 30)
    assert sum(flushes) == 2300
    assert len(flushes) <= 7
    assert max(flushes) <= 512
