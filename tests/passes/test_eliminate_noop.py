"""EliminateNoop: what does nothing goes, what looks like it and does something stays."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_rx_passes._patterns import is_read
from onnxslim_rx_passes.eliminate_noop import EliminateNoop

I64 = np.int64
GONE = {
    "identity": ("a = Identity(x)", {}),
    "cast to the same type": ("a = Cast<to=1>(x)", {}),
    "castlike": ("a = CastLike(x, x)", {}),
    "transpose": ("a = Transpose<perm=[0, 1, 2]>(x)", {}),
    "reshape to the same": ("a = Reshape(x, s)", {"s": np.array([0, 0, 4])}),
    "reshape with one open size": ("a = Reshape(x, s)", {"s": np.array([-1, 3, 4])}),
    "expand": ("a = Expand(x, s)", {"s": np.array([1, 3, 1])}),
    "tile": ("a = Tile(x, s)", {"s": np.array([1, 1, 1])}),
    "dropout": ("a, m = Dropout(x)", {}),
    "dropout told not to train": ("a = Dropout(x, r, t)", {"r": np.float32(0.5), "t": np.False_}),
    "add zero": ("a = Add(c, x)", {"c": np.zeros((1, 1), "f")}),
    "add zeros of the same shape": ("a = Add(x, c)", {"c": np.zeros((3, 4), "f")}),
    "sub zero": ("a = Sub(x, c)", {"c": np.float32(0)}),
    "mul one": ("a = Mul(x, c)", {"c": np.ones(1, "f")}),
    "div one": ("a = Div(x, c)", {"c": np.float32(1)}),
    "pow one": ("a = Pow(x, c)", {"c": I64(1)}),
    "concat of one": ("a = Concat<axis=1>(x)", {}),
    "split into one": ("a = Split<axis=1>(x)", {}),
    "sum of one": ("a = Sum(x)", {}),
    "pad by nothing": ("a = Pad(x, p)", {"p": np.zeros(6, I64)}),
    "where of one": ("a = Where(c, x, z)", {"c": np.True_, "z": np.float32(2)}),
    "where of the other": (
        "a = Where(c, z, x)",
        {"c": np.zeros((1, 4), bool), "z": np.float32(2)},
    ),
    "where of the same": ("a = Where(c, x, x)", {"c": np.array([True, False, True, True])}),
    "add a where of zeros": (
        "f = Where(c, z, i)  a = Add(x, f)",
        {"c": np.ones((1, 4), bool), "z": np.float32(0), "i": np.float32(-np.inf)},
    ),
    "mul by expanded ones": (
        "e = Shape(x)  f = Expand(o, e)  a = Mul(f, x)",
        {"o": np.ones(1, "f")},
    ),
    "sub computed zeros": ("e = Shape(x)  f = ConstantOfShape(e)  a = Sub(x, f)", {}),
    "max of the same": ("a = Max(x, x)", {}),
    "gather of all": ("a = Gather<axis=-1>(x, i)", {"i": np.arange(4)}),
    "expand to its own shape": ("s = Shape(x)  a = Expand(x, s)", {}),
    "slice to a computed end": (
        "s = Shape<end=1>(x)  a = Slice(x, z, s, z)",
        {"z": np.array([0])},
    ),
    "slice to the end": (
        "a = Slice(x, s, e, ax)",
        {"s": np.array([0]), "e": np.array([2**62]), "ax": np.array([0])},
    ),
    "slice of a known size": (
        "a = Slice(x, s, e, ax, st)",
        {"s": np.array([0]), "e": np.array([4]), "ax": np.array([-1]), "st": np.array([1])},
    ),
}
STAYS = {
    "cast to another type": ("b = Cast<to=10>(x)\na = Cast<to=1>(b)", {}),
    "transpose that moves": ("b = Transpose<perm=[0, 2, 1]>(x)\na = Relu(b)", {}),
    "transpose without perm": ("a = Transpose(x)", {}),
    "reshape that moves": ("b = Reshape(x, s)\na = Relu(b)", {"s": np.array([0, 4, 3])}),
    "reshape with two open sizes": ("a = Reshape(x, s)", {"s": np.array([3, -1, 4])}),
    "expand that grows": ("a = Expand(x, s)", {"s": np.array([5, 1, 1, 1])}),
    "tile twice": ("a = Tile(x, s)", {"s": np.array([1, 1, 2])}),
    "add zeros that broadcast": ("a = Add(x, c)", {"c": np.zeros((1, 1, 1, 1), "f")}),
    "add zeros that may broadcast": ("a = Add(x, c)", {"c": np.zeros((2, 3, 4), "f")}),
    "add one": ("a = Add(x, c)", {"c": np.ones(1, "f")}),
    "zero minus": ("a = Sub(c, x)", {"c": np.float32(0)}),
    "one over": ("a = Div(c, x)", {"c": np.float32(1)}),
    "where of both": (
        "a = Where(c, x, z)",
        {"c": np.array([True, False, True, True]), "z": np.float32(2)},
    ),
    "where that broadcasts": ("a = Where(c, x, z)", {"c": np.True_, "z": np.ones((1,) * 4, "f")}),
    "add a where of zeros and others": (
        "f = Where(c, z, i)  a = Add(x, f)",
        {"c": np.array([True, False, True, True]), "z": np.float32(0), "i": np.float32(-3)},
    ),
    "add zeros that lengthen": (
        "f = Expand(o, e)  a = Add(x, f)",
        {"o": np.zeros(1, "f"), "e": np.array([2, 1, 1])},
    ),
    "sum of the same": ("a = Sum(x, x)", {}),
    "gather in another order": ("a = Gather<axis=2>(x, i)", {"i": np.array([0, 2, 1, 3])}),
    "gather of some": ("a = Gather<axis=2>(x, i)", {"i": np.arange(3)}),
    "expand to a longer shape": (
        "t = Exp(k)  s = Shape(t)  a = Expand(x, s)",
        {"k": np.ones((2, 1, 1, 4), "f")},
    ),
    "slice to another size": (
        "s = Shape<start=1, end=2>(x)  a = Slice(x, z, s, z)",
        {"z": np.array([0])},
    ),
    "pad by one": ("a = Pad(x, p)", {"p": np.array([0, 0, 0, 0, 0, 1])}),
    "slice backwards": (
        "a = Slice(x, s, e, ax, st)",
        {"s": np.array([3]), "e": np.array([-9]), "ax": np.array([2]), "st": np.array([-1])},
    ),
    "slice of an open size": (
        "a = Slice(x, s, e, ax)",
        {"s": np.array([0]), "e": np.array([9]), "ax": np.array([0])},
    ),
    "slice from one": (
        "a = Slice(x, s, e, ax)",
        {"s": np.array([1]), "e": np.array([2**62]), "ax": np.array([1])},
    ),
}
RANK = {
    "expand that grows": 4,
    "add zeros that broadcast": 4,
    "where that broadcasts": 4,
    "expand to a longer shape": 4,
}


def graph(body, rank=3):
    """A model `y = Neg(a)` with float a of `x`, which has an open size."""
    dims = ", ".join("PQRS"[:rank])
    return f"g (float[N, 3, 4] x) => (float[{dims}] y) {{\n{body}\ny = Neg(a)\n}}"


@pytest.mark.parametrize("case", GONE)
def test_what_does_nothing_goes(rewrite, case):
    body, weights = GONE[case]

    done = rewrite(EliminateNoop(), graph(body), weights)

    live = [node for node in done.after.graph if any(map(is_read, node.outputs))]
    assert [node.op_type for node in live if node.op_type != "Shape"] == ["Neg"]
    assert done.entry.rewritten == 1
    assert len(live) < len(list(done.after.graph)) or not done.after.graph.initializers


@pytest.mark.parametrize("case", STAYS)
def test_what_does_something_stays(rewrite, case):
    body, weights = STAYS[case]
    broadcasts = case in ("add zeros that may broadcast", "add zeros that lengthen")
    sizes = {"N": 2} if broadcasts else None

    done = rewrite(EliminateNoop(), graph(body, RANK.get(case, 3)), weights, sizes=sizes)

    assert not done.entry.changed


LOGIC = {
    "and true": ("a = And(x, c)", np.True_, True),
    "or false": ("a = Or(c, x)", np.False_, True),
    "xor false": ("a = Xor(x, c)", np.zeros((1, 1), bool), True),
    "and with itself": ("a = And(x, x)", None, True),
    "and false": ("a = And(x, c)", np.False_, False),
    "or true": ("a = Or(x, c)", np.True_, False),
    "xor with itself": ("a = Xor(x, x)", None, False),
}


@pytest.mark.parametrize("case", LOGIC)
def test_truth_values(rewrite, case):
    body, constant, goes = LOGIC[case]
    text = f"g (bool[N, 3] x) => (bool[N, 3] y) {{ {body}  y = Not(a) }}"

    done = rewrite(EliminateNoop(), text, {} if constant is None else {"c": constant})

    assert (done.ops == ["Not"]) == goes


REDUCED = {
    "over one": ("ReduceMax<axes=[1]>(x)", "N, 1, 4", True),
    "over nothing": ("ReduceSum<noop_with_empty_axes=1>(x)", "N, 1, 4", True),
    "axes dropped": ("ReduceMax<axes=[1], keepdims=0>(x)", "N, 4", False),
    "over more": ("ReduceMin<axes=[1, 2]>(x)", "N, 1, 1", False),
    "over all": ("ReduceSum(x)", "1, 1, 1", False),
    "of squares": ("ReduceSumSquare<axes=[1]>(x)", "N, 1, 4", False),
}


@pytest.mark.parametrize("case", REDUCED)
def test_reductions(rewrite, case):
    node, shape, goes = REDUCED[case]
    text = f"g (float16[N, 1, 4] x) => (float16[{shape}] y) {{ a = {node}  y = Neg(a) }}"

    assert (rewrite(EliminateNoop(), text, tolerance=4e-3).ops == ["Neg"]) == goes


SCATTERED = {
    "rows": ([[0], [1], [2]], "", True),
    "elements": (np.moveaxis(np.indices((3, 2)), 0, -1), "", True),
    "another order": ([[1], [0], [2]], "", False),
    "some rows": ([[0], [1]], "", False),
    "the same twice": ([[0], [1], [1]], "", False),
    "added": ([[0], [1], [2]], '<reduction="add">', False),
}


@pytest.mark.parametrize("case", SCATTERED)
def test_scatter_onto_everything(rewrite, case):
    indices, attributes, goes = SCATTERED[case]
    weights = {"d": np.ones((3, 2), "f"), "i": np.asarray(indices, np.int64)}
    weights["e"] = np.ones((2, 2), "f")
    updates = "e" if case == "some rows" else "x"
    node = f"ScatterND{attributes}(d, i, {updates})"
    text = f"g (float[3, 2] x) => (float[3, 2] y) {{ a = {node}  y = Neg(a) }}"

    weights = {name: w for name, w in weights.items() if name != "e" or updates == "e"}
    assert (rewrite(EliminateNoop(), text, weights).ops == ["Neg"]) == goes


def test_training_dropout_and_used_masks_stay(rewrite):
    text = "g (float[N] x, bool t) => (float[N] y, bool[N] m) { y, m = Dropout(x, , t) }"

    assert not rewrite(EliminateNoop(), text, runs=False).entry.changed


def test_a_stale_shape_in_the_file_proves_nothing(rewrite):
    text = """g (float[N, 4] x, int64[2] s) => (float[P, Q] y)
    <float[2, 4] a> { a = Reshape(x, s)  y = Neg(a) }"""

    done = rewrite(EliminateNoop(), text, runs=False)

    assert done.ops == ["Reshape", "Neg"]


def test_two_sizes_without_a_name_are_not_the_same_size(rewrite):
    text = "g (float[?, ?] x, int64[2] s) => (float[?, ?] y) { a = Expand(x, s)  y = Neg(a) }"

    assert not rewrite(EliminateNoop(), text, runs=False).entry.changed


def test_outputs_keep_their_names_and_what_cannot_be_renamed_stays(rewrite):
    text = """g (float[N] x) => (float[N] direct, float[N] a, float[N] twice, float[N] y) {
    direct = Identity(x)  a = Relu(x)  twice = Identity(a)  b = Neg(x)  y = Identity(b) }"""

    done = rewrite(EliminateNoop(), text)

    assert done.ops == ["Identity", "Relu", "Identity", "Neg"]
    assert [value.name for value in done.after.graph.outputs] == ["direct", "a", "twice", "y"]
    assert len(done.reasons) == 2


def test_overridable_initializers_are_no_constants(rewrite):
    text = "g (float[N] x, float c) => (float[N] y) { a = Add(x, c)  y = Neg(a) }"

    assert not rewrite(EliminateNoop(), text, {"c": np.float32(0)}).entry.changed


def test_branches_and_functions_are_rewritten_too(rewrite):
    text = """g (float[N] x, bool c) => (float[N] y) {
    r = local.f(x)
    y = If (c) <
        then_branch = t () => (float[N] a) { i = Identity(r)  a = Neg(i) },
        else_branch = e () => (float[N] b) { b = Identity(r) }
    > }"""
    function = '<domain: "local", opset_import: ["": 17]> f (u) => (w) {v = Identity(u) w = Abs(v)}'

    done = rewrite(EliminateNoop(), text, functions=function)

    assert sorted(done.ops) == ["Abs", "Identity", "If", "Neg", "f"]
    assert done.reasons == ["the graph returns it under a name of its own"]


def test_dimensions_of_inputs_and_outputs_are_left_alone(rewrite):
    text = """g (float[N, 3] x) => (float[2, 3] y) { a = Identity(x)  b = Neg(a)
    y = Identity(b) }"""

    done = rewrite(EliminateNoop(), text, runs=False)

    assert str(done.after.graph.inputs[0].shape) == "[N,3]"
    assert str(done.after.graph.outputs[0].shape) == "[2,3]"
