"""Positions: what is said of counters holds for each element."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from onnxslim_rx.analysis.facts import Facts, evaluate
from onnxslim_rx.rules import Scene
from onnxslim_rx.runtime import Runner
from onnxslim_rx.targets import load_target
from onnxslim_rx_passes._positions import positions

HEAD = """s = Shape(x)  n = Gather(s, zero)  m = Gather(s, one)
    i = Range(zero, n, one)  j = Range(two, m, two)"""
WEIGHTS = {
    "zero": np.int64(0), "one": np.int64(1), "two": np.int64(2), "a0": np.array([0]),
    "a1": np.array([1]), "a02": np.array([0, 2]), "q": np.array([0, 1]),
}  # fmt: skip

KNOWN = {
    "range": "y = Range(two, m, two)",
    "sum of products": "u = Unsqueeze(i, a1)  v = Mul(u, m)  y = Add(v, j)",
    "difference": "u = Unsqueeze(i, a1)  y = Sub(u, j)",
    "transposed": "u = Unsqueeze(i, a1)  v = Sub(u, j)  y = Transpose(v)",
    "expanded": "u = Unsqueeze(i, a1)  y = Expand(u, s)",
    "ones": "u = Unsqueeze(j, a02)  v = Squeeze(u, a0)  y = Mul(v, n)",
    "reshaped": "u = Reshape(i, q)  w = Identity(u)  y = Add(w, two)",
}
UNKNOWN = {
    "squares": "y = Mul(i, i)",
    "rows that may be one": "k = Unsqueeze(m, a0)  y = Expand(i, k)",
    "sums that may broadcast": "k = Range(zero, m, one)  y = Add(i, k)",
    "rows that are taken apart": "p = Concat<axis = 0>(i, i)  y = Reshape(p, h)",
}


def found(build_model, body):
    text = f"g (float[N, M] x) => (int64 y) {{ {HEAD}  {body} }}"
    words = text.replace(",", " ").replace(")", " ").replace("(", " ").split()
    weights = {name: array for name, array in WEIGHTS.items() if name in words}
    if " h " in f" {' '.join(words)} ":
        weights["h"] = np.array([2, -1])
    model = build_model(text, weights)
    scene = Scene(model, Facts(model), load_target("ort-cpu"))
    return model, scene, positions(model.graph.outputs[0], scene)


@pytest.mark.parametrize("case", KNOWN)
def test_elements_follow_from_their_places(build_model, case):
    model, scene, said = found(build_model, KNOWN[case])
    model.graph.outputs[0].shape = None
    array = Runner(model)({"x": np.zeros((3, 7), "f")})["y"]
    values = {"N": 3, "M": 7}

    assert said is not None
    assert len(said.steps) == array.ndim == scene.facts.rank(model.graph.outputs[0])
    steps = [evaluate(step, values) for step in said.steps]
    for place in itertools.product(*map(range, array.shape)):
        wanted = evaluate(said.offset, values) + sum(
            a * b for a, b in zip(steps, place, strict=True)
        )
        assert array[place] == wanted


@pytest.mark.parametrize("case", UNKNOWN)
def test_nothing_is_said_of_others(build_model, case):
    assert found(build_model, UNKNOWN[case])[2] is None
