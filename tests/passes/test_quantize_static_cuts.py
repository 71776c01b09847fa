"""Static integers: ranges of what enters and leaves a layer, and those beside them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxslim_rx.calibration import collect
from onnxslim_rx.errors import InputError
from onnxslim_rx.ir import constant
from onnxslim_rx.passbase import Layer, Stage
from onnxslim_rx.planner import apply_plan
from onnxslim_rx.plans import LayerPlan
from onnxslim_rx.targets import load_target
from onnxslim_rx_passes._qdq_grids import range_method
from onnxslim_rx_passes.quantize_static import QuantizeStatic
from tests.passes.conftest import build
from tests.passes.statics import draws

TEXT = """g (float[B,6,8,8] x) => (float[B,5] y) {
    a = Conv(x, u)
    b = Relu(a)
    c = Conv(b, v)
    g = GlobalAveragePool(c)
    f = Flatten(g)
    y = Gemm(f, w)
}"""


def network(rng: np.random.Generator) -> Any:
    shapes = {"u": (12, 6, 3, 3), "v": (8, 12, 1, 1), "w": (8, 5)}
    return build(TEXT, {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()})


def layers(model: Any) -> list[Layer]:
    return [one for one in QuantizeStatic().layers(model) if isinstance(one, Layer)]


def stage(method: str, **more: Any) -> Stage:
    options: dict[str, Any] = {"activations": "u8", "method": method, "bits": 8}
    return Stage("quantize-static", {**options, **more})


def named(found: Any) -> list[tuple[Any, Any]]:
    return [(one.options["method"], one.options.get("entering")) for one in found]


def test_variants_of_convolutions_alone(rng) -> None:
    first, second, last = layers(network(rng))
    one, start = QuantizeStatic(), stage("percentile-99.9")
    beside = ["percentile-99.7", "percentile-99.966667", "percentile-99.85", "percentile-99.933333"]
    alone = [(method, "percentile-99.9") for method in beside]
    entering = [("percentile-99.9", method) for method in beside]
    assert named(one.variants(first, start)) == alone + entering
    # another Conv settles what enters, through the Relu
    assert named(one.variants(second, start)) == [(method, None) for method in beside]
    assert not one.variants(last, start)


def test_no_variants_of_what_the_user_chose(rng) -> None:
    first = layers(network(rng))[0]
    for one in (QuantizeStatic(method="mse"), QuantizeStatic(entering="mse")):
        assert not one.variants(first, stage("mse"))


def _cut(one: Stage, key: str) -> float:
    return 100 - range_method(str(one.options.get(key, one.options["method"])))[1]


def test_steps_are_undone_by_their_opposites_and_end(rng) -> None:
    first = layers(network(rng))[0]
    one = QuantizeStatic()
    for place in range(8):
        start = now = stage("percentile-99.9", entering="percentile-99.6")
        seen = []
        while (then := one.variants(first, now)[place]) != now:
            seen.append(then)
            now = then
        assert 3 <= len(seen) < 16
        key = "method" if place < 4 else "entering"
        for _ in seen:
            now = one.variants(first, now)[place ^ 1]
        assert _cut(now, key) == pytest.approx(_cut(start, key), rel=1e-3)
        cuts = [_cut(stage, key) for stage in seen]
        assert 0.003 <= min(cuts) <= max(cuts) <= 13
    assert named(one.variants(first, stage("mse")))[2][0] == "percentile-99.925"


def test_entering_and_leaving_have_their_own_ranges(rng) -> None:
    model = network(rng)
    data = draws(model, rng, 16)
    first = layers(model)[0]
    one = QuantizeStatic()
    stats = collect(model, [first], data, ranges=True)
    scales = {}
    for name, given in {
        "both": stage("percentile-99"),
        "wide": stage("minmax"),
        "own": stage("minmax", entering="percentile-99"),
    }.items():
        plans = [LayerPlan(first.name, (given,))]
        made, refused = apply_plan(model, plans, {one.name: one}, stats)
        assert not refused
        pairs = [node for node in made.graph if node.op_type == "QuantizeLinear"]
        tensors = [constant(node.inputs[1]) for node in pairs]
        scales[name] = [float(t.numpy()) for t in tensors if t is not None]
    assert scales["own"] == [scales["both"][0], scales["wide"][1]]
    assert scales["both"][0] < scales["wide"][0]
    assert scales["both"][1] < scales["wide"][1]


def test_the_option_is_offered_and_checked(rng) -> None:
    model = network(rng)
    stats = collect(model, layers(model), draws(model, rng, 16), ranges=True)
    first = layers(model)[0]
    target = load_target("ort-cpu")
    (found,) = QuantizeStatic(method="mse", entering="minmax").candidates(
        first, stats[first.name], target
    )
    assert found.stages == (stage("mse", entering="minmax"),)
    (same,) = QuantizeStatic(method="mse", entering="mse").candidates(
        first, stats[first.name], target
    )
    assert same.stages == (stage("mse"),)
    with pytest.raises(InputError, match="entering = 'most'"):
        QuantizeStatic(entering="most")
