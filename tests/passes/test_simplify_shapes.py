"""SimplifyShapes: sizes are read where they are first known, never a wrong one."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from onnxslim_rx.manager import PassManager
from onnxslim_rx_passes.simplify_shapes import SimplifyShapes

I0, I1 = np.int64(0), np.int64(1)
INDICES = {"i0": I0, "i1": I1, "z": np.array([0]), "v1": np.array([1]), "v2": np.array([2])}

SHORTER = {
    "the whole shape put together again": (
        "g (float[N, M] x) => (int64[2] y)",
        """s = Shape(x)  a = Gather(s, i0)  b = Unsqueeze(a, z)
        c = Gather(s, i1)  d = Unsqueeze(c, z)  t = Concat<axis = 0>(b, d)  y = Neg(t)""",
        ["Shape", "Neg"],
    ),
    "one size": (
        "g (float[N, M] x) => (int64[1] y)",
        "s = Shape(x)  a = Gather(s, i1)  b = Unsqueeze(a, z)  y = Neg(b)",
        ["Shape", "Neg"],
    ),
    "a slice": (
        "g (float[N, M, 4] x) => (int64[2] y)",
        "s = Shape(x)  a = Slice(s, z, v2)  y = Neg(a)",
        ["Shape", "Neg"],
    ),
    "sizes and numbers": (
        "g (float[N, M, 4] x) => (int64[4] y)",
        """s = Shape(x)  a = Gather(s, i0)  b = Unsqueeze(a, z)  c = Gather(s, i1)
        d = Unsqueeze(c, z)  t = Concat<axis = 0>(b, d, v2, v1)  y = Neg(t)""",
        ["Shape", "Concat", "Neg"],
    ),
    "any order": (
        "g (float[N, M] x) => (int64[2] y)",
        """s = Shape(x)  a = Gather(s, i0)  b = Unsqueeze(a, z)
        c = Gather(s, i1)  d = Unsqueeze(c, z)  t = Concat<axis = 0>(d, b)  y = Neg(t)""",
        ["Shape", "Gather", "Neg"],
    ),
    "the shape of what has the shape of an input": (
        "g (float[N, M] x) => (float[N, M] r, int64[2] y)",
        "r = Exp(x)  s = Shape(r)  y = Neg(s)",
        ["Shape", "Exp", "Neg"],
    ),
    "what is computed for its shape alone": (
        "g (float[N, 1] x, float[1] w) => (int64[2] y)",
        "r = Max(x, w)  s = Shape(r)  y = Neg(s)",
        ["Shape", "Neg"],
    ),
    "the same sum twice": (
        "g (float[N, M] x) => (int64[1] y)",
        """s = Shape<start = 0, end = 1>(x)  a = Add(s, v1)  b = Add(v1, s)
        c = Mul(b, v2)  d = Mul(a, v2)  y = Sub(c, d)""",
        ["Shape", "Add", "Mul", "Sub"],
    ),
    "a choice by comparison with -1": (
        "g (float[N, M] x) => (int64[2] y)",
        "s = Shape(x)  e = Equal(s, m)  w = Where(e, o, s)  y = Neg(w)",
        ["Shape", "Neg"],
    ),
}


@pytest.mark.parametrize("case", SHORTER)
def test_fewer_nodes(rewrite, case):
    head, body, ops = SHORTER[case]
    weights = {**INDICES, "m": np.array([-1, -1]), "o": np.array([1, 1])}
    weights = {
        name: array for name, array in weights.items() if f"{name})" in body.replace(",", ")")
    }

    done = rewrite(SimplifyShapes(), f"{head} {{ {body} }}", weights)

    assert done.ops == ops


KEPT = {
    "sizes that differ": "r = Concat<axis = 0>(x, x)  s = Shape(r)  y = Neg(s)",
    "sizes of two inputs": "r = Max(x, w)  s = Shape(r)  y = Neg(s)",
    "a single Shape": "s = Shape(x)  y = Neg(s)",
    "a Gather of a shape that is read whole as well": """s = Shape(x)  g = Gather(s, i0)
    u = Unsqueeze(g, z)  n = Neg(g)  k = Mul(u, n)  y = Mul(s, k)""",
}


@pytest.mark.parametrize("case", KEPT)
def test_what_cannot_be_had_cheaper_stays(rewrite, case):
    body = KEPT[case]
    weights = {"i0": I0, "z": np.array([0])} if "Gather" in body else {}

    shapes = "float[N, 1] x, float[1, M] w" if "Max" in body else "float[N, M] x"
    text = f"g ({shapes}) => (int64[2] y) {{ {body} }}"

    before = rewrite(SimplifyShapes(), text, weights)

    assert len(before.ops) == body.count("=") - body.count("axis")


def test_tensors_are_not_kept_longer_for_their_shapes(rewrite):
    text = """g (float[N, 4] x, float[N, 4] w) => (float[N, 4] y, int64[1] n)
    { q = MatMul(x, k)  s = Shape(q)  a = Relu(q)  b = Exp(a)  y = Mul(b, w)
      g = Gather(s, i0)  u = Unsqueeze(g, z)  n = Neg(u) }"""

    done = rewrite(
        SimplifyShapes(), text, {"k": np.eye(4, dtype="f"), "i0": I0, "z": np.array([0])}
    )

    shape = next(node for node in done.after.graph if node.op_type == "Shape")
    assert shape.inputs[0].name == "x"
    assert shape.attributes.get_int("end") == 1


def test_a_shape_moves_to_where_it_is_taken_first(rewrite):
    text = """g (float[N, 4] x) => (float[L, 4] y, int64[2] n, int64[1] m)
    { q = Compress<axis = 0>(x, c)  s = Shape(q)  n = Neg(s)  a = Relu(q)  y = Exp(a)
      t = Shape(y)  g = Gather(t, i0)  u = Unsqueeze(g, z)  m = Neg(u) }"""
    weights = {"c": np.array([True]), "i0": I0, "z": np.array([0])}

    done = rewrite(SimplifyShapes(), text, weights)

    shapes = [node for node in done.after.graph if node.op_type == "Shape"]
    assert {node.inputs[0].name for node in shapes} == {"q"}
    assert done.ops.index("Shape") == 1


def test_older_opsets_gather(rewrite):
    text = """g (float[N, M, 4] x) => (int64[2] y)
    { s = Shape(x)  a = Gather(s, i0)  b = Unsqueeze<axes = [0]>(a)
      c = Gather(s, i1)  d = Unsqueeze<axes = [0]>(c)  t = Concat<axis = 0>(b, d)  y = Neg(t) }"""

    done = rewrite(SimplifyShapes(), text, {"i0": I0, "i1": I1}, opset=12)

    assert done.ops == ["Shape", "Gather", "Neg"]


def test_32_bit_integers_are_not_mixed_up_with_shapes(rewrite):
    text = """g (float[N, M] x) => (int32[2] y, int64[2] k)
    { s = Shape(x)  c = Cast<to = 6>(s)  y = Neg(c)  k = Neg(s) }"""

    assert not rewrite(SimplifyShapes(), text).entry.changed


def test_a_branch_reads_what_was_computed_around_it(rewrite):
    text = """g (float16[N, M] x, bool c) => (int64[2] y, int64[2] k) {
      s = Shape(x)  k = Neg(s)
      y = If (c) <
        then_branch = t () => (int64[2] p) { e = Exp(x)  q = Shape(e)  r = Abs(q)  p = Neg(r) },
        else_branch = f () => (int64[2] r) { u = Shape(x)  r = Add(u, u) }
      > }"""

    done = rewrite(SimplifyShapes(), text)

    assert sorted(done.ops) == ["Add", "If", "Neg", "Neg", "Shape"]


def test_what_the_graph_returns_keeps_its_name(rewrite):
    text = """g (float[N, M] x) => (int64[2] k, int64[2] y)
    { k = Shape(x)  e = Exp(x)  y = Shape(e) }"""

    done = rewrite(SimplifyShapes(), text)

    assert [value.name for value in done.after.graph.outputs] == ["k", "y"]


def test_the_shape_of_an_overridable_initializer_is_no_source(build_model):
    model = build_model("g (float[N, M] x) => (int64[2] y) { s = Shape(x)  y = Neg(s) }")
    weight = ir.Value(
        name="w",
        shape=ir.Shape(["N", "M"]),
        type=ir.TensorType(ir.DataType.FLOAT),
        const_value=ir.tensor(np.zeros((2, 3), "f")),
    )
    model.graph.inputs.insert(0, weight)
    model.graph.initializers["w"] = weight
    done = PassManager([SimplifyShapes()], verify=None).run(model)

    (read,) = done.model.graph[0].inputs
    assert read is not None
    assert read.name == "x"


@pytest.mark.parametrize("opset", [12, 13, 17])
@pytest.mark.parametrize("seed", range(5))
def test_any_choice_of_sizes_stays_what_it_was(rewrite, seed, opset):
    chosen = np.random.default_rng(seed)
    lines, pieces = ["s = Shape(x)", "t = Shape(w)"], []
    for index in range(chosen.integers(2, 6)):
        source, place = chosen.choice(["s", "t"]), chosen.integers(3)
        if chosen.random() < 0.3:
            lines.append(f"p{index} = Constant<value = int64[1] {{{place}}}>()")
        else:
            lines.append(f"i{index} = Constant<value = int64 {{{place}}}>()")
            lines.append(f"g{index} = Gather({source}, i{index})")
            axes = "<axes = [0]>" if opset < 13 else ""
            lines.append(f"p{index} = Unsqueeze{axes}(g{index}{'' if axes else ', z'})")
        pieces.append(f"p{index}")
    lines.append(f"c = Concat<axis = 0>({', '.join(pieces)})  y = Neg(c)")
    text = "g (float[N, M, 4] x, float[M, 2, N] w) => (int64[L] y) {" + "  ".join(lines) + "}"
    weights = {} if opset < 13 or "Unsqueeze" not in text else {"z": np.array([0])}

    done = rewrite(SimplifyShapes(), text, weights, opset=opset)

    before = sum(node.op_type != "Constant" for node in done.before.graph)
    assert sum(op != "Constant" for op in done.ops) <= before


def test_one_tensor_among_many_is_found(rewrite):
    lines, last = [], "x"
    for index in range(40):
        lines.append(f"s{index} = Shape({last})  g{index} = Gather(s{index}, v2)")
        lines.append(f"a{index} = Concat<axis = 2>({last}, x)")
        last = f"a{index}"
    lines.append(f"s = Shape({last})  b = Gather(s, z)  l = Gather(s, v2)")
    lines.append("t = Concat<axis = 0>(b, l)  y = Neg(t)")
    lines.append(f"o = Concat<axis = 0>({', '.join(f'g{index}' for index in range(40))})")
    text = "g (float[N, 4, M] x) => (int64[2] y, int64[40] o) {" + "  ".join(lines) + "}"

    done = rewrite(SimplifyShapes(), text, {"z": INDICES["z"], "v2": INDICES["v2"]})

    assert len(done.ops) < len(done.before.graph)
    assert done.ops.count("Concat") == 41


def test_what_is_gone_is_not_read(rewrite):
    text = """g (float[N, M] x) => (int64[2] y, int64[2] w)
    { s = Shape(x)  g = Gather(s, i0)  a = Unsqueeze(g, z)
      k = Concat<axis = 0>(s, v2)  p = Gather(k, q)  y = Neg(p)
      h = Gather(s, i1)  b = Unsqueeze(h, z)  c = Concat<axis = 0>(a, b)  w = Neg(c) }"""
    weights = {**INDICES, "q": np.array([0, 2])}
    del weights["v1"]

    done = rewrite(SimplifyShapes(), text, weights)

    assert "Unsqueeze" not in done.ops


def test_what_comes_later_is_not_read(rewrite):
    text = """g (float[N, 4, M] x) => (int64[1] y, int64[1] w)
    { s = Shape(x)  g = Gather(s, v2)  d = Add(g, g)  y = Neg(d)
      c = Concat<axis = 2>(x, x)  t = Shape(c)  w = Gather(t, v2) }"""

    done = rewrite(SimplifyShapes(), text, {"v2": INDICES["v2"]})

    assert "Add" in done.ops
