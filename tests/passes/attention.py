"""Attention in the spellings that exporters and clean-up leave, for the tests of several passes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import numpy_helper, parser

from onnxslim_rx.ir import clone, constant, load, nodes, serialize
from onnxslim_rx.passbase import LayerStatistics, Skipped, Stage
from onnxslim_rx.runtime import Runner
from onnxslim_rx.stages import apply_treatments
from onnxslim_rx_passes._heads import constants_of

HEADS, WIDTH, INPUTS, CROSS, OUTPUTS = 3, 8, 10, 14, 11
ALL = HEADS * WIDTH

_BIASED = "{0}0 = MatMul({2}, w{0}) {0}1 = Add({1})"


def _three(biased):
    if not biased:
        return "q1 = MatMul(x, wq) k1 = MatMul(y, wk) v1 = MatMul(y, wv)"
    orders = {"q": "q0, bq", "k": "bk, k0", "v": "v0, bv"}
    sources = zip("qkv", "xyy", strict=True)
    return " ".join(_BIASED.format(one, orders[one], source) for one, source in sources)


PROJECTIONS = {
    "three": _three(True),
    "three-cross": _three(True),
    "three-plain": _three(False),
    "merged": "a = MatMul(x, w) b = Add(bias, a) k1, v1, q1 = Split<axis = -1>(b, sizes)",
    "merged-plain": "b = MatMul(x, w) k1, v1, q1 = Split<axis = 2>(b, sizes)",
    "merged-equal": "a = MatMul(x, w) b = Add(a, bias) k1, v1, q1 = Split<axis = 2>(b)",
    "merged-attribute": "a = MatMul(x, w) b = Add(bias, a) "
    f"k1, v1, q1 = Split<axis = 2, split = [{ALL}, {ALL}, {ALL}]>(b)",
    "merged-number": "a = MatMul(x, w) b = Add(bias, a) "
    "k1, v1, q1 = Split<axis = 2, num_outputs = 3>(b)",
    "merged-then-bias": "a = MatMul(x, w) k0, v0, q0 = Split<axis = -1>(a, sizes) "
    "q1 = Add(q0, bq) k1 = Add(k0, bk) v1 = Add(v0, bv)",
    "cross": "q0 = MatMul(x, wq) q1 = Add(q0, bq) "
    "a = MatMul(y, wkv) b = Add(a, bkv) k1, v1 = Split<axis = -1>(b, pair)",
    "gemm": "f = Reshape(x, flat) a = Gemm<transB = 1, alpha = 0.5, beta = 2.0>(f, wt, bias) "
    "b = Reshape(a, wide) k1, v1, q1 = Split<axis = -1>(b, sizes)",
    "gemms": "f = Reshape(x, flat) q1 = Gemm(f, wq, bq) k1 = Gemm<transB = 1>(f, wkt, bk) "
    "v1 = Gemm(f, wv)",
}
SCALES = {
    "none": "s1 = Identity(s0)",
    "behind": "s1 = Mul(scale, s0)",
    "divided": "s1 = Div(s0, scale)",
}
MASKS = {
    "none": "s = Identity(s1)",
    "add": "s = Add(s1, mask)",
    "where": "s = Where(open, s1, low)",
}


def build(
    rng,
    *,
    projection="merged",
    scale="behind",
    mask="add",
    query="qt = Transpose<perm = [0, 2, 1, 3]>(qr)",
    key="kt = Transpose<perm = [0, 2, 3, 1]>(kr)",
    cut=(0, 0, HEADS, WIDTH),
    weigh="p = Softmax<axis = -1>(s)",
    merge="ct = Transpose<perm = [0, 2, 1, 3]>(c) cr = Reshape(ct, side)",
    side=(0, 0, ALL),
    end="o = MatMul(cr, wo) out = Add(o, bo)",
    extra="",
    outputs="float[N, S, M] out",
    body=None,
    kind="float",
    opset=17,
    **changed: Any,
) -> ir.Model:
    """Attention of x (N, 5, 10) to y (N, 7, 14), or to x itself; all but the sizes may vary."""
    crossing = projection in ("cross", "three-cross")
    body = (
        body
        or f"""{PROJECTIONS.get(projection, projection)}
        qr = Reshape(q1, cut) {query} kr = Reshape(k1, cut) {key}
        vr = Reshape(v1, cut) vt = Transpose<perm = [0, 2, 1, 3]>(vr)
        s0 = MatMul(qt, kt) {SCALES.get(scale, scale)} {MASKS.get(mask, mask)} {weigh}
        c = MatMul(p, vt) {merge} {end} {extra}"""
    )
    inputs = f"float[N, 5, {INPUTS}] x{f', float[N, 7, {CROSS}] y' if crossing else ''}"
    text = f"""<ir_version: 8, opset_import: ["": {opset}]>
    g ({inputs}) => ({outputs}) {{ {body} }}"""
    if not crossing:
        text = text.replace("MatMul(y, ", "MatMul(x, ")
    if kind != "float":
        text = text.replace("float[", f"{kind}[")
    keys = 7 if crossing else 5
    width = CROSS if crossing else INPUTS
    dtype = np.float16 if kind == "float16" else np.float32
    wide = rng.standard_normal((width, 3 * ALL)) / 3
    bias = rng.standard_normal(3 * ALL) / 3
    floats = {
        "w": wide, "wt": wide.T.copy(), "bias": bias,
        "wq": rng.standard_normal((INPUTS, ALL)) / 3, "bq": bias[:ALL],
        "wk": wide[:, :ALL], "wkt": wide[:, :ALL].T.copy(), "bk": bias[ALL : 2 * ALL],
        "wv": wide[:, ALL : 2 * ALL], "bv": bias[2 * ALL :],
        "wkv": wide[:, : 2 * ALL], "bkv": bias[: 2 * ALL],
        "wo": rng.standard_normal((ALL, OUTPUTS)), "wot": rng.standard_normal((OUTPUTS, ALL)),
        "bo": rng.standard_normal(OUTPUTS), "scale": 0.4, "low": -1e4,
        "mask": rng.standard_normal((5, keys)),
    }  # fmt: skip
    sizes = {
        "sizes": [ALL] * 3, "pair": [ALL] * 2, "cut": cut, "side": side, "flat": [-1, INPUTS],
        "wide": [-1, 5, 3 * ALL],
    }  # fmt: skip
    arrays = {name: np.asarray(array, dtype) for name, array in floats.items()}
    arrays |= {name: np.asarray(array, np.int64) for name, array in sizes.items()}
    arrays |= {"open": rng.random((5, keys)) > 0.4, **changed}
    arrays["open"][:, 0] = True
    proto = parser.parse_model(text)
    read = {name for node in proto.graph.node for name in node.input}
    proto.graph.initializer.extend(
        numpy_helper.from_array(array, name) for name, array in arrays.items() if name in read
    )
    return load(proto)


def held(tensor: ir.TensorProtocol | None) -> ir.TensorProtocol:
    """The tensor, which must be there."""
    assert tensor is not None
    return tensor


def feeds_of(model, rng, batch=2):
    """Standard normal inputs with a mean."""
    return {
        value.name: (rng.standard_normal((batch, *value.shape[1:])) + 0.5).astype(
            value.dtype.numpy()
        )
        for value in model.graph.inputs
    }


def units(one, model):
    """The units that the pass finds."""
    return [layer for layer in one.layers(model) if not isinstance(layer, Skipped)]


def reasons(one, model):
    """Why places are refused."""
    return [layer.why for layer in one.layers(model) if isinstance(layer, Skipped)]


def statistics(model, unit, feeds):
    """Measured in ONNX Runtime, by returning what enters the members."""
    twin = clone(model)
    wanted = [member.activation.name for member in unit.members]
    values = {value.name: value for node in nodes(twin) for value in node.outputs}
    extra = [name for name in dict.fromkeys(wanted) if name in values]
    for name in extra:
        values[name].type = twin.graph.inputs[0].type
        twin.graph.outputs.append(values[name])
    found = {**feeds, **Runner(twin)(feeds)}
    members = []
    for name in wanted:
        x = found[name].astype(np.float64).reshape(-1, found[name].shape[-1])
        members.append(
            LayerStatistics(x.T @ x, None, len(x), None, found[name].shape, mean=x.mean(0))
        )
    first = members[0]
    return LayerStatistics(None, None, first.rows, None, first.shape, members=tuple(members))


def stage(one, width, stats=None):
    """What a plan says."""
    return Stage(one.name, {"method": one.method, "width": width, "whitened": stats is not None})


def narrowed(one, model, width, stats=None):
    """A copy with its only unit carried out, checked."""
    copy = clone(model)
    (unit,) = units(one, copy)
    before = [node.op_type for node in nodes(copy)]
    refused = apply_treatments(copy, [(unit, [stage(one, width, stats)], stats)], {one.name: one})
    assert refused == []
    onnx.checker.check_model(serialize(copy), full_check=True)
    after = [node.op_type for node in nodes(copy)]
    assert len(after) <= len(before)
    assert set(after) <= set(before)
    return copy


def padded(one, model, width, stats=None):
    """A copy whose only unit has the dense stand-ins for its constants."""
    (unit,) = units(one, model)
    return with_stand_ins(one, model, width, {unit.name: stats})


def with_stand_ins(one, model, width, stats=None):
    """A copy in which the constants of all units are the dense stand-ins."""
    copy = clone(model)
    for unit in units(one, copy):
        known = (stats or {}).get(unit.name)
        factors = one.transform(unit, stage(one, width, known), constants_of(unit), known)
        for value, array in zip(unit.weights, one.restore(unit, factors), strict=True):
            old = held(constant(value)).numpy()
            assert array.shape == old.shape
            value.const_value = ir.tensor(array.astype(old.dtype), name=value.name)
    return copy


def assert_same(one, other, feeds, tolerance):
    """Equal outputs, `tolerance` being relative to the largest entry."""
    right, left = Runner(one)(feeds), Runner(other)(feeds)
    assert list(right) == list(left)
    for name, array in right.items():
        scale = float(np.abs(array.astype(np.float64)).max())
        np.testing.assert_allclose(left[name], array, rtol=0, atol=tolerance * scale)
