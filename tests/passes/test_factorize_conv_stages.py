"""FactorizeConv: stages carried out, one after the other, and what they leave behind."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest

from onnxslim_rx.errors import InputError
from onnxslim_rx.passbase import Stage
from onnxslim_rx.runtime import Runner
from onnxslim_rx.stages import apply_treatments
from onnxslim_rx_passes._conv_structures import METHODS
from onnxslim_rx_passes.factorize_conv import FactorizeConv
from onnxslim_rx_passes.quantize_weights import QuantizeWeights
from tests.passes.convolutions import (
    FINE,
    SIDE,
    Array,
    conv_of,
    noise,
    offers,
    only_layer,
    white,
)


@pytest.mark.parametrize("method", METHODS)
def test_stages_are_replayed_exactly_and_the_restored_kernel_is_what_is_emitted(method, rng):
    kernel = noise(rng, 30, 20, 3, 3)
    one = FactorizeConv(min_elements=1, method=method, ratio=0.5)
    model = conv_of(kernel)
    layer, stats = only_layer(one, model), white(20, 9)
    (candidate,) = one.candidates(layer, stats, FINE)
    other = FactorizeConv(min_elements=1)  # a plan says it all
    factors = other.transform(layer, candidate.stages[0], (kernel.astype(np.float64),), stats)
    (dense,) = other.restore(layer, factors)
    x = noise(rng, 1, 20, SIDE, SIDE)
    expected = Runner(conv_of(dense.astype(np.float32)))({"x": x})["y"]
    treatments = [(layer, candidate.stages, stats)]
    assert apply_treatments(model, treatments, {one.name: other}) == []
    found = Runner(model)({"x": x})["y"]
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    emitted = [v.const_value.numpy() for v in model.graph.initializers.values() if v.const_value]
    assert sorted(a.shape for a in emitted) == sorted(f.shape for f in factors)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_factors_are_rounded_as_they_are_stored(op, method, rng):
    kernel = noise(rng, 24, 24, 3, 3)
    model = conv_of(kernel, op=op)
    one, quantize = FactorizeConv(min_elements=1, method=method), QuantizeWeights(min_elements=8)
    layer = only_layer(one, model)
    chain = offers(conv_of(kernel, op=op), FINE, method=method, rank=5)[0].stages
    stages = (*chain, Stage(quantize.name, {"bits": 8, "form": "cast-mul"}))
    factors: Sequence[Array] = (kernel.astype(np.float64),)
    for stage, chosen in zip(stages, (one, quantize), strict=True):
        factors = chosen.transform(layer, stage, tuple(factors), None)
    (dense,) = one.restore(layer, tuple(factors))
    x = noise(rng, 1, 24, SIDE, SIDE)
    expected = Runner(conv_of(dense.astype(np.float32), op=op))({"x": x})["y"]
    passes = {one.name: one, quantize.name: quantize}
    assert apply_treatments(model, [(layer, stages, None)], passes) == []
    found = Runner(model)({"x": x})["y"]
    np.testing.assert_allclose(found, expected, atol=2e-4 * np.abs(expected).max())
    assert [node.op_type for node in model.graph].count("Cast") >= 2


@pytest.mark.parametrize("method", METHODS)
def test_float16_stays_float16(method, rng):
    kernel = (1e-2 * noise(rng, 24, 18, 3, 3)).astype(np.float16)
    model = conv_of(kernel, kind="float16")
    one = FactorizeConv(min_elements=1, method=method, rank=4)
    layer = only_layer(one, model)
    (candidate,) = one.candidates(layer, None, FINE)
    assert apply_treatments(model, [(layer, candidate.stages, None)], {one.name: one}) == []
    stored = [v.const_value.numpy() for v in model.graph.initializers.values() if v.const_value]
    assert {array.dtype for array in stored} == {np.dtype(np.float16)}
    assert candidate.bytes == sum(array.nbytes for array in stored)
    sizes = [float(np.abs(array).max()) for array in stored]
    assert max(sizes) < 100 * min(sizes)  # no factor has all the size


@pytest.mark.parametrize("method", METHODS)
def test_kernels_that_are_not_finite_or_zero(method, rng):
    kernel = noise(rng, 24, 18, 3, 3)
    kernel[3, 4, 1, 1] = np.inf
    assert offers(conv_of(kernel), FINE, method=method) == []
    one = FactorizeConv(min_elements=1)
    model = conv_of(kernel)
    layer = only_layer(one, model)
    stage = Stage(one.name, {"method": method, "rank": 2, "rank_in": 2, "rank_out": 2})
    stage = dataclasses.replace(stage, options={**stage.options, **_axis(method)})
    (refused,) = apply_treatments(model, [(layer, (stage,), None)], {one.name: one})
    assert "NaN" in refused.why
    zero = conv_of(np.zeros((24, 18, 3, 3), np.float32))
    layer = only_layer(one, zero)
    found = offers(zero, FINE, white(18, 9), method=method, ratio=0.5)
    assert [candidate.error for candidate in found] == [pytest.approx(0.0, abs=1e-9)]
    assert apply_treatments(zero, [(layer, (stage,), None)], {one.name: one}) == []
    assert not Runner(zero)({"x": np.ones((1, 18, SIDE, SIDE), np.float32)})["y"].any()


def _axis(method: str) -> dict[str, int]:
    return {"axis": 0} if method == "spatial" else {}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"method": "channel-output", "rank": 0}, "rank 0 does not fit: expected 1 to 24"),
        ({"method": "channel-output", "rank": 25}, "rank 25 does not fit"),
        ({"method": "tucker", "rank_in": 4, "rank_out": 25}, "expected 1 to 18, 24"),
        ({"method": "tucker", "rank": 4}, "rank_in and rank_out is missing"),
        ({"method": "spatial", "rank": 4}, "no axis None"),
        ({"method": "spatial", "rank": 4, "axis": 2}, "no axis 2"),
        ({"method": "whitened-svd", "rank": 4}, "no method 'whitened-svd'"),
    ],
)
def test_stages_that_do_not_fit_are_refused(options, reason, rng):
    kernel = noise(rng, 24, 18, 3, 3)
    model = conv_of(kernel)
    one = FactorizeConv(min_elements=1)
    layer, stage = only_layer(one, model), Stage(one.name, options)
    (refused,) = apply_treatments(model, [(layer, (stage,), None)], {one.name: one})
    assert reason in refused.why
    with pytest.raises(InputError, match=reason.replace("(", "[(]")):
        one.transform(layer, stage, (kernel,), None)
    with pytest.raises(InputError, match="factorized already"):
        one.transform(layer, stage, (kernel, kernel), None)
