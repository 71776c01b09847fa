"""UseNative: each rule against stock ONNX Runtime on the model as it was."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import pytest

from onnxslim_rx.analysis import flops
from onnxslim_rx.analysis.facts import Facts
from onnxslim_rx.ir import clone, load, nodes, serialize
from onnxslim_rx.passbase import PassContext, PassResult
from onnxslim_rx.quant import BlockFormat, pack, pack_zeros
from onnxslim_rx.runtime import Runner, least_onnxruntime, library_path, uses_domain
from onnxslim_rx.targets import load_target
from onnxslim_rx_passes.use_native import UseNative
from tests.native import reference
from tests.passes.conftest import build, feeds_of

Array = npt.NDArray[Any]
DOMAIN = "ai.onnxslim.rx"
SIZES = {"N": 3, "S": 5}


def native(model: ir.Model, target: str = "rx") -> tuple[ir.Model, PassResult]:
    """A copy that uses our operators, and what the pass says."""
    copy = clone(model)
    one = UseNative()
    context = PassContext(lambda *_: {}, load_target(target))
    done = one(copy, context)
    again = one(done.model, context)
    assert not again.modified
    return load(onnx.ModelProto.FromString(serialize(done.model))), done


def stock(model: ir.Model) -> ir.Model:
    """The model whose activations are not rounded to 8 bits on the way into a product."""
    copy = clone(model)
    for node in nodes(copy):
        node.attributes.pop("accuracy_level", None)
    return copy


def ops(model: ir.Model) -> list[str]:
    """Operators of our domain, or of any, in order."""
    return [node.op_type for node in nodes(model) if node.op_type not in ("Cast", "Constant")]


def check(before: ir.Model, rng: np.random.Generator, wanted: list[str], tol: float = 2e-6) -> Any:
    """The rewritten model, which has these operators and computes the same."""
    after, done = native(before)
    assert ops(after) == wanted, [one.why for one in done.skipped]
    ours = {"QuantMatMul", "QuantGather", "QuantConv", "LowRankMatMul", "ConvChain"}
    assert all((node.domain == DOMAIN) == (node.op_type in ours) for node in nodes(after))
    feeds = feeds_of(before, rng, SIZES)
    for name, array in feeds.items():
        if array.dtype.kind == "i":
            feeds[name] = rng.integers(-7, 7, array.shape, array.dtype)
    # without optimisations nothing is computed on rounded activations
    right = Runner(stock(before), optimize=False)(feeds)
    runs = [reference.run(after, feeds)]
    if library_path() is not None:
        runs.append(Runner(after, device="cpu")(feeds))
    for found in runs:
        for name, array in right.items():
            assert found[name].dtype == array.dtype
            scale = max(1.0, float(np.abs(array).max()))
            np.testing.assert_allclose(found[name], array, rtol=0, atol=tol * scale)
    facts = Facts(after)
    for value in after.graph.outputs:  # the sizes are known without running it
        shape = facts.sizes(value)
        assert shape is None or shape == right[str(value.name)].shape
    assert flops(after, {n: a.shape for n, a in feeds.items()}).unknown == ()
    assert least_onnxruntime(after) == least_onnxruntime(stock(after)) != ""
    return after


def blocks(
    rng: np.random.Generator, n: int, k: int, bits: int = 4, block: int = 32, *, zeros: bool = False
) -> dict[str, Array]:
    """Constants of a MatMulNBits."""
    values = rng.integers(0, 2**bits, (n, k)).astype(np.uint8)
    count = -(-k // block)
    points = rng.integers(0, 2**bits, (n, count)).astype(np.uint8)
    made = BlockFormat(bits=bits, group=block)
    found = {
        "b": pack(values, made, points if zeros else None),
        "s": (rng.standard_normal((n, count)) / 2**bits).astype(np.float32),
    }
    return {**found, "z": pack_zeros(points, bits)} if zeros else found


def product(n: int, k: int, bits: int = 4, block: int = 32, inputs: str = "x, b, s") -> str:
    return (
        f"com.microsoft.MatMulNBits<K = {k}, N = {n}, bits = {bits}, block_size = {block},"
        f" accuracy_level = 4>({inputs})"
    )


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize(
    ("bits", "block", "n", "k"), [(4, 32, 33, 70), (8, 16, 5, 64), (2, 64, 8, 100)]
)
def test_products_in_blocks(rng, bits, block, n, k, zeros) -> None:
    inputs = "x, b, s, z" if zeros else "x, b, s"
    call = product(n, k, bits, block, inputs)
    text = f"g (float[N, S, {k}] x) => (float[N, S, {n}] y) {{ y = {call} }}"
    weights = blocks(rng, n, k, bits, block, zeros=zeros)
    after = check(build(text, weights), rng, ["QuantMatMul"], 1e-5)
    assert set(after.graph.initializers) == set(weights)  # the same bytes
    assert uses_domain(after)


def test_flat_scales_and_zero_points_get_two_axes(rng) -> None:
    made = blocks(rng, 6, 64, zeros=True)
    flat = {name: array if name == "b" else array.reshape(-1) for name, array in made.items()}
    text = f"g (float[N, 64] x) => (float[N, 6] y) {{ y = {product(6, 64, inputs='x, b, s, z')} }}"
    check(build(text, flat), rng, ["QuantMatMul"], 1e-5)


TAILS = {
    "bias": "y = Add(p, c)",
    "bias first": "y = Add(c, p)",
    "residual": "y = Add(p, r)",
    "both": "q = Add(p, c) y = Add(r, q)",
    "relu": "q = Add(p, c) y = Relu(q)",
    "clip": "y = Clip(p, low, high)",
    "floor": "y = Max(p, low)",
    "gelu": "q = Add(p, c) y = Gelu(q)",
    "tanh": 'y = Gelu<approximate = "tanh">(p)',
    "silu": "q = Add(p, c) w = Sigmoid(q) y = Mul(q, w)",
    "ms": "y = com.microsoft.Gelu(p)",
    "all": "q = Add(p, c) t = Add(q, r) y = Relu(t)",
}


@pytest.mark.parametrize("tail", TAILS)
def test_what_follows_moves_in(rng, tail) -> None:
    text = (
        "g (float[N, 64] x, float[N, 12] r) => (float[N, 12] y)"
        f" {{ p = {product(12, 64)} {TAILS[tail]} }}"
    )
    weights = blocks(rng, 12, 64)
    weights |= {"c": rng.standard_normal(12).astype(np.float32)}
    weights |= {"low": np.float32(-0.5), "high": np.float32(0.75)}
    used = {n: a for n, a in weights.items() if f"{n}," in text or f"{n})" in text}
    after = check(build(text, used, opset=20, ir_version=9), rng, ["QuantMatMul"], 1e-5)
    node = after.graph[-1]
    given = {"bias": 5, "bias first": 5, "relu": 5, "gelu": 5, "silu": 5}
    given |= {"residual": 6, "both": 6, "all": 6}
    assert len(node.inputs) == given.get(tail, 3)
    wanted = {
        "relu": "Relu", "all": "Relu", "clip": "Clip", "floor": "Clip", "gelu": "Gelu",
        "ms": "Gelu", "tanh": "GeluTanh", "silu": "Silu",
    }  # fmt: skip
    assert node.attributes.get_string("activation", "") == wanted.get(tail, "")
    if tail == "floor":
        assert node.attributes.get_float("clip_max", 0.0) == np.inf


PLAIN = "g (float[N, 64] x) => (float[N, 12] y)"
MORE = "g (float[N, 64] x, float[N, 12] r) => (float[N, 12] y)"
TWO = "g (float[N, 64] x) => (float[N, 12] y, float[N, 12] also)"
KEPT = {
    "read by another": (TWO, "y = Relu(p) also = Neg(p)"),
    "read elsewhere": ("g (float[N, 64] x) => (float[N, 12] y, float[N, 12] p)", "y = Relu(p)"),
    "another shape": ("g (float[N, 64] x, float[1, 12] r) => (float[N, 12] y)", "y = Add(p, r)"),
    "more axes": ("g (float[N, 64] x) => (float[1, N, 12] y)", "y = Add(p, d)"),
    "a column": ("g (float[3, 64] x) => (float[3, 12] y)", "y = Add(p, e)"),
    "behind": (MORE, "q = Relu(p) y = Add(q, r)"),
    "two": (PLAIN, "q = Relu(p) y = Gelu(q)"),
    "another": (PLAIN, "y = Elu(p)"),
    "gate": (MORE, "w = Sigmoid(r) y = Mul(p, w)"),
}  # fmt: skip


@pytest.mark.parametrize("case", KEPT)
def test_what_cannot_move_in_stays(rng, case) -> None:
    head, tail = KEPT[case]
    text = f"{head} {{ p = {product(12, 64)} {tail} }}"
    weights = blocks(rng, 12, 64)
    weights |= {"d": rng.standard_normal((1, 1, 12)).astype(np.float32)}
    weights |= {"e": rng.standard_normal((3, 1)).astype(np.float32)}
    used = {n: a for n, a in weights.items() if f"{n}," in text or f"{n})" in text}
    left = {"behind": ["Add"], "two": ["Gelu"], "another": ["Elu"], "gate": ["Sigmoid", "Mul"]}
    left |= {"read elsewhere": ["Relu"], "read by another": ["Relu", "Neg"]}
    wanted = ["QuantMatMul", *left.get(case, ["Add"])]
    check(build(text, used, opset=20, ir_version=9), rng, wanted, 1e-5)


def test_a_gelu_spelt_out_is_found(rng) -> None:
    tail = "a = Div(p, root) e = Erf(a) f = Add(e, one) d = Mul(p, f) y = Mul(d, half)"
    text = f"g (float[N, 64] x) => (float[N, 12] y) {{ p = {product(12, 64)} {tail} }}"
    numbers = {"root": np.float32(2**0.5), "one": np.float32(1), "half": np.float32(0.5)}
    check(build(text, {**blocks(rng, 12, 64), **numbers}), rng, ["QuantMatMul"], 1e-5)


REFUSED = {
    "order": (product(6, 64, inputs="x, b, s, , g"), "another order"),
    "zeros": (product(6, 64, inputs="x, b, s, f"), "no integers"),
    "input": (product(6, 64, inputs="x, b, v"), "no constant"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_products_that_are_refused(rng, case) -> None:
    call, why = REFUSED[case]
    text = f"g (float[N, 64] x, float[6, 2] v) => (float[N, 6] y) {{ y = {call} }}"
    weights = blocks(rng, 6, 64)
    weights |= {"g": np.zeros(64, np.int32), "f": np.ones((6, 2), np.float32)}
    used = {n: a for n, a in weights.items() if f"{n}," in text or f"{n})" in text}
    after, done = native(build(text, used))
    assert ops(after) == ["MatMulNBits"]
    assert why in done.skipped[0].why


@pytest.mark.parametrize("kind", ["float", "float16"])
@pytest.mark.parametrize("form", ["cast-mul", "dequantize", "zeros", "blocks", "int4"])
def test_products_with_integers(rng, form, kind) -> None:
    real = {"float": np.float32, "float16": np.float16}[kind]
    code = {"float": 1, "float16": 10}[kind]
    w = rng.integers(-128, 128, (70, 9)).astype(np.int8)
    s = (rng.random((1, 9)) / 100 + 0.001).astype(real)
    weights: dict[str, Any] = {"w": w, "s": s}
    if form == "cast-mul":
        made = f"v = Cast<to = {code}>(w) d = Mul(v, s)"
    elif form == "blocks":
        weights["s"] = (rng.random((3, 9)) / 100 + 0.001).astype(real)
        made = "d = DequantizeLinear<axis = 0, block_size = 32>(w, s)"
    else:
        weights["s"] = s.reshape(-1)
        made = "d = DequantizeLinear<axis = 1>(w, s)"
    if form == "zeros":
        weights["z"] = rng.integers(-10, 10, 9).astype(np.int8)
        made = "d = DequantizeLinear<axis = 1>(w, s, z)"
    text = f"g ({kind}[N, 70] x) => ({kind}[N, 9] y) {{ {made} y = MatMul(x, d) }}"
    model = build(text, weights, opset=21, ir_version=10)
    if form == "int4":
        _as_int4(model, "w", w >> 4)
    after = check(
        model,
        rng,
        ["QuantMatMul"],
        1e-2 if kind == "float16" else 4e-6,  # of float16 weights and results, 2^-11 each
    )
    node = next(node for node in nodes(after) if node.domain == DOMAIN)
    assert node.attributes.get_int("bits", 0) == (4 if form == "int4" else 8)
    assert node.attributes.get_int("block_size", 0) == (32 if form == "blocks" else 72)
    assert (len(node.inputs) > 3) == (form == "zeros")


def _as_int4(model: ir.Model, name: str, values: Array) -> None:
    value = model.graph.initializers[name]
    dtype = ir.DataType.INT4
    value.const_value = ir.tensor(values.astype(dtype.numpy()), dtype=dtype, name=name)
    value.dtype = dtype


GEMMS = {
    "turned": ("Gemm<transB = 1>(x, d, c)", (9, 70), (9, 1)),
    "plain": ("Gemm(x, d, c)", (70, 9), (1, 9)),
    "no bias": ("Gemm(x, d)", (70, 9), (1, 9)),
}


@pytest.mark.parametrize("form", GEMMS)
def test_gemms_with_integers(rng, form) -> None:
    call, shape, scales = GEMMS[form]
    weights = {
        "w": rng.integers(-128, 128, shape).astype(np.int8),
        "s": (rng.random(scales) / 100 + 0.001).astype(np.float32),
        "c": rng.standard_normal((1, 9)).astype(np.float32),
    }
    if form == "no bias":
        weights.pop("c")
    made = "v = Cast<to = 1>(w) d = Mul(v, s)"
    text = f"g (float[N, 70] x) => (float[N, 9] y) {{ {made} y = {call} }}"
    check(build(text, weights), rng, ["QuantMatMul"])


INTEGERS_KEPT = {
    "scaled": ("y = Gemm<alpha = 0.5>(x, d)", "scales"),
    "shared": ("y = MatMul(x, d) e = Neg(d)", "read elsewhere"),
    "rounded": ("y = MatMul(u, d)", "computed on integers"),
    "columns": ("y = MatMul(x, f)", "do not lie along rows"),
}


@pytest.mark.parametrize("case", INTEGERS_KEPT)
def test_integers_that_are_left(rng, case) -> None:
    tail, why = INTEGERS_KEPT[case]
    weights = {
        "w": rng.integers(-128, 128, (70, 9)).astype(np.int8),
        "s": np.full((1, 9), 0.01, np.float32), "t": np.full((70, 1), 0.01, np.float32),
        "o": np.float32(0.1), "i": np.uint8(3),
    }  # fmt: skip
    made = "v = Cast<to = 1>(w) d = Mul(v, s)"
    if case == "columns":
        made = "v = Cast<to = 1>(w) f = Mul(v, t)"
    if case == "rounded":
        made += " q = QuantizeLinear(x, o, i) u = DequantizeLinear(q, o, i)"
    extra = ", float[70, 9] e" if case == "shared" else ""
    text = f"g (float[N, 70] x) => (float[N, 9] y{extra}) {{ {made} {tail} }}"
    after, done = native(
        build(text, {n: a for n, a in weights.items() if f"{n})" in text or f"{n}," in text})
    )
    assert not uses_domain(after)
    assert any(why in one.why for one in done.skipped)


@pytest.mark.parametrize("form", ["blocks", "zeros", "rows"])
def test_tables(rng, form) -> None:
    made = blocks(rng, 11, 96, zeros=form == "zeros")
    weights: dict[str, Array] = {
        "b": made["b"].reshape(11, -1),
        **{n: made[n] for n in ("s", "z") if n in made},
    }
    call = (
        "com.microsoft.GatherBlockQuantized<bits = 4, block_size = 32, quantize_axis = 1>(b, i, s)"
    )
    call = call.replace("s)", "s, z)") if form == "zeros" else call
    text = f"g (int64[N, S] i) => (float[N, S, 96] y) {{ y = {call} }}"
    if form == "rows":
        weights = {
            "w": rng.integers(-128, 128, (11, 37)).astype(np.int8),
            "s": (rng.random((11, 1)) + 0.5).astype(np.float32),
        }
        text = (
            "g (int32[N, S] i) => (float[N, S, 37] y)"
            " { v = Cast<to = 1>(w) d = Mul(v, s) y = Gather(d, i) }"
        )
    check(build(text, weights), rng, ["QuantGather"])


CONVS: dict[str, tuple[tuple[int, ...], str]] = {
    "plain": ((6, 5, 3, 3), "Conv(x, d)"),
    "options": ((6, 2, 3, 2), "Conv<group = 2, strides = [2, 1], dilations = [1, 2],"
                " pads = [1, 0, 2, 1]>(x, d, c)"),
    "one axis": ((6, 5, 3), "Conv<pads = [1, 1]>(x, d, c)"),
    "depthwise": ((4, 1, 3, 3), "Conv<group = 4>(x, d)"),
}  # fmt: skip


@pytest.mark.parametrize("tail", ["", "Relu", "Add", "Residual"])
@pytest.mark.parametrize("case", CONVS)
def test_convolutions_with_integers(rng, case, tail) -> None:
    shape, call = CONVS[case]
    group = {"options": 2, "depthwise": 4}.get(case, 1)
    size = [7] * (len(shape) - 2)
    made = "v = Cast<to = 1>(w) d = Mul(v, s)"
    ones = [1] * (len(shape) - 1)
    weights = {
        "w": rng.integers(-128, 128, shape).astype(np.int8),
        "s": (rng.random((shape[0], *ones)) / 100 + 0.001).astype(np.float32),
        "c": rng.standard_normal(shape[0]).astype(np.float32),
        "e": rng.standard_normal((shape[0], *ones[1:])).astype(np.float32),
    }
    last = {"": "", "Relu": "y = Relu(p)", "Add": "y = Add(e, p)", "Residual": "y = Add(p, p2)"}[
        tail
    ]
    name = "p" if tail else "y"
    if tail == "Residual":
        made += f" p2 = {call}"
        made = made.replace("(x, d, c)", "(x, d2)").replace("(x, d)", "(x, d2)")
        weights["d2"] = rng.standard_normal(shape).astype(np.float32)
    text = (
        f"g (float[2, {shape[1] * group}, {', '.join(map(str, size))}] x) => (float y)"
        f" {{ {made} {name} = {call} {last} }}"
    ).replace("float y", f"float[{', '.join('?' * len(shape))}] y")
    used = {n: a for n, a in weights.items() if f"{n}," in text or f"{n})" in text}
    wanted = ["Conv", "QuantConv"] if tail == "Residual" else ["QuantConv"]
    if tail == "Add" and "(x, d, c)" in call:
        wanted = ["QuantConv", "Add"]  # it has a bias
    check(build(text, used), rng, wanted)


CHAINS: dict[str, list[tuple[tuple[int, ...], str]]] = {
    "svd": [((3, 5, 3, 3), "strides = [2, 1], pads = [1, 1, 1, 1]"), ((8, 3, 1, 1), "")],
    "tucker": [((3, 5, 1, 1), ""), ((4, 3, 3, 3), "pads = [1, 0, 1, 2]"), ((8, 4, 1, 1), "")],
    "cp": [((3, 5, 1, 1), ""), ((3, 1, 3, 3), "group = 3, dilations = [2, 1]"), ((8, 3, 1, 1), "")],
    "one axis": [((3, 5, 3), "strides = [2], pads = [1, 0]"), ((8, 3, 1), "")],
}


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("case", CHAINS)
def test_chains_of_convolutions(rng, case, bias) -> None:
    stages = CHAINS[case]
    weights = {
        f"w{i}": rng.standard_normal(s).astype(np.float32) for i, (s, _) in enumerate(stages)
    }
    if bias:
        weights["c"] = rng.standard_normal(8).astype(np.float32)
    names = ["x", *(f"v{i}" for i in range(1, len(stages))), "p"]
    body = ""
    for i, (_, attributes) in enumerate(stages):
        last = ", c" if bias and i == len(stages) - 1 else ""
        body += f" {names[i + 1]} = Conv<{attributes}>({names[i]}, w{i}{last})"
    rank = len(stages[0][0])
    text = (
        f"g (float[N, 5{', 9' * (rank - 2)}] x) => (float[{', '.join('?' * rank)}] y)"
        f" {{ {body} y = Relu(p) }}"
    ).replace("Conv<>", "Conv")
    after = check(build(text, weights), rng, ["ConvChain"], 2e-5)
    (node,) = nodes(after)
    assert node.attributes.get_int("stages", 0) == len(stages)
    assert node.attributes.get_string("activation", "") == "Relu"


BROKEN = {
    "activation": ("v = Conv(x, w0) u = Relu(v) y = Conv(u, w1)", []),
    "bias": ("v = Conv(x, w0, c) y = Conv(v, w1)", []),
    "shared": ("v = Conv(x, w0) y = Conv(v, w1) e = Relu(v)", ["e"]),
    "sizes": ('v = Conv<auto_pad = "SAME_UPPER">(x, w0) y = Conv(v, w1)', []),
    "transposed": ("v = ConvTranspose(x, w2) y = Conv(v, w1)", []),
}


@pytest.mark.parametrize("case", BROKEN)
def test_convolutions_that_are_no_chain(rng, case) -> None:
    body, more = BROKEN[case]
    outputs = ", ".join(f"float[?, ?, ?, ?] {name}" for name in ("y", *more))
    shapes = {"w0": (3, 5, 3, 3), "w1": (8, 3, 1, 1), "w2": (5, 3, 3, 3), "c": (3,)}
    text = f"g (float[N, 5, 9, 9] x) => ({outputs}) {{ {body} }}"
    weights = {
        n: rng.standard_normal(s).astype(np.float32)
        for n, s in shapes.items()
        if f" {n}" in text.replace(")", " ")
    }
    after, _ = native(build(text, weights))
    assert not uses_domain(after)


PAIRS = {
    "matmul": "v = MatMul(x, p) y = MatMul(v, q)",
    "bias": "v = MatMul(x, p) u = MatMul(v, q) y = Add(u, c)",
    "gemm": "v = MatMul(x, p) y = Gemm<transB = 1>(v, t, c)",
    "gemms": "v = Gemm(x, p) u = Gemm(v, q) y = Relu(u)",
}


@pytest.mark.parametrize("case", PAIRS)
def test_pairs(rng, case) -> None:
    text = f"g (float[N, 40] x) => (float[N, 30] y) {{ {PAIRS[case]} }}"
    q = rng.standard_normal((4, 30)).astype(np.float32)
    weights = {
        "p": rng.standard_normal((40, 4)).astype(np.float32), "q": q, "t": q.T.copy(),
        "c": rng.standard_normal(30).astype(np.float32),
    }  # fmt: skip
    used = {n: a for n, a in weights.items() if f"{n}," in text or f"{n})" in text}
    after = check(build(text, used), rng, ["LowRankMatMul"], 1e-5)
    factors = [value.shape for value in after.graph[0].inputs[1:3] if value is not None]
    assert factors == [(40, 4), (4, 30)]


NO_PAIRS = {
    "thick": ("v = MatMul(x, p) y = MatMul(v, q)", 20),
    "shared": ("v = MatMul(x, p) y = MatMul(v, q) e = Neg(v)", 4),
    "between": ("v = MatMul(x, p) u = Relu(v) y = MatMul(u, q)", 4),
    "scaled": ("v = MatMul(x, p) y = Gemm<alpha = 2.0>(v, q)", 4),
    "biased": ("v = Gemm(x, p, b) y = Gemm(v, q)", 4),
}


@pytest.mark.parametrize("case", NO_PAIRS)
def test_products_that_are_no_pair(rng, case) -> None:
    body, rank = NO_PAIRS[case]
    extra = f", float[N, {rank}] e" if case == "shared" else ""
    text = f"g (float[N, 40] x) => (float[N, 30] y{extra}) {{ {body} }}"
    weights = {
        "p": rng.standard_normal((40, rank)).astype(np.float32),
        "q": rng.standard_normal((rank, 30)).astype(np.float32),
    }
    weights |= {"b": np.ones(rank, np.float32)} if case == "biased" else {}
    assert not uses_domain(native(build(text, weights))[0])


def test_other_targets_never_get_it(rng) -> None:
    text = f"g (float[N, 64] x) => (float[N, 12] y) {{ y = {product(12, 64)} }}"
    model = build(text, blocks(rng, 12, 64))
    for target in ("ort-cpu", "portable"):
        after, done = native(model, target)
        assert not done.modified
        assert "has no operators of ai.onnxslim.rx" in done.skipped[0].why
        assert not uses_domain(after)


def test_tied_weights_stay_one(rng) -> None:
    made = blocks(rng, 11, 96)
    weights = {"b": made["b"].reshape(11, -1), "s": made["s"], "n": np.array([11, 3, 16])}
    look_up = (
        "com.microsoft.GatherBlockQuantized<bits = 4, block_size = 32, quantize_axis = 1>(b, i, s)"
    )
    text = (
        "g (int64[N] i) => (float[N, 11] y)"
        f" {{ x = {look_up} w = Reshape(b, n) y = {product(11, 96, inputs='x, w, s')} }}"
    )
    after = check(build(text, weights), rng, ["QuantGather", "Reshape", "QuantMatMul"], 1e-5)
    assert after.graph.initializers["b"].const_value is not None


def test_a_shape_that_a_constant_is_given_becomes_its_own(rng) -> None:
    made = blocks(rng, 6, 64)
    weights = {"b": made["b"].reshape(6, -1), "s": made["s"], "n": np.array([6, 2, 16])}
    text = (
        "g (float[N, 64] x) => (float[N, 6] y)"
        f" {{ w = Reshape(b, n) y = {product(6, 64, inputs='x, w, s')} }}"
    )
    after = check(build(text, weights), rng, ["QuantMatMul"], 1e-5)
    assert len(after.graph.initializers) == 2
