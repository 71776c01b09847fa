"""FactorizeConv: pointwise convolutions, against ONNX Runtime and numpy."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_rx.calibration import collect
from onnxslim_rx.errors import InputError
from onnxslim_rx.passbase import Layer, LayerStatistics, Skipped, Stage
from onnxslim_rx.runtime import Runner
from onnxslim_rx.stages import apply_treatments
from onnxslim_rx.targets import load_target
from onnxslim_rx_passes.factorize_conv import FactorizeConv

TARGET = load_target("ort-cpu")


def low_rank(rng, m, c, rank, dtype=np.float32):
    return (rng.standard_normal((m, rank)) @ rng.standard_normal((rank, c))).astype(dtype)


def model_of(build_model, kernel, shape, *, bias=None, attributes="", kind="float"):
    """x -> Conv -> y."""
    weights = {"w": kernel} | ({} if bias is None else {"b": bias})
    reads = "x, w" if bias is None else "x, w, b"
    unknown = ", ".join(["?"] * len(shape))
    text = f"g ({kind}{list(shape)} x) => ({kind}[{unknown}] y) {{ y = Conv{attributes}({reads}) }}"
    return build_model(text, weights)


def only_layer(one, model) -> Layer:
    """The one layer that the pass finds."""
    (layer,) = one.layers(model)
    assert isinstance(layer, Layer)
    return layer


def refusal(one, model) -> str:
    """Why the only layer is refused."""
    (found,) = one.layers(model)
    assert isinstance(found, Skipped)
    return found.why


def treat(model, stats=None, **options):
    """Factorize the only layer by its first candidate."""
    one = FactorizeConv(min_elements=1, **options)
    layer = only_layer(one, model)
    candidate = next(iter(one.candidates(layer, stats, TARGET)))
    assert apply_treatments(model, [(layer, candidate.stages, stats)], {one.name: one}) == []
    return candidate


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize(
    ("axes", "attributes"),
    [
        (1, ""),
        (1, "<strides = [3], pads = [2, 1]>"),
        (2, ""),
        (2, "<kernel_shape = [1, 1], strides = [2, 1], dilations = [2, 2]>"),
        (2, "<pads = [1, 0, 2, 1], strides = [2, 2]>"),
        (2, '<auto_pad = "SAME_UPPER", strides = [2, 2]>'),
        (3, "<strides = [1, 2, 1], group = 1>"),
    ],
)
def test_a_kernel_of_that_rank_is_exact(axes, attributes, with_bias, rng, build_model):
    kernel = low_rank(rng, 18, 24, 4).reshape(18, 24, *[1] * axes)
    bias = rng.standard_normal(18).astype(np.float32) if with_bias else None
    shape = (2, 24, 7, 6, 5)[: 2 + axes]
    model = model_of(build_model, kernel, shape, bias=bias, attributes=attributes)
    x = rng.standard_normal(shape).astype(np.float32)
    before = Runner(model)({"x": x})["y"]
    treat(model, rank=4)
    after = Runner(model)({"x": x})["y"]
    assert after.shape == before.shape
    np.testing.assert_allclose(after, before, atol=1e-5 * np.abs(before).max(), rtol=0)
    first, second = model.graph
    assert [first.op_type, second.op_type] == ["Conv", "Conv"]
    assert "strides" not in second.attributes  # the first leaves fewer positions to the second
    assert "w" not in model.graph.initializers


@pytest.mark.parametrize("whitened", [False, True])
def test_the_error_of_every_candidate_is_exact(whitened, rng, build_model):
    kernel = rng.standard_normal((80, 96, 1, 1)).astype(np.float32)
    model = model_of(build_model, kernel, (1, 96, 8, 8))
    scale = np.logspace(0, -1, 96)[None, :, None, None]
    data = [
        {"x": (rng.standard_normal((1, 96, 8, 8)) * scale).astype(np.float32)} for _ in range(30)
    ]
    one = FactorizeConv(min_elements=1)
    layer = only_layer(one, model)
    stats = collect(model, [layer], data)[layer.name] if whitened else None
    candidates = list(one.candidates(layer, stats, TARGET))
    assert len(candidates) == 2
    reference = np.concatenate([Runner(model)(sample)["y"].ravel() for sample in data])
    for candidate in candidates:
        (stage,) = candidate.stages
        (dense,) = one.restore(layer, one.transform(layer, stage, (kernel,), stats))
        assert dense.shape == kernel.shape
        if whitened:
            other = model_of(build_model, dense.astype(np.float32), (1, 96, 8, 8))
            after = np.concatenate([Runner(other)(sample)["y"].ravel() for sample in data])
            true = np.linalg.norm(after - reference) / np.linalg.norm(reference)
        else:
            true = np.linalg.norm(dense - kernel) / np.linalg.norm(kernel)
        assert candidate.error == pytest.approx(true, rel=2e-2)
        assert isinstance(candidate.bytes, int)
        assert candidate.bytes == 4 * int(stage.options["rank"]) * (80 + 96)


def test_the_inputs_lower_the_error_of_the_outputs(rng, build_model):
    kernel = rng.standard_normal((48, 64, 1)).astype(np.float32)
    x = rng.standard_normal((3000, 64)) * np.logspace(0, -2, 64)
    stats = LayerStatistics(x.T @ x, None, len(x), None, ())
    errors = {}
    for method in ("svd", "scaled-svd", "whitened-svd"):
        one = FactorizeConv(rank=16, method=method, min_elements=1)
        layer = only_layer(one, model_of(build_model, kernel, (1, 64, 9)))
        (candidate,) = one.candidates(layer, stats, TARGET)
        errors[method] = candidate.error
    assert errors["whitened-svd"] < errors["scaled-svd"] < errors["svd"]


@pytest.mark.parametrize(
    ("shape", "channels", "attributes", "reason"),
    [
        ((18, 24, 3, 3), 24, "", "kernel of 3 x 3"),
        ((18, 24, 1, 5), 24, "", "kernel of 1 x 5"),
        ((18, 12, 1, 1), 24, "<group = 2>", "2 groups"),
        ((24, 1, 3, 3), 24, "<group = 24>", "depthwise"),
    ],
)
def test_other_kernels_are_left_alone(shape, channels, attributes, reason, rng, build_model):
    kernel = rng.standard_normal(shape).astype(np.float32)
    model = model_of(build_model, kernel, (1, channels, 9, 9), attributes=attributes)
    assert reason in refusal(FactorizeConv(min_elements=1), model)


def test_a_kernel_that_two_nodes_read_and_factors_are_left_alone(rng, build_model):
    kernel = low_rank(rng, 24, 24, 4).reshape(24, 24, 1)
    text = "g (float[1, 24, 5] x) => (float[1, 24, 5] y) { a = Conv(x, w)\n y = Conv(a, w) }"
    assert "2 nodes share" in refusal(
        FactorizeConv(min_elements=1), build_model(text, {"w": kernel})
    )
    model = model_of(build_model, kernel, (1, 24, 5))
    treat(model, rank=4)
    again = list(FactorizeConv(min_elements=1).layers(model))
    assert all(isinstance(found, Skipped) and "factor" in found.why for found in again)


def test_float16_stays_float16(rng, build_model):
    kernel = low_rank(rng, 24, 18, 2, np.float16).reshape(24, 18, 1, 1)
    model = model_of(build_model, kernel, (1, 18, 4, 4), kind="float16")
    treat(model, rank=2)
    kinds = {value.const_value.numpy().dtype for value in model.graph.initializers.values()}
    assert kinds == {np.dtype(np.float16)}


def test_kernels_that_are_not_finite_zero_or_of_one_channel(rng, build_model):
    one = FactorizeConv(min_elements=1)
    kernel = low_rank(rng, 24, 18, 2).reshape(24, 18, 1)
    kernel[3, 4] = np.inf
    model = model_of(build_model, kernel, (1, 18, 4))
    layer = only_layer(one, model)
    assert list(one.candidates(layer, None, TARGET)) == []
    stage = Stage(one.name, {"method": "svd", "rank": 2})
    (refused,) = apply_treatments(model, [(layer, (stage,), None)], {one.name: one})
    assert "NaN" in refused.why
    zero = model_of(build_model, np.zeros((24, 18, 1), np.float32), (1, 18, 4))
    assert treat(zero, rank=2).error == 0.0
    assert not Runner(zero)({"x": np.ones((1, 18, 4), np.float32)})["y"].any()
    single = model_of(build_model, low_rank(rng, 24, 1, 1).reshape(24, 1, 1), (1, 1, 4))
    assert list(one.candidates(only_layer(one, single), None, TARGET)) == []


@pytest.mark.parametrize("rank", [0, 19])
def test_ranks_that_do_not_fit_are_refused(rank, rng, build_model):
    model = model_of(build_model, low_rank(rng, 24, 18, 2).reshape(24, 18, 1), (1, 18, 4))
    one = FactorizeConv(min_elements=1)
    stage = Stage(one.name, {"method": "svd", "rank": rank})
    layer = only_layer(one, model)
    (refused,) = apply_treatments(model, [(layer, (stage,), None)], {one.name: one})
    assert f"rank {rank} does not fit" in refused.why


def test_options_are_checked_and_statistics_asked_for(rng, build_model):
    with pytest.raises(InputError, match="factorize-conv got rank and ratio"):
        FactorizeConv(rank=3, ratio=0.5)
    one = FactorizeConv(method="whitened-svd", min_elements=1)
    model = model_of(build_model, low_rank(rng, 24, 18, 2).reshape(24, 18, 1), (1, 18, 4))
    with pytest.raises(InputError, match="factorize-conv has method = whitened-svd"):
        list(one.candidates(only_layer(one, model), None, TARGET))
