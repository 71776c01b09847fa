"""Which weights are found, what they are called, and why one is refused."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from onnxslim_rx.analysis import WeightUse, constant_root, weight_uses


def layers(model, **options) -> list[WeightUse]:
    return [use for use in weight_uses(model, **options) if use.kind != "other"]


VECTORS = "float[N,40] x"
IMAGE = "float[N,40,9,9] x"
IDS = "int64[N] x"


@pytest.mark.parametrize(
    ("body", "inputs", "shape", "kind", "index", "activation"),
    [
        ("y = MatMul(x, w)", "float[N,40] x", (40, 40), "linear", 1, 0),
        ("y = MatMul(w, x)", "float[40,N] x", (40, 40), "linear-left", 0, 1),
        ("y = MatMul(x, w)", "float[N,3,40] x", (3, 40, 40), "linear-batched", 1, 0),
        ("y = Gemm<transB=1>(x, w)", "float[N,40] x", (40, 40), "linear", 1, 0),
        ("y = Gemm<transA=1>(w, x)", "float[40,N] x", (40, 40), "linear-left", 0, 1),
        ("y = Conv(x, w)", IMAGE, (30, 40, 3, 3), "conv", 1, 0),
        ("y = ConvTranspose(x, w)", IMAGE, (40, 30, 3, 3), "conv-transpose", 1, 0),
        ("y = Gather(w, x)", IDS, (50, 40), "embedding", 0, 1),
    ],
)
def test_each_kind_of_layer_is_found(build, body, inputs, shape, kind, index, activation):
    (use,) = layers(build(inputs, body, w=shape))

    assert (use.kind, use.index, use.activation_index) == (kind, index, activation)
    assert use.why_not is None
    assert use.compressible
    assert use.weight is use.node.inputs[index]
    assert use.tensor.shape.numpy() == shape
    assert use.through == ()
    assert use.users == (use.node,)


def test_recurrent_layers_have_two_weights(build):
    model = build(
        "float[S,N,40] x",
        "y = LSTM<hidden_size=20>(x, w, r, b)",
        w=(1, 80, 40),
        r=(1, 80, 20),
        b=(1, 160),
    )

    found = weight_uses(model)

    assert [(use.kind, use.index) for use in found] == [
        ("recurrent", 1),
        ("recurrent", 2),
        ("other", 3),
    ]
    assert [use.compressible for use in found] == [True, True, False]


SQUARE = (40, 40)
INTEGERS = np.ones(SQUARE, np.int32)
STRINGS = np.full(SQUARE, "a", object)


@pytest.mark.parametrize(
    ("inputs", "body", "weights", "why"),
    [
        (VECTORS, "y = MatMul(x, w)", {"w": (40, 4)}, "has 160 elements, below 1024"),
        (VECTORS, "y = MatMul(x, w)", {"w": (40,)}, "has rank 1"),
        ("int32[N,40] x", "y = MatMul(x, w)", {"w": INTEGERS}, "is of type INT32"),
        (IDS, "y = Gather(w, x)", {"w": STRINGS}, "is of type STRING"),
        (IDS, "y = Gather<axis=1>(w, x)", {"w": SQUARE}, "axis other than 0"),
        (IDS, "y = Gather(w, x)", {"w": (50, 40, 2)}, "has rank 3"),
        (IMAGE, "y = Conv<group=40>(x, w)", {"w": (40, 1, 6, 6)}, "depthwise"),
        (IMAGE, "y = ConvTranspose<group=40>(x, w)", {"w": (40, 1, 6, 6)}, "depthwise"),
        (VECTORS, "z = MatMul(w, v) y = Add(x, z)", {"w": SQUARE, "v": SQUARE}, "folds away"),
        (VECTORS, "z = Neg(w) y = MatMul(x, w)", {"w": SQUARE}, "shared with Neg input 0"),
        (IDS, "z = Gather(w, x) y = MatMul(z, w)", {"w": SQUARE}, "shared"),
        (VECTORS, "v = Transpose(w) y = MatMul(x, v)", {"w": SQUARE}, "through Transpose"),
        (VECTORS, "v = Identity(w) y = MatMul(x, v)", {"w": SQUARE}, "through Identity"),
        (VECTORS + ", float[40,40] w", "y = MatMul(x, w)", {"w": SQUARE}, "graph input"),
    ],
)
def test_refusals_say_why(build, inputs, body, weights, why):
    uses = layers(build(inputs, body, **weights))

    assert uses
    assert all(why in (use.why_not or "") for use in uses)


def test_weights_that_only_matrix_products_share_are_compressible(build):
    model = build(VECTORS, "z = MatMul(x, w) y = MatMul(z, w)", w=(40, 40))

    first, second = layers(model)

    assert first.compressible
    assert first.users == second.users == tuple(model.graph)


def test_a_transposed_reader_spoils_a_direct_one(build):
    model = build(VECTORS, "z = MatMul(x, w) v = Transpose(w) y = MatMul(z, v)", w=(40, 40))

    direct, transposed = layers(model)

    assert "shared" in (direct.why_not or "")
    assert [node.op_type for node in transposed.through] == ["Transpose"]


def test_the_size_limit_is_the_callers(build):
    model = build(VECTORS, "y = MatMul(x, w)", w=(40, 4))

    assert layers(model, min_elements=160)[0].compressible
    assert not layers(model, min_elements=161)[0].compressible


INT8 = np.ones((40, 40), np.int8)
SCALE = np.ones(40, np.float32)


@pytest.mark.parametrize(
    "body",
    [
        "v = DequantizeLinear<axis=1>(w, s) y = MatMul(x, v)",
        "c = Cast<to=1>(w) v = Mul(c, s) y = MatMul(x, v)",
        "c = Cast<to=1>(w) v = Mul(s, c) y = MatMul(x, v)",
    ],
)
def test_quantized_weights_are_recognised_behind_their_scales(build, body):
    (use,) = layers(build(VECTORS, body, w=INT8, s=SCALE))

    assert use.why_not == "already quantized"
    assert use.tensor.dtype == ir.DataType.INT8


def test_integer_operators_are_already_quantized(build):
    model = build(
        "float[N,64] x",
        "y = com.microsoft.MatMulNBits<K=64,N=40,bits=4,block_size=32>(x, w, s)",
        w=np.ones((40, 2, 16), np.uint8),
        s=np.ones(80, np.float32),
    )

    assert [use.why_not for use in layers(model)] == ["already quantized"]


def test_scaling_of_activations_is_not_taken_for_a_quantized_weight(build):
    model = build(
        "int8[N,40] i", "c = Cast<to=1>(i) v = Mul(c, s) y = MatMul(v, w)", s=SCALE, w=(40, 40)
    )

    (use,) = layers(model)

    assert use.compressible
    assert constant_root(use.node.inputs[0]) == (None, ())


def test_constant_nodes_hold_weights_too(build):
    tensor = ir.tensor(np.ones((40, 40), np.float32))
    model = build(VECTORS, "w = Constant<value=float[1]{0.0}>() y = MatMul(x, w)")
    model.graph[0].attributes["value"] = ir.AttrTensor("value", tensor)

    (use,) = layers(model)

    assert use.compressible
    assert use.tensor is tensor


def test_weights_in_branches_are_found_and_say_where_they_are(build):
    model = build(
        "float[N,40] x, bool c",
        """y = If (c) <
            then_branch = a () => (p) { p = MatMul(x, w) },
            else_branch = b () => (q) { q = Identity(x) }>""",
        w=(40, 40),
    )

    (use,) = layers(model)

    assert use.compressible
    assert use.graph is not model.graph
    assert use.graph.name == "a"


def test_weights_in_functions_are_left_alone(build):
    function = """<domain: "f", opset_import: ["": 17]> layer (a) => (b) {
        w = Constant<value=float[1]{0.0}>() b = MatMul(a, w) }"""
    model = build(VECTORS, "y = f.layer(x)", functions=function)
    body = next(iter(model.functions.values()))
    weight = ir.tensor(np.ones((40, 40), np.float32))
    body[0].attributes["value"] = ir.AttrTensor("value", weight)

    assert [use.why_not for use in layers(model)] == ["lies in a function"]


def test_a_weight_that_is_an_output_stays(build):
    model = build(VECTORS, "y = MatMul(x, w)", w=(40, 40))
    model.graph.outputs.append(model.graph.initializers["w"])

    assert [use.why_not for use in layers(model)] == ["is also a graph output"]
