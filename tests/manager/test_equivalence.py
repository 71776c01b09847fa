"""What counts as rounding, and what does not."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxslim_rx.ir import load
from onnxslim_rx.manager.equivalence import Equivalence, rounding_bound

U = 2.0**-24


def model(text, weights=None):
    """A model in ONNX's text form."""
    proto = ir.to_proto(ir.from_onnx_text(f'<ir_version: 8, opset_import: ["": 17]>\n{text}'))
    for name, array in (weights or {}).items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return load(proto)


LAYERS = (
    "g (float[4, 300] x) => (float[4, 300] y) { a = MatMul(x, v)  b = Tanh(a)  y = MatMul(b, w) }"
)


def weights(rng, error=0.0):
    """Two matrices; the first one off by `error`, relatively."""
    v, w = (rng.standard_normal((300, 300)) / 17 for _ in range(2))
    return {"v": (v * (1 + error)).astype("f"), "w": w.astype("f")}


def test_the_bound_grows_with_sums_and_depth(rng):
    assert rounding_bound(model(LAYERS, weights(rng))) == pytest.approx(4 * U * np.sqrt(300 * 3))
    half = model("g (float16[4] x) => (float16[4] y) { y = Neg(x) }")
    assert rounding_bound(half) == pytest.approx(4 * 2**-11 * np.sqrt(64))


def test_rounding_passes_and_a_small_error_does_not(rng):
    state = rng.bit_generator.state
    check = Equivalence(model(LAYERS, weights(rng)), seed=3)

    def difference(error):
        rng.bit_generator.state = state
        return check.difference(model(LAYERS, weights(rng, error)))

    assert difference(0.0) is None
    assert difference(8 * U) is None
    assert "output 'y': error" in str(difference(1e-3))


def test_other_shapes_and_lost_nans_are_differences():
    reference = model(
        "g (float[4] x) => (float[4] y) { n = Neg(o)  y = Sqrt(n) }", {"o": np.ones(4, "f")}
    )
    check = Equivalence(reference)

    zeros = model("g (float[4] x) => (float[4] y) { y = Sub(x, x) }")
    assert "NaN or infinite at other places" in str(check.difference(zeros))
    longer = model("g (float[4] x) => (float[8] y) { y = Concat<axis=0>(x, x) }")
    assert "shape [8] instead of [4]" in str(check.difference(longer))


def test_integers_count_as_shares():
    check = Equivalence(model("g (float[1000] x) => (int64[1000] y) { y = Cast<to=7>(x) }"))

    assert (
        check.difference(model("g (float[1000] x) => (int64[1000] y) { y = Cast<to=7>(x) }"))
        is None
    )
    other = model("g (float[1000] x) => (int64[1000] y) { a = Ceil(x)  y = Cast<to=7>(a) }")
    assert "output 'y'" in str(check.difference(other))


def test_random_outputs_prove_nothing():
    text = "g (float[1000] x) => (float[1000] y) { y = RandomNormalLike(x) }"

    assert Equivalence(model(text)).difference(model(text)) is None
