"""MergeClamps: all pairs, against the two nodes in ONNX Runtime."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onnxslim_rx.manager import PassManager
from onnxslim_rx.runtime import Runner
from onnxslim_rx_passes.merge_clamps import MergeClamps

FORMS = [
    "Relu({x})",
    "Clip({x}, {low}, {high})",
    "Clip({x}, {low})",
    "Clip({x}, , {high})",
    "Min({x}, {low})",
    "Max({x}, {low}, {high})",
]
PAIRS = list(itertools.product(FORMS, FORMS))


@pytest.mark.parametrize(("first", "second"), PAIRS)
@pytest.mark.parametrize("low", [-1.5, 0.5, 4.0])
def test_all_pairs_become_one(rewrite, first, second, low):
    inner = first.format(x="x", low="a", high="b")
    outer = second.format(x="m", low="c", high="d")
    text = f"g (float[N, 50] x) => (float[N, 50] y) {{ m = {inner}  y = {outer} }}"
    weights = {"a": np.float32(-1), "b": np.float32(1), "c": np.float32(low), "d": np.float32(2)}

    done = rewrite(MergeClamps(), text, weights)

    assert len(done.ops) == 1


# the fixture is a function, the same for all examples
FIXTURE = [HealthCheck.function_scoped_fixture]


@settings(max_examples=25, deadline=None, suppress_health_check=FIXTURE)
@given(bounds=st.lists(st.floats(-8, 8, width=32), min_size=8, max_size=8))
def test_long_chains_of_any_bounds(build_model, bounds):
    body, value = "", "x"
    for index in range(4):
        body += f"  v{index} = Clip({value}, b{2 * index}, b{2 * index + 1})"
        value = f"v{index}"
    text = f"g (float[64] x) => (float[64] y) {{ {body}  y = Relu({value}) }}"
    model = build_model(text, {f"b{i}": np.float32(bound) for i, bound in enumerate(bounds)})
    feeds = {"x": np.linspace(-10, 10, 64, dtype="f")}

    after = PassManager([MergeClamps()], verify=None).run(model).model

    assert len(after.graph) == 1
    np.testing.assert_array_equal(Runner(after)(feeds)["y"], Runner(model)(feeds)["y"])


KEPT = {
    "computed bound": ("float[N] x, float c", "float[N] y", "m = Relu(x)  y = Clip(m, c)"),
    "a tensor of bounds": ("float[N] x", "float[N, 3] y", "m = Relu(x)  y = Max(m, t)"),
    "more dimensions": ("float[N] x", "float[1, N] y", "m = Relu(x)  y = Min(m, k)"),
    "read elsewhere": (
        "float[N] x",
        "float[N] y, float[N] z",
        "m = Relu(x)  y = Clip(m, a) z=Neg(m)",
    ),
    "returned": ("float[N] x", "float[N] y, float[N] m", "m = Relu(x)  y = Clip(m, a)"),
    "integers": ("int32[N] x", "int32[N] y", "m = Max(x, i)  y = Min(m, i)"),
}


@pytest.mark.parametrize("case", KEPT)
def test_what_must_not_be_merged(rewrite, case):
    inputs, outputs, body = KEPT[case]
    weights = {"a": np.float32(1), "t": np.ones((2, 3), "f"), "k": np.ones((1, 1), "f")}
    weights["i"] = np.int32(2)
    weights = {name: array for name, array in weights.items() if f" {name})" in body}
    sizes = {"N": 3} if case == "a tensor of bounds" else None

    done = rewrite(MergeClamps(), f"g ({inputs}) => ({outputs}) {{ {body} }}", weights, sizes=sizes)

    assert not done.entry.changed
    assert len(done.reasons) == 1


def test_opsets_whose_clip_has_attributes(rewrite):
    text = "g (float[N] x) => (float[N] y) { m = Relu(x)  y = Clip<max = 6.0>(m) }"

    assert not rewrite(MergeClamps(), text, opset=10).entry.changed
