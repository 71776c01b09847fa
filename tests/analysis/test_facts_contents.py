"""Contents of small tensors of whole numbers."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxslim_rx.analysis.facts import Facts


def parse(inputs, body, **weights):
    proto = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 18]> g ({inputs}) => (y) {{ {body} }}'
    )
    for name, array in weights.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    return ir.from_proto(proto)


def about(model):
    return Facts(model)


def named(model, name):
    return next(v for n in model.graph.all_nodes() for v in n.outputs if v.name == name)


def contents_of(inputs, body, name="y", **options):
    model = parse(inputs, body, **options)
    found = about(model).contents(named(model, name))
    return found if found is None else tuple(d if isinstance(d, int) else str(d) for d in found)


ARITHMETIC = [
    ("y = Shape(x)", ("b", "s", 6)),
    ("y = Shape<start=-2, end=-1>(x)", ("s",)),
    ("y = Size(x)", ("6*b*s",)),
    ("n = Shape(x) two = Constant<value_int=2>() y = Gather(n, two)", (6,)),
    ("n = Shape(x) y = Mul(n, n)", ("b*b", "s*s", 36)),
    ("n = Shape(x) t = Constant<value_ints=[4]>() y = Div(n, t)",
     ("floor((b)/(4))", "floor((s)/(4))", 1)),
    ("n = Shape(x) t = Constant<value_ints=[4]>() y = Mod(n, t)",
     ("b - 4*floor((b)/(4))", "-4*floor((s)/(4)) + s", 2)),
    ("n = Shape(x) y = Neg(n)", ("-b", "-s", -6)),
    ("n = Shape(x) m = Neg(n) y = Abs(m)", None),
    ("n = Shape(x) k = Constant<value_int=9>() m = Sub(n, k) t = Constant<value_int=4>() "
     "y = Div(m, t)", None),  # of negative numbers, ONNX drops the fraction
    ("k = Constant<value_int=16777217>() f = Cast<to=1>(k) y = Cast<to=7>(f)", None),
    ("k = Constant<value_int=16777216>() f = Cast<to=1>(k) y = Cast<to=7>(f)", (16777216,)),
    ("n = Shape(x) y = ReduceProd<keepdims=0>(n)", ("6*b*s",)),
    ("n = Shape(x) y = ReduceSum(n)", ("b + s + 6",)),
    ("n = Shape(x) z = Constant<value_ints=[0,-1,2]>() y = Equal(n, z)", None),
    ("n = Shape(x) z = Constant<value_ints=[-1]>() y = Equal(n, z)", (0, 0, 0)),
    ("n = Shape(x) z = Constant<value_ints=[-1]>() e = Equal(n, z) y = Where(e, z, n)",
     ("b", "s", 6)),
    ("n = Shape(x) y = Cast<to=6>(n)", ("b", "s", 6)),
    ("n = Shape(x) m = Cast<to=6>(n) y = Cast<to=7>(m)", ("b", "s", 6)),
    ("n = Shape(x) m = Cast<to=1>(n) y = Cast<to=7>(m)", None),  # float32 is not exact
    ("n = Shape(x) m = Cast<to=2>(n) y = Cast<to=7>(m)", None),
    ("n = Shape(x) y = Concat<axis=0>(n, n)", ("b", "s", 6, "b", "s", 6)),
    ("n = Shape(x) y, z = Split<num_outputs=2>(n)", ("b", "s")),
    ("n = Shape(x) t = Constant<value_ints=[2]>() y = Tile(n, t)", ("b", "s", 6, "b", "s", 6)),
    ("n = Shape(x) a = Constant<value_ints=[-1]>() b = Constant<value_ints=[-9]>() "
     "c = Constant<value_ints=[0]>() d = Constant<value_ints=[-1]>() y = Slice(n, a, b, c, d)",
     (6, "s", "b")),
    ("n = Shape(x) f = Shape(n) y = ConstantOfShape<value=int64[1]{-1}>(f)", (-1, -1, -1)),
    ("a = Constant<value_int=2>() b = Constant<value_int=9>() c = Constant<value_int=3>() "
     "y = Range(a, b, c)", (2, 5, 8)),
    ("a = Constant<value_int=-7>() b = Constant<value_int=2>() y = Div(a, b)", (-3,)),
    ("a = Constant<value_int=-7>() b = Constant<value_int=2>() y = Mod(a, b)", (1,)),
    ("a = Constant<value=int8[1]{100}>() y = Add(a, a)", None),  # overflows
    ("a = Constant<value_int=300>() y = Cast<to=2>(a)", None),
    ("a = Constant<value_int=7>() b = Constant<value_int=2>() c = Cast<to=1>(a) d = Cast<to=1>(b) "
     "e = Div(c, d) y = Cast<to=7>(e)", None),  # 3.5
    ("a = Constant<value_int=8>() b = Constant<value_int=2>() c = Cast<to=1>(a) d = Cast<to=1>(b) "
     "e = Div(c, d) f = Floor(e) y = Cast<to=7>(f)", (4,)),
]  # fmt: skip


@pytest.mark.parametrize(("body", "expected"), ARITHMETIC)
def test_contents(body, expected):
    assert contents_of("float[b,s,6] x", body) == expected


def test_sizes_that_depend_on_data_are_followed():
    body = """i = NonZero(x) n = Shape(i) one = Constant<value_ints=[1]>() k = Gather(n, one)
        z = ConstantOfShape(k) t = Transpose(i) y = Concat<axis=0>(z, z)"""
    model = parse("float[b,s] x", body)
    facts = about(model)
    rank, count = facts.shape(named(model, "i"))

    assert rank == 2
    assert facts.shape(named(model, "t")) == (count, 2)
    assert facts.shape(named(model, "y")) == (2 * count,)


def test_a_number_that_callers_give_is_a_symbol():
    body = "k = Unsqueeze(n, zero) t = Concat<axis=0>(k, four) z = ConstantOfShape(t) y = Shape(z)"
    found = contents_of("int64 n", body, zero=[0], four=[4])

    assert found[0].startswith("?")
    assert found[1] == 4
