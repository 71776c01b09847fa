"""NarrowConditions: only what is true everywhere goes, and no result changes its shape."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_rx.manager import PassManager
from onnxslim_rx_passes.narrow_conditions import NarrowConditions

WEIGHTS = {
    "zero": np.int64(0),
    "one": np.int64(1),
    "minus": np.int64(-1),
    "a0": np.array([0]),
    "a1": np.array([1]),
    "low": np.float16(-100),
    "null": np.float16(0),
    "yes": np.ones((4, 1), bool),
    "no": np.zeros((4, 1), bool),
}
COUNT = "s = Shape<start = 0, end = 1>(x)  q = Squeeze(s, a0)  r = Range(zero, q, one)"
USE = "w = Where(c, null, low)  y = Add(x, w)"


def run(rewrite, body, *, result="float16[A, B]", head="float16[N, M] x, bool[M] m", **options):
    words = body.replace(",", " ").replace(")", " ").replace("(", " ").split()
    weights = {name: array for name, array in WEIGHTS.items() if name in words}
    text = f"g ({head}) => ({result} y) {{ {body} }}"
    return rewrite(NarrowConditions(), text, weights, **options)


NARROWER = {
    "a counter is not negative": "t = GreaterOrEqual(u, zero)",
    "a counter is above -1": "t = Greater(u, minus)",
    "-1 is below a counter": "t = Less(minus, u)",
}


@pytest.mark.parametrize("test", NARROWER)
@pytest.mark.parametrize("order", ["And(t, m)", "And(m, t)"])
def test_a_comparison_that_always_holds(rewrite, test, order):
    done = run(rewrite, f"{COUNT}  u = Unsqueeze(r, a1)  {NARROWER[test]}  c = {order}  {USE}")

    assert "And" not in done.ops
    where = next(node for node in done.after.graph if node.op_type == "Where")
    assert where.inputs[0].name == "m"


@pytest.mark.parametrize("body", ["c = And(yes, m)", "c = Or(m, no)"])
def test_constants(rewrite, body):
    head = "float16[4, M] x, bool[M] m"

    assert run(rewrite, f"{body}  {USE}", head=head).ops == ["Where", "Add"]


def test_a_condition_that_is_read_at_once(rewrite):
    body = (
        f"{COUNT}  u = Unsqueeze(r, a1)  t = GreaterOrEqual(u, zero)  c = And(t, m)  y = And(c, k)"
    )

    done = run(rewrite, body, head="float16[N, M] x, bool[M] m, bool[N, M] k", result="bool[A, B]")

    assert done.ops.count("And") == 1


KEPT = {
    "it may be false": (f"{COUNT}  u = Unsqueeze(r, a1)  t = GreaterOrEqual(u, one)", USE),
    "its first element is not": (f"{COUNT}  u = Unsqueeze(r, a1)  t = Greater(u, zero)", USE),
    "it is false": (f"{COUNT}  u = Unsqueeze(r, a1)  t = Less(u, zero)", USE),
    "its shape is returned": (
        f"{COUNT}  u = Unsqueeze(r, a1)  t = GreaterOrEqual(u, zero)",
        "y = Where(c, null, low)",
    ),
    "something else reads it": (
        f"{COUNT}  u = Unsqueeze(r, a1)  t = GreaterOrEqual(u, zero)",
        "w = Where(c, null, low)  y = Softmax(w)",
    ),
    "two read it": (
        f"{COUNT}  u = Unsqueeze(r, a1)  t = GreaterOrEqual(u, zero)",
        "w = Where(c, null, low)  n = Not(c)  v = Where(n, x, low)  a = Add(x, w)  y = Add(a, v)",
    ),
}


@pytest.mark.parametrize("case", KEPT)
def test_what_is_needed_stays(rewrite, case):
    test, use = KEPT[case]

    assert not run(rewrite, f"{test}  c = And(t, m)  {use}").entry.changed


def test_or_with_true_is_not_or_with_false(rewrite):
    head = "float16[4, M] x, bool[M] m"
    assert not run(rewrite, f"c = Or(m, yes)  {USE}", head=head).entry.changed


def test_the_shape_that_the_file_states_is_not_kept(build_model):
    text = """g (float[4, M] x, bool[M] m) => (float[4, M] y) <float[4, M] w, float[4, M] v>
    { c = And(yes, m)  w = Where(c, k, k)  v = Neg(w)  y = Add(v, x) }"""
    model = build_model(text, {"yes": WEIGHTS["yes"], "k": np.float32(1)})
    done = PassManager([NarrowConditions()], verify=None).run(model)

    assert [node.op_type for node in done.model.graph] == ["Where", "Neg", "Add"]
    assert done.model.graph[1].outputs[0].shape is None


def test_a_condition_that_is_returned_stays(rewrite):
    text = f"""g (float16[4, M] x, bool[M] m) => (float16[A, B] y, bool[A, B] c)
    {{ c = And(yes, m)  {USE} }}"""
    weights = {name: WEIGHTS[name] for name in ("yes", "null", "low")}

    assert not rewrite(NarrowConditions(), text, weights).entry.changed
