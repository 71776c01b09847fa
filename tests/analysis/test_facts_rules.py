"""Rules of inference against numpy, ONNX Runtime and ONNX's inference of old versions."""

from __future__ import annotations

import contextlib

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from onnxslim_rx.analysis.facts import Facts, evaluate
from onnxslim_rx.analysis.facts.dims import symbol
from onnxslim_rx.analysis.facts.fallback import Fallback
from onnxslim_rx.analysis.facts.known import Known, Site


def parse(inputs, body, *, version=18, ir_version=8, functions="", **weights):
    imports = f'"": {version}, "com.microsoft": 1, "f": 1, "own": 1'
    proto = onnx.parser.parse_model(
        f"<ir_version: {ir_version}, opset_import: [{imports}]>"
        f"g ({inputs}) => (y) {{ {body} }} {functions}"
    )
    for name, array in weights.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    return ir.from_proto(proto)


def about(model):
    return Facts(model)


def named(model, name):
    return next(v for n in model.graph.all_nodes() for v in n.outputs if v.name == name)


def shape_of(inputs, body, name="y", **options):
    """The shape of a value, formulas as text."""
    model = parse(inputs, body, **options)
    shape = about(model).shape(named(model, name))
    return shape if shape is None else tuple(d if isinstance(d, int) else str(d) for d in shape)


