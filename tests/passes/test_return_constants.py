"""ReturnConstants: bodies of loops return constants as they are."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_rx.ir import nodes
from onnxslim_rx.manager import PassManager
from onnxslim_rx_passes.return_constants import ReturnConstants

LOOP = """g (float16[2] x, int64 k) => (float16[2] y) {{
    n = Abs(k)
    y = Loop (n, t, x) <body = b (int64 i, bool c, float16[2] s) => (bool d, float16[2] r) {{
      {body} }}> }}"""
WEIGHTS = {"t": np.array(True)}


@pytest.mark.parametrize("form", ["initializer", "node"])
def test_a_condition_that_always_holds(rewrite, form):
    body = "r = Add(s, s)  d = Identity(t)"
    if form == "node":
        body = "r = Add(s, s)  w = Constant<value = bool {1}>()  d = Identity(w)"

    done = rewrite(ReturnConstants(), LOOP.format(body=body), WEIGHTS)

    assert done.ops == ["Abs", "Loop", "Add"]
    returned = done.after.graph[-1].attributes["body"].as_graph().outputs[0]
    assert returned.is_initializer()


KEPT = {
    "computed": "r = Add(s, s)  d = Not(c)",
    "what the body was given": "r = Add(s, s)  d = Identity(c)",
    "read as well": "d = Identity(t)  v = Cast<to = 10>(d)  r = Add(s, v)",
}


@pytest.mark.parametrize("case", KEPT)
def test_others_stay(rewrite, case):
    assert not rewrite(ReturnConstants(), LOOP.format(body=KEPT[case]), WEIGHTS).entry.changed


def test_large_constants_and_old_formats_stay(rewrite):
    text = """g (float[2000] x, int64 k) => (float[2000] y) {
      n = Abs(k)
      y = Loop (n, t, x) <body = b (int64 i, bool c, float[2000] s) => (bool d, float[2000] r) {
        d = Identity(c)  r = Identity(w) }> }"""
    weights = {**WEIGHTS, "w": np.ones(2000, "f")}
    assert len(rewrite(ReturnConstants(), text, weights).reasons) == 1

    small = LOOP.format(body="r = Add(s, s)  d = Identity(w)").replace("n, t", "n, t")
    body = small.replace("d = Id", "w = Constant<value = bool {1}>()  d = Id").replace(
        "t, x", ", x"
    )
    assert not rewrite(ReturnConstants(), body, opset=9, ir_version=3, runs=False).entry.changed


def test_the_clean_stage_keeps_it(build_model):
    text = LOOP.format(body="r = Add(s, s)  d = Identity(t)")
    others = ["deduplicate-initializers", "lift-constants", "eliminate-noop", "eliminate-dead-code"]
    model = build_model(text, {**WEIGHTS, "u": np.array(True)})

    done = PassManager([ReturnConstants(), *others], verify="each").run(model)

    assert "Identity" not in [node.op_type for node in nodes(done.model)]
