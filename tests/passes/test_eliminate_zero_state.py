"""EliminateZeroState: initial states that are zero by default."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_rx_passes.eliminate_zero_state import EliminateZeroState

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
SHAPED = "s = Shape(x)  b = Slice(s, o, t)  n = Concat<axis=0>(o, b, h)  "


@pytest.fixture
def weights(rng):
    def make(op):
        found = {
            "w": rng.standard_normal((1, GATES[op] * 3, 2)).astype("f"),
            "r": rng.standard_normal((1, GATES[op] * 3, 3)).astype("f"),
        }
        return found | {"o": np.array([1]), "t": np.array([2]), "h": np.array([3])}

    return make


@pytest.mark.parametrize("op", GATES)
@pytest.mark.parametrize("zeros", ["ConstantOfShape(n)", "Expand(k, n)"])
def test_zeros_of_a_computed_shape_go(rewrite, weights, op, zeros):
    states = "z, z" if op == "LSTM" else "z"
    text = f"""g (float[4, N, 2] x) => (float[4, 1, N, 3] y) {{
    {SHAPED} z = {zeros}  y = {op}<hidden_size=3>(x, w, r, , , {states}) }}"""
    constants = weights(op) | ({"k": np.zeros(1, "f")} if "k" in zeros else {})

    done = rewrite(EliminateZeroState(), text, constants, tolerance=1e-6)

    (node,) = (node for node in done.after.graph if node.op_type == op)
    assert [value.name for value in node.inputs] == ["x", "w", "r"]
    assert [value.name for value in node.outputs] == ["y"]


def test_one_of_two_states_and_outputs_that_are_left_out(rewrite, weights):
    text = """g (float[4, 2, 2] x, float[1, 2, 3] i) => (float[1, 2, 3] c) {
    z = Identity(q)  , , c = LSTM<hidden_size=3>(x, w, r, , , q, i) }"""
    constants = weights("LSTM") | {"q": np.zeros((1, 2, 3), "f")}
    constants = {name: constants[name] for name in "wrq"}

    done = rewrite(EliminateZeroState(), text, constants, tolerance=1e-6)

    node = done.after.graph[-1]
    assert [value and value.name for value in node.inputs] == ["x", "w", "r", None, None, None, "i"]
    assert [value.name for value in node.outputs][-1] == "c"


@pytest.mark.parametrize("state", [1.0, np.nan])
def test_other_states_stay(rewrite, weights, state):
    text = """g (float[4, 2, 2] x) => (float[4, 1, 2, 3] y)
    { y = GRU<hidden_size=3>(x, w, r, , , q) }"""
    constants = weights("GRU") | {"q": np.full((1, 2, 3), state, "f")}
    constants = {name: constants[name] for name in "wrq"}

    assert not rewrite(EliminateZeroState(), text, constants, tolerance=1e-6).entry.changed


def test_half_precision_inside_a_branch(rewrite, weights):
    text = """g (float16[4, 2, 2] x, bool c) => (float16[P, 1, 2, 3] y) {
    y = If (c) <
        then_branch = t () => (float16[P, 1, 2, 3] u)
            { u = RNN<hidden_size=3>(x, w, r, , , q) },
        else_branch = e () => (float16[P, 1, 2, 3] v) { v = Unsqueeze(q, o) }
    > }"""
    constants = weights("RNN") | {"q": np.zeros((1, 2, 3), "f")}
    constants = {n: constants[n].astype("e") if n != "o" else constants[n] for n in "wrqo"}

    done = rewrite(EliminateZeroState(), text, constants, runs=False)  # no kernel in ONNX Runtime

    node = next(node for node in done.after.graph.all_nodes() if node.op_type == "RNN")
    assert len(node.inputs) == 3
