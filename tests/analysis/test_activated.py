"""What runtimes compute together with the layer before it, and what not."""

from __future__ import annotations

from typing import Any

import pytest

from onnxslim_rx.analysis import activated

CASES = {
    "relu": ("m = MatMul(x, w) y = Relu(m)", "y"),
    "clip": ("m = MatMul(x, w) y = Clip(m, w, w)", "y"),
    "clip with bounds that are read, too": ("m = MatMul(x, w) y = Clip(x, m)", "m"),
    "only the first": ("m = MatMul(x, w) r = Relu(m) y = Clip(r, w, w)", "r"),
    "something else": ("m = MatMul(x, w) y = Tanh(m)", "m"),
    "another domain": ("m = MatMul(x, w) y = own.Relu(m)", "m"),
    "two readers": ("m = MatMul(x, w) r = Relu(m) y = Add(m, r)", "m"),
    "an output of the model": ("y = MatMul(x, w) r = Relu(y)", "y"),
    "nobody": ("m = MatMul(x, w) y = Relu(x)", "m"),
    "in a branch": (
        """m = MatMul(x, w)
           y = If(c)<then_branch = t () => (float[N,4] p) { p = Relu(m) },
                     else_branch = e () => (float[N,4] q) { q = Relu(x) }>""",
        "m",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_leaves_a_layer(build: Any, case: str) -> None:
    body, expected = CASES[case]
    model = build("float[N,4] x, bool c", body, w=(4, 4))
    value = model.graph[0].outputs[0]
    assert activated(value).name == expected
