"""Multiply-adds against sums that ONNX Runtime computes, hand formulas and published figures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx.backend.test
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxslim_rx.analysis import flops, inspect_model
from onnxslim_rx.errors import InputError
from onnxslim_rx.ir import load, serialize


def counted_by_running(model):
    """With ones everywhere every product is 1, so the sum of the output counts the products."""
    model.graph.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    session = onnxruntime.InferenceSession(serialize(model), providers=["CPUExecutionProvider"])
    feeds = {item.name: np.ones(item.shape, np.float32) for item in session.get_inputs()}
    return int(session.run(None, feeds)[0].sum(dtype=np.float64))


small = st.integers(1, 4)


@given(
    groups=st.integers(1, 3),
    channels=small,
    filters=small,
    space=st.lists(st.tuples(st.integers(5, 9), small, small, small), min_size=1, max_size=3),
    operator=st.sampled_from(["Conv", "ConvTranspose"]),
)
@settings(max_examples=40, deadline=None)
def test_convolutions(build, groups, channels, filters, space, operator):
    # without pads, which would meet zeros: the sum over ones would then miss those products
    size, kernel, stride, dilation = (list(axis) for axis in zip(*space, strict=True))
    kernel = [min(k, 1 + (n - 1) // d) for k, n, d in zip(kernel, size, dilation, strict=True)]
    x = [2, groups * channels, *size]
    weight = (
        (groups * filters, channels, *kernel)
        if operator == "Conv"
        else (groups * channels, filters, *kernel)
    )
    model = build(
        f"float{x} x",
        f"y = {operator}<group={groups}, strides={stride}, dilations={dilation}>(x, w)",
        w=weight,
    )

    assert flops(model).macs == counted_by_running(model)


def test_padded_convolutions_count_the_zeros_too(build):
    model = build("float[1,3,8,8] x", "y = Conv<pads=[1,1,1,1]>(x, w)", w=(4, 3, 3, 3))

    assert flops(model).macs == 4 * 8 * 8 * 3 * 3 * 3


@pytest.mark.parametrize(
    ("inputs", "body", "shape"),
    [
        ("float[5,6] x", "y = MatMul(x, w)", (6, 7)),
        ("float[6] x", "y = MatMul(x, w)", (6, 7)),
        ("float[6] x", "y = MatMul(x, w)", (6,)),
        ("float[2,3,5,6] x", "y = MatMul(x, w)", (3, 6, 7)),
        ("float[5,6] x", "y = MatMul(x, w)", (4, 6, 7)),
        ("float[5,6] x", "y = Gemm(x, w)", (6, 7)),
        ("float[6,5] x", "y = Gemm<transA=1, transB=1>(x, w)", (7, 6)),
        ("float[2,5,6] x", 'y = Einsum<equation="bij,jk->bik">(x, w)', (6, 7)),
        ("float[2,5,6] x", 'y = Einsum<equation="...j,jk">(x, w)', (6, 7)),
        ("float[2,3,5,6] x", 'y = Einsum<equation="...ij,jk->...ik">(x, w)', (6, 7)),
        ("float[5,6] x", 'y = Einsum<equation="ij,kj->">(x, w)', (7, 6)),
    ],
)
def test_products_of_matrices(build, inputs, body, shape):
    model = build(inputs, body, w=shape)

    assert flops(model).macs == counted_by_running(model)


@pytest.mark.parametrize(
    ("inputs", "body", "shapes", "expected"),
    [
        # 4 steps, batch 2, 2 directions; 4 gates of 5 units over 3 inputs and 5 states
        (
            "float[4,2,3] x",
            'y = LSTM<hidden_size=5, direction="bidirectional">(x, w, r)',
            {"w": (2, 20, 3), "r": (2, 20, 5)},
            4 * 2 * 2 * 4 * 5 * (3 + 5),
        ),
        ("float[4,2,3] x", "y = GRU<hidden_size=5>(x, w, r)", {"w": (1, 15, 3), "r": (1, 15, 5)},
         4 * 2 * 3 * 5 * (3 + 5)),
        ("float[4,2,3] x", "y = RNN<hidden_size=5>(x, w, r)", {"w": (1, 5, 3), "r": (1, 5, 5)},
         4 * 2 * 5 * (3 + 5)),
        ("float[2,5,6] x", "y = Relu(x)", {}, 0),
        ("float[5,6] x", 'y = Einsum<equation="ij,ij->ij">(x, w)', {"w": (5, 6)}, 0),
        ("float[5,6] x", 'y = Einsum<equation="ij->ji">(x)', {}, 0),
        ("float[3,7,64] x", "y = com.microsoft.MatMulNBits<K=64,N=40,bits=8,block_size=64>(x,w,s)",
         {"w": (40, 1, 64), "s": (40,)}, 3 * 7 * 64 * 40),
        # projections to Q, K, V of 8 each, then two products of (6 x 8) with (8 x 6) a sample
        ("float[2,6,10] x", "y = com.microsoft.Attention<num_heads=2>(x, w, b)",
         {"w": (10, 24), "b": (24,)}, 2 * 6 * 10 * 24 + 2 * 2 * 6 * 6 * 8),
        ("float[2,6,8] x", "y = com.microsoft.MultiHeadAttention<num_heads=2>(x, k, k)",
         {"k": (2, 9, 8)}, 2 * 2 * 6 * 9 * 8),
    ],
)  # fmt: skip
def test_hand_formulas(build, inputs, body, shapes, expected):
    result = flops(build(inputs, body, **shapes))

    assert result.macs == expected
    assert result.flops == 2 * expected
    assert result.unknown == ()


def test_attention_with_shared_heads(build):
    """4 heads of queries over 2 of keys (size 8) and values (size 3), 9 tokens and 5 before."""
    text = """<ir_version: 11, opset_import: ["": 23]>
        g (float[2,6,32] q, float[2,9,16] k, float[2,9,6] v, float[2,2,5,8] pk, float[2,2,5,3] pv)
        => (y) { y, ck, cv = Attention<q_num_heads=4, kv_num_heads=2>(q, k, v, , pk, pv) }"""

    assert flops(ir.from_onnx_text(text)).macs == 2 * 4 * 6 * (9 + 5) * (8 + 3)


def test_quantized_operators_cost_what_the_plain_ones_do(build):
    model = build(
        "uint8[5,6] x",
        "y = MatMulInteger(x, w)",
        w=np.ones((6, 7), np.int8),
    )

    assert flops(model).macs == 5 * 6 * 7


BRANCHES = """y = If (c) <
    then_branch = a () => (p) { p = MatMul(x, w) },
    else_branch = b () => (q) { t = MatMul(x, w) q = MatMul(t, w) }>"""


def test_the_dearer_branch_counts(build):
    model = build("float[5,6] x, bool c", BRANCHES, w=(6, 6))

    result = flops(model)

    assert result.macs == 2 * 5 * 6 * 6
    assert [result.nodes[node].macs for node in model.graph.all_nodes()] == [0, 180, 180, 180]


@pytest.mark.parametrize(("condition", "products"), [(True, 1), (False, 2)])
def test_a_constant_condition_decides(build, condition, products):
    model = build("float[5,6] x", BRANCHES, w=(6, 6), c=np.array(condition))

    assert flops(model).macs == products * 5 * 6 * 6


LOOP = """y = Loop (n, c, x) <
    body = b (int64 i, bool go, a) => (go2, p) { go2 = Identity(go) p = MatMul(a, w) }>"""


def test_a_loop_counts_every_trip(build):
    model = build("float[5,6] x", LOOP, w=(6, 6), n=np.array(7), c=np.array(True))

    assert flops(model).macs == 7 * 5 * 6 * 6


def test_a_loop_of_unknown_length_counts_once_and_says_so(build):
    model = build("float[5,6] x, int64 n", LOOP, w=(6, 6), c=np.array(True))

    result = flops(model)

    assert result.macs == 5 * 6 * 6
    assert len(result.unknown) == 1
    assert "trips" in result.unknown[0]


def test_a_loop_whose_state_grows_is_not_known(build):
    body = """y = Loop (n, c, x) <body = b (int64 i, bool go, a) => (go2, p) {
        go2 = Identity(go) t = Concat<axis=0>(a, a) p = MatMul(t, w) }>"""
    model = build("float[5,6] x", body, w=(6, 6), n=np.array(3), c=np.array(True))

    result = flops(model)

    assert result.macs == 0
    assert "not known" in result.unknown[0]


def test_a_scan_runs_once_a_slice(build):
    body = """h, y = Scan<num_scan_inputs=1, scan_input_axes=[1], body = b (s, t) => (s2, o) {
        m = MatMul(t, w) s2 = Add(s, m) o = Identity(s2) }> (z, x)"""
    model = build("float[5,9,6] x", body, w=(6, 4), z=(5, 4))

    assert flops(model).macs == 9 * 5 * 6 * 4


FUNCTION = """<domain: "f", opset_import: ["": 17]> twice <t> (a, w) => (b) {
    p = Gemm<transB: int = @t>(a, w) b = Gemm<transB: int = @t>(p, w) }"""


def test_functions_count_at_every_call(build):
    body = "p = f.twice<t=0>(x, w) z = f.twice<t=1>(p, w) y = MatMul(z, v)"
    model = build("float[5,6] x", body, functions=FUNCTION, w=(6, 6), v=(6, 2))

    result = flops(model)

    assert result.macs == 4 * 5 * 6 * 6 + 5 * 6 * 2
    inner = next(iter(next(iter(model.functions.values()))))
    assert result.nodes[inner].macs == 2 * 5 * 6 * 6
    assert result.unknown == ()


NESTED = """<domain: "f", opset_import: ["": 17, "f": 1]> outer <t> (a, w) => (b) {
        b = f.inner<t: int = @t>(a, w) }
    <domain: "f", opset_import: ["": 17]> inner <t> (a, w) => (b) {
        b = Gemm<transB: int = @t>(a, w) }"""


def test_functions_hand_attributes_on(build):
    body = "z = f.outer<t=0>(x, w) y = f.outer<t=1>(z, w)"  # 6 to 8 and back
    model = build("float[5,6] x", body, functions=NESTED, w=(6, 8))

    assert flops(model).macs == 2 * 5 * 6 * 8


COLUMNS = """<domain: "f", opset_import: ["": 17]> columns <shape> (a, w) => (b) {
        s = Constant<value_ints: ints = @shape>() r = Reshape(a, s) b = MatMul(r, w) }"""


def test_constants_of_functions_differ_from_call_to_call(build):
    body = "z = f.columns<shape=[30,1]>(x, v) y = f.columns<shape=[15,2]>(x, w)"
    model = build("float[5,6] x", body, functions=COLUMNS, v=(1, 4), w=(2, 4))

    result = flops(model)

    assert result.unknown == ()
    assert result.macs == 30 * 1 * 4 + 15 * 2 * 4
    assert inspect_model(model).totals["params"] == 4 + 8


def test_unknown_operators_are_named_and_counted_as_nothing(build):
    model = build("float[5,6] x", "z = own.Magic(x) y = MatMul(z, w)", w=(6, 6))

    result = flops(model)

    assert result.macs == 0
    magic, product = (result.nodes[node] for node in model.graph)
    assert (magic.macs, product.macs) == (None, None)
    assert "own.Magic" in (magic.why or "")
    assert "not known" in (product.why or "")
    assert len(result.unknown) == 2


def test_open_sizes_are_assumed_and_stated(build):
    model = build("float[batch,s,6] x, float[?,s] m", "y = MatMul(x, w)", w=(6, 6))

    result = flops(model)

    assert result.input_shapes == {"x": (1, 128, 6), "m": (1, 128)}
    assert result.assumed == {"batch": 1, "s": 128, "m[0]": 1}
    assert result.macs == 128 * 36


def test_given_sizes_bind_the_same_symbols_elsewhere(build):
    model = build("float[batch,s,6] x, float[batch,s] m", "y = MatMul(x, w)", w=(6, 6))

    result = flops(model, {"m": (3, 10)})

    assert result.input_shapes == {"x": (3, 10, 6), "m": (3, 10)}
    assert result.assumed == {}


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"z": (1, 2)}, "no input 'z'"),
        ({"x": (1, 2)}, r"shape \[1, 2\]"),
        ({"x": (1, 4, 7)}, r"shape \[1, 4, 7\]"),
    ],
)
def test_shapes_that_contradict_the_model_are_refused(build, shapes, message):
    model = build("float[batch,s,6] x", "y = MatMul(x, w)", w=(6, 6))

    with pytest.raises(InputError, match=message):
        flops(model, shapes)


PUBLISHED = {  # 10^9 multiply-adds; table of weights of torchvision, to the digits given there
    "light_densenet121": 2.83,
    "light_resnet50": 4.09,
    "light_squeezenet": 0.35,
    "light_vgg19": 19.63,
}


@pytest.mark.parametrize(("name", "giga"), PUBLISHED.items())
def test_published_figures(name, giga):
    light = Path(onnx.backend.test.__file__).parent / "data" / "light"

    result = flops(load(light / f"{name}.onnx"))

    assert round(result.macs / 1e9, 2) == giga
    assert result.unknown == ()
