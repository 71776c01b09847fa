"""FuseLogSoftmax: a logarithm that does not underflow."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_rx.manager import PassManager
from onnxslim_rx.runtime import Runner
from onnxslim_rx_passes.fuse_log_softmax import FuseLogSoftmax

# log of a number with an error of a few 2^-24 (2^-11), absolute as the largest result is above 1
TOLERANCE = {"float": 1e-6, "float16": 4e-3}


@pytest.mark.parametrize("opset", [11, 17])
@pytest.mark.parametrize("axis", ["<axis=1>", "<axis=-1>", ""])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_it_is_the_logarithm(rewrite, dtype, axis, opset):
    text = f"""g ({dtype}[N, 3, 5] x) => ({dtype}[N, 3, 5] y)
    {{ d = Mul(x, k)  a = Softmax{axis}(d)  y = Log(a) }}"""
    weights = {"k": np.asarray(0.25, "e" if dtype == "float16" else "f")}

    done = rewrite(FuseLogSoftmax(), text, weights, opset=opset, tolerance=TOLERANCE[dtype])

    assert done.ops == ["Mul", "LogSoftmax"]


def test_probabilities_that_are_read_stay(rewrite):
    text = "g (float[N, 5] x) => (float[N, 5] y, float[N, 5] a) { a = Softmax(x)  y = Log(a) }"

    done = rewrite(FuseLogSoftmax(), text)

    assert done.reasons == ["the probabilities are read elsewhere too"]


def test_small_probabilities_stay_finite_and_odd_inputs_odd(build_model):
    model = build_model("g (float[N, 3] x) => (float[N, 3] y) { a = Softmax(x)  y = Log(a) }")
    x = np.array([[0, -200, -np.inf], [np.nan, 0, 1], [np.inf, 0, 1]], "f")

    after = PassManager([FuseLogSoftmax()], verify=None).run(model).model

    np.testing.assert_allclose(Runner(after)({"x": x})["y"][0], [0, -200, -np.inf])
    assert np.isnan(Runner(model)({"x": x})["y"][1:]).all()
    assert np.isnan(Runner(after)({"x": x})["y"][1:]).all()


def test_inside_a_branch(rewrite):
    text = """g (float[N, 5] x, bool c) => (float[N, 5] y) {
    y = If (c) <
        then_branch = t () => (float[N, 5] u) { a = Softmax(x)  u = Log(a) },
        else_branch = e () => (float[N, 5] u) { u = Neg(x) }
    > }"""

    assert rewrite(FuseLogSoftmax(), text, tolerance=2e-6).ops == ["If", "LogSoftmax", "Neg"]