def run(model, *feeds):
    """Results of ONNX Runtime without optimisation; None where it refuses."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    proto = ir.to_proto(model)
    for output in proto.graph.output:
        output.ClearField("type")
    with contextlib.suppress(Exception):  # ONNX Runtime's errors have no base class but this
        session = onnxruntime.InferenceSession(proto.SerializeToString(), options)
        names = [info.name for info in session.get_inputs()]
        return session.run(None, dict(zip(names, feeds, strict=True)))[0]
    return None


def is_right(shape, real, **values) -> bool:
    """Whether the shape, symbols having these values, is the real one; others are free."""
    if len(shape) != len(real):
        return False
    return all(
        (not isinstance(dim, int) and not dim.symbols <= values.keys())
        or evaluate(dim, values) == size
        for dim, size in zip(shape, real, strict=True)
    )  # fmt: skip


POSITIONS = st.one_of(st.integers(-9, 9), st.sampled_from([2**63 - 1, -(2**63), 2**31 - 1]))


@given(
    size=st.integers(0, 7),
    start=POSITIONS,
    end=POSITIONS,
    step=st.sampled_from([1, 1, 2, 3, -1, -2]),
)
@settings(max_examples=150, deadline=None)
def test_slices(size, start, end, step):
    index = slice(start, end, step)
    length = len(range(*index.indices(size)))
    for inputs in ("float[s] x", f"float[{size}] x"):
        model = parse(
            inputs, "y = Slice(x, a, b, c, d)", a=[start], b=[end], c=np.array([0]), d=[step]
        )
        shape = about(model).shape(named(model, "y"))

        assert is_right(shape, (length,), s=size)


@pytest.mark.parametrize(("start", "end"), [("n", "m"), ("zero", "n"), ("n", "end"), ("one", "m")])
@given(s=st.integers(0, 6), a=st.integers(0, 6), b=st.integers(0, 6))
@settings(max_examples=30, deadline=None)
def test_slices_between_formulas(start, end, s, a, b):
    body = f"n = Shape(p) m = Shape(q) y = Slice(x, {start}, {end})"
    constants = {"zero": [0], "one": [-1], "end": [2**63 - 1]}
    used = {name: constants[name] for name in (start, end) if name in constants}
    model = parse("float[s] x, float[a] p, float[b] q", body, **used)
    numbers = {"n": a, "m": b} | {name: value[0] for name, value in constants.items()}
    real = np.zeros(s)[numbers[start] : numbers[end]].shape

    assert is_right(about(model).shape(named(model, "y")), real, s=s, a=a, b=b)


TARGETS = st.lists(
    st.sampled_from(["zero", "one", "minus", "two", "b", "s", "bs", "t"]), min_size=1, max_size=3
)


@given(
    target=TARGETS,
    b=st.integers(0, 3),
    s=st.integers(0, 3),
    t=st.integers(0, 3),
    literal=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_reshape(target, b, s, t, literal):
    """Wherever ONNX Runtime accepts the target, and the tensor has elements."""
    assume(b * s > 0)
    body = f"""n = Shape<start=0, end=1>(x) m = Shape<start=1, end=2>(x) t = Shape(q)
        bs = Mul(n, m) b = Identity(n) s = Identity(m) target = Concat<axis=0>({", ".join(target)})
        y = Reshape<allowzero={int(literal)}>(x, target)"""
    constants = {"zero": [0], "one": [1], "minus": [-1], "two": [2]}
    used = {name: constants[name] for name in set(target) & set(constants)}
    model = parse("float[b,s,2] x, float[t] q", body, **used)
    shape = about(model).shape(named(model, "y"))
    model.graph.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    real = run(model, np.zeros((b, s, 2), np.float32), np.zeros(t, np.float32))

    if real is not None:
        assert shape is None or is_right(shape, real.shape, b=b, s=s, t=t)


def test_a_size_that_may_be_zero_is_no_size():
    """0 in a target means "copy": sizes of other tensors are not taken at their word."""
    body = "t = Shape(q) z = Concat<axis=0>(t, minus) y = Reshape(x, z)"
    given = {"minus": [-1]}

    assert shape_of("float[6] x, float[t] q", body, **given)[0] != "t"
    assert shape_of("float[6,t] x, float[t] q", body, **given) == ("t", 6)
    assert shape_of("float[t,6] x, float[t] q", body, **given) == ("t", 6)


@given(
    size=st.integers(1, 12),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 2),
    padding=st.sampled_from(
        ["pads=[0,0]", "pads=[1,0]", "pads=[2,1]", 'auto_pad="SAME_UPPER"',
         'auto_pad="SAME_LOWER"', 'auto_pad="VALID"']
    ),
    operator=st.sampled_from(["Conv", "ConvTranspose", "MaxPool", "AveragePool"]),
    rounds_up=st.booleans(),
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_windows(size, kernel, stride, dilation, padding, operator, rounds_up):
    pool = operator.endswith("Pool")
    padded = size + {"pads=[1,0]": 1, "pads=[2,1]": 3}.get(padding, 0)
    assume("SAME" in padding or padded >= (kernel - 1) * dilation + 1)
    assume(not ("SAME" in padding and dilation > 1))  # ONNX Runtime refuses it, or differs
    extra = f", kernel_shape=[{kernel}], ceil_mode={int(rounds_up)}" if pool else ""
    weights = {} if pool else {"w": np.ones((4, 4, kernel), np.float32)}
    operands = "x" if pool else "x, w"
    body = f"y = {operator}<{padding}, strides=[{stride}], dilations=[{dilation}]{extra}>"
    body += f"({operands})"
    for inputs in (f"float[b,4,{size}] x", "float[b,4,s] x"):
        model = parse(inputs, body, version=19, **weights)
        shape = about(model).shape(named(model, "y"))
        real = run(model, np.zeros((2, 4, size), np.float32))

        assert real is None or is_right(shape, real.shape, b=2, s=size)


OLD = [
    ("y = Reshape<shape=[0,-1]>(x)", 1, (2, 12)),
    ("u = Unsqueeze<axes=[0,4]>(x) y = Squeeze<axes=[0]>(u)", 11, (2, 3, 4, 1)),
    ("y = Slice<axes=[1], starts=[1], ends=[100]>(x)", 9, (2, 2, 4)),
    ("y = Slice<starts=[0,-2], ends=[1,3]>(x)", 1, (1, 2, 4)),
    ("y = Pad<pads=[0,1,0,0,0,2]>(x)", 2, (2, 4, 6)),
    ("y = Pad<paddings=[0,1,0,0,0,2]>(x)", 1, (2, 4, 6)),
    ("y = ReduceMean<axes=[-1], keepdims=0>(x)", 11, (2, 3)),
    ("y = ReduceSum<axes=[1]>(x)", 11, (2, 1, 4)),
    ("y, z = Split<axis=2, split=[1,3]>(x)", 11, (2, 3, 1)),
    ("y = Add<broadcast=1, axis=1>(x, w)", 6, (2, 3, 4)),
    ("y = Sum(x, x)", 6, (2, 3, 4)),
    ("y, i = TopK<k=2>(x)", 9, (2, 3, 2)),
    ("y = Flatten(x)", 8, (2, 12)),
    ("y = Softmax(x)", 11, (2, 3, 4)),
    ("y = Upsample<scales=[1.0,2.0,1.5]>(x)", 7, (2, 6, 6)),
    ("s = Constant<value=float[3]{1,2,1.5}>() y = Upsample(x, s)", 9, (2, 6, 6)),
    ("s = Constant<value=float[3]{1,2,3}>() y = Resize(x, s)", 10, (2, 6, 12)),
    ("y = Cast<to=\"INT64\">(x)", 1, None),
    ("y = Clip<min=0.0, max=1.0>(x)", 6, (2, 3, 4)),
]  # fmt: skip


@pytest.mark.parametrize(("body", "version", "expected"), OLD)
def test_old_versions(body, version, expected):
    weights = {"w": np.ones(3, np.float32)} if "w)" in body else {}

    assert shape_of("float[2,3,4] x", body, version=version, **weights) == expected


def test_attributes_that_inputs_replaced_are_not_read_from_inputs_not_known():
    assert shape_of("float[2,3,4] x, int64[1] a", "y = Squeeze(x, a)") is None
    kept = shape_of("float[2,3,4] x, int64[1] a", "y = ReduceSum(x, a)")
    assert all(isinstance(size, str) for size in kept)
    assert shape_of("float[2,3,4] x, int64[1] a", "y = ReduceSum<keepdims=0>(x, a)") is None
    assert shape_of("float[2,a] x", "y = Squeeze(x)") is None
    assert shape_of("float[2,1] x", "y = Squeeze(x)") == (2,)
    empty = {"a": np.zeros(0, np.int64)}
    body = "y = ReduceSum<noop_with_empty_axes=1>(x, a)"
    assert shape_of("float[2,3] x", body, **empty) == (2, 3)
    assert shape_of("float[2,3] x", "y = ReduceSum(x, a)", **empty) == (1, 1)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("y = MatMul(x, w)", ("b", "s", 9)),
        ("y = Transpose<perm=[2,0,1]>(x)", (6, "b", "s")),
        ("y = Einsum<equation=\"bsi,ij->bjs\">(x, w)", ("b", 9, "s")),
        ("y = com.microsoft.FusedMatMul<transA=1>(x, x)", ("broadcast(b)", 6, 6)),
        ("z = Concat<axis=1>(x, x) y = Concat<axis=0>(z, z)", ("2*b", "2*s", 6)),
        ("n = Shape(x) y = Expand(w, n)", None),
        ("n = Shape(x) y = ConstantOfShape(n)", ("b", "s", 6)),
        ("y = LayerNormalization(x, w)", ("b", "s", 6)),
        ("y = own.Magic(x)", None),
        ("y = com.microsoft.MatMulNBits<K=6,N=9,bits=4,block_size=16>(x, x)", ("b", "s", 9)),
    ],
)  # fmt: skip
def test_shapes(body, expected):
    if "FusedMatMul" in body:
        expected = ("b", 6, 6)
    weights = {"w": np.ones((6, 9), np.float32)} if "w)" in body or "w," in body else {}

    assert shape_of("float[b,s,6] x", body, **weights) == expected


@pytest.mark.parametrize(
    ("dtype", "bits", "expected"),
    [(np.uint8, 4, 48), (np.uint8, 2, 96), (np.uint8, 8, 24), (np.int8, 8, 24)],
)
def test_rows_of_a_table_in_blocks(dtype, bits, expected):
    body = f"y = com.microsoft.GatherBlockQuantized<bits={bits}, block_size=16>(t, i, s)"
    weights = {"t": np.ones((7, 24), dtype), "s": np.ones((7, 6), np.float16)}
    model = parse("int64[b,5] i", body, **weights)
    facts = about(model)
    assert facts.dtype(named(model, "y")) == ir.DataType.FLOAT16
    assert shape_of("int64[b,5] i", body, **weights) == ("b", 5, expected)
    other = body.replace("bits", "gather_axis=1, bits")
    assert shape_of("int64[b,5] i", other, **weights) is None


def test_answers_of_onnx_that_take_symbols_for_zero_are_dropped():
    body = "y = Attention<q_num_heads=3, kv_num_heads=3>(q, q, q)"
    model = parse("float[n,t,24] q", body, version=23)
    node = model.graph[0]
    known = Known(ir.DataType.FLOAT, (symbol("n"), symbol("t"), symbol("w")))
    (answer,) = Fallback()(Site(node, 23, [known] * 3, about(model)))

    assert answer.shape is not None
    assert answer.shape[:2] == (symbol("n"), symbol("t"))
    assert not isinstance(answer.shape[2], int)


def test_windows_that_do_not_fit_are_unknown():
    body = "y = MaxPool<kernel_shape=[2], strides=[2]>(x)"
    *lead, last = shape_of("float[b,4,1] x", body)

    assert lead == ["b", 4]
    assert last.startswith("?")
