"""Products in INT8 whose activations have channels made alike first."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxslim_rx.passbase import Candidate, Layer, Stage
from onnxslim_rx.runtime import Runner
from onnxslim_rx.stages import apply_treatments
from onnxslim_rx.targets import load_target
from onnxslim_rx_passes.factorize_gemm import FactorizeGemm
from onnxslim_rx_passes.quantize_dynamic import QuantizeDynamic
from tests.passes.conftest import build
from tests.passes.dynamic import K, N, carried_out, offered, product, statistics, uneven


@pytest.mark.parametrize("smooth", [0.0, 0.7])
def test_the_error_is_that_of_runs_of_a_few_rows(rng: np.random.Generator, smooth: float) -> None:
    weight, x = rng.standard_normal((K, N)).astype(np.float32), uneven(rng)
    model, stats = product(weight), statistics(x)
    one, layer, candidates = offered(model, stats, smooth=smooth)
    candidate = candidates[-1]
    assert candidate.stages[0].options == {
        "bits": 8, "method": "gptq", "smooth": smooth, "correct": False,
    }  # fmt: skip
    assert candidate.bytes == K * N + 4 * N + (4 * K if smooth else 0)
    (stand_in,) = one.transform(layer, candidate.stages[0], (weight.astype(np.float64),), stats)
    wanted = x.astype(np.float64) @ weight
    assert not carried_out(model, stats=stats, method="gptq", smooth=smooth)
    runner = Runner(model, optimize=False)
    found = np.concatenate([runner({"x": x[i : i + 16]})["y"] for i in range(0, len(x), 16)])
    error = np.linalg.norm(found - wanted) / np.linalg.norm(wanted)
    assert candidate.error == pytest.approx(error, rel=1e-3)
    # the stand-in is what exact activations are multiplied with
    fine = 1e-3 * x[:1]
    tiny = runner({"x": fine})["y"]
    step = (max(fine.max(), 0) - min(fine.min(), 0)) / 255
    if not smooth:
        bound = 0.51 * step * np.abs(stand_in).sum(axis=0)
        assert (np.abs(tiny - fine @ stand_in) <= bound).all()


def test_channels_of_different_sizes_are_made_alike(rng: np.random.Generator) -> None:
    """On other inputs, run by run."""
    weight, x = rng.standard_normal((K, N)).astype(np.float32), uneven(rng, 500)
    stats, other = statistics(x[:400]), x[400:]
    _, _, (plain, smooth) = offered(product(weight), stats)
    assert smooth.stages[0].options["smooth"] in (0.5, 0.6, 0.7, 0.8, 0.9)
    assert smooth.error < 0.7 * plain.error
    assert (plain.follows, smooth.follows) == (False, True)
    wanted, lost = other.astype(np.float64) @ weight, []
    for candidate in (plain, smooth):
        model = product(weight)
        assert not carried_out(model, 8, stats, **_given(candidate))
        found = Runner(model, optimize=False)({"x": other})["y"]
        lost.append(np.linalg.norm(found - wanted))
    assert lost[1] < 0.8 * lost[0]


def _given(candidate: Candidate) -> dict[str, Any]:
    options = candidate.stages[0].options
    return {key: options[key] for key in ("method", "smooth")}


def test_scales_that_do_not_pay_are_not_offered(rng: np.random.Generator) -> None:
    weight = rng.standard_normal((K, N)).astype(np.float32)
    x = rng.uniform(-1, 1, (400, K)).astype(np.float32)
    _, _, candidates = offered(product(weight), statistics(x))
    assert [candidate.stages[0].options["smooth"] for candidate in candidates] == [0.0]
    _, _, candidates = offered(product(weight), None)
    assert [dict(candidate.stages[0].options) for candidate in candidates] == [
        {"bits": 8, "method": "clip", "smooth": 0.0, "correct": False}
    ]


def test_layers_that_read_the_same_share_scales_and_rounding(rng: np.random.Generator) -> None:
    weights = {name: rng.standard_normal((K, N)).astype(np.float32) for name in "uvw"}
    weights["w"] = weights["w"].T.copy()
    text = f"""g (float[B,{K}] x) => (float[B,{N}] y, float[B,{N}] z, float[B,{N}] t)
    {{ y = MatMul(x, u) z = MatMul(x, v) t = Gemm<transB = 1>(x, w) }}"""
    x = uneven(rng)
    model, stats = build(text, weights), statistics(x)
    one = QuantizeDynamic(min_elements=1)
    layers = [layer for layer in one.layers(model) if isinstance(layer, Layer)]
    stages = [list(one.candidates(layer, stats, load_target("ort-cpu")))[-1] for layer in layers]
    exponents = [candidate.stages[0].options["smooth"] for candidate in stages]
    assert len(set(exponents)) == 1
    assert exponents[0] != 0.0
    treatments = [
        (layer, candidate.stages, stats) for layer, candidate in zip(layers, stages, strict=True)
    ]
    assert not apply_treatments(model, treatments, {one.name: one})
    kinds = [node.op_type for node in model.graph]
    assert kinds.count("DynamicQuantizeLinear") == 1
    assert kinds.count("MatMulInteger") == 3
    found = Runner(model, optimize=False)({"x": x[:16]})
    for name, given in {"y": weights["u"], "z": weights["v"], "t": weights["w"].T}.items():
        wanted = x[:16].astype(np.float64) @ given
        assert np.linalg.norm(found[name] - wanted) < 0.02 * np.linalg.norm(wanted)


def test_what_was_never_active_is_not_blown_up(rng: np.random.Generator) -> None:
    """Channels that were always 0 may be something else in other samples."""
    weight, x = rng.standard_normal((K, N)).astype(np.float32), uneven(rng)
    x[:, :5] = 0.0
    model, stats = product(weight), statistics(x)
    assert not carried_out(model, 8, stats, method="gptq", smooth=0.9)
    x[:16, :5] = rng.standard_normal((16, 5)) * 1e-3 * np.abs(x).max()
    wanted = x[:16].astype(np.float64) @ weight
    found = Runner(model, optimize=False)({"x": x[:16]})["y"]
    assert np.linalg.norm(found - wanted) < 0.03 * np.linalg.norm(wanted)


def test_factors_of_whose_inputs_little_is_known_do_with_less(rng: np.random.Generator) -> None:
    """Behind the first of two factors a Gram matrix is, if one is of the layer."""
    first, second = FactorizeGemm(min_elements=1), QuantizeDynamic(min_elements=1)
    weight, x = rng.standard_normal((K, N)).astype(np.float32), uneven(rng)
    for stats, exponent in ((statistics(x), 0.7), (None, 0.0)):
        model = product(weight)
        (layer,) = first.layers(model)
        assert isinstance(layer, Layer)
        method = "whitened-svd" if stats else "svd"
        stages = [
            Stage(first.name, {"method": method, "rank": 12}),
            Stage(second.name, {"bits": 8, "method": "gptq", "smooth": exponent}),
        ]
        passes = {first.name: first, second.name: second}
        cut = product(weight)
        assert not apply_treatments(model, [(layer, stages, stats)], passes)
        (other,) = first.layers(cut)
        assert isinstance(other, Layer)
        assert not apply_treatments(cut, [(other, stages[:1], stats)], passes)
        kinds = [node.op_type for node in model.graph]
        assert kinds.count("MatMulInteger") == 2
        wanted = Runner(cut)({"x": x[:16]})["y"].astype(np.float64)
        found = Runner(model, optimize=False)({"x": x[:16]})["y"]
        lost = np.linalg.norm(found - wanted) / np.linalg.norm(wanted)
        assert lost < (0.03 if stats else 0.3)
