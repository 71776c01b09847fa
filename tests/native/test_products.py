"""QuantMatMul and LowRankMatMul against float64 numpy, on the processor and on OpenCL."""

from __future__ import annotations

import numpy as np
import pytest

from tests.native.operators import Blocks, assert_close, need, run
from tests.native.reference import activated

ACTIVATIONS = ["", "Relu", "Clip", "Gelu", "GeluTanh", "Silu"]
F32, F16 = np.float32, np.float16


def attributes_of(activation: str) -> dict[str, object]:
    found: dict[str, object] = {"activation": activation} if activation else {}
    return found | ({"clip_min": -0.5, "clip_max": 0.75} if activation == "Clip" else {})


def finished(y, activation: str):
    encoded = {**attributes_of(activation), "activation": activation.encode()}
    return activated(y, encoded)


@pytest.fixture
def device() -> str:
    need("cpu")
    return "cpu"


def check_quantized(rng, device, lead, k, n, *, bits=4, block=32, zeros=False, dtype=F32, act="",
                    bias=False, residual=False):  # fmt: skip
    weight = Blocks(rng, n, k, bits=bits, block=block, zeros=zeros, dtype=dtype)
    a = rng.standard_normal((*lead, k)).astype(dtype)
    b = rng.standard_normal(n).astype(dtype) if bias else None
    r = rng.standard_normal((*lead, n)).astype(dtype) if residual else None
    inputs = [("A", a), ("B", weight.data), ("scales", weight.scales), ("zeros", weight.zeros),
              ("bias", b), ("residual", r)]  # fmt: skip
    attributes = {"K": k, "N": n, "bits": bits, "block_size": block, **attributes_of(act)}
    found = run("QuantMatMul", inputs, attributes, ("A", "residual"), device)
    exact = a.astype(np.float64) @ weight.values.T
    size = np.abs(a.astype(np.float64)) @ np.abs(weight.values).T
    for extra in (b, r):
        exact, size = (exact, size) if extra is None else (exact + extra, size + np.abs(extra))
    assert found.dtype == dtype
    assert_close(found, finished(exact, act), size, k + 6)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("dtype", [F32, F16])
def test_quantized_product_of_every_format(rng, device, bits, zeros, dtype):
    check_quantized(rng, device, (3,), 70, 33, bits=bits, zeros=zeros, dtype=dtype)


@pytest.mark.parametrize("block", [8, 16, 24, 64, 256])
def test_quantized_product_of_blocks_of_any_width(rng, device, block):
    check_quantized(rng, device, (2,), 100, 19, block=block, zeros=True)


@pytest.mark.parametrize("lead", [(1,), (), (2, 3), (17,), (130,)])
@pytest.mark.parametrize(("k", "n"), [(1, 1), (129, 67), (64, 128)])
def test_quantized_product_over_odd_shapes(rng, device, lead, k, n):
    check_quantized(rng, device, lead, k, n, bias=True)


@pytest.mark.parametrize("act", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [F32, F16])
def test_activation_follows_bias_and_residual(rng, device, act, dtype):
    check_quantized(rng, device, (5,), 48, 21, act=act, bias=True, residual=True, dtype=dtype)


def test_not_a_number_and_infinity_pass_through(rng, device):
    weight = Blocks(rng, 9, 32, bits=4, block=32, zeros=False, dtype=F32)
    weight.data[:] = 0x77  # -1 times the scale each: no 0, which would make NaN of infinity
    a = rng.standard_normal((3, 32)).astype(F32)
    a[1, 5], a[2, 7] = np.nan, np.inf
    inputs = [("A", a), ("B", weight.data), ("scales", weight.scales)]
    for act in ("", "Relu", "Clip"):
        attributes = {"K": 32, "N": 9, "bits": 4, "block_size": 32, **attributes_of(act)}
        found = run("QuantMatMul", inputs, attributes, ("A",), device)
        assert np.isfinite(found[0]).all()
        assert np.isnan(found[1]).all()
        with np.errstate(invalid="ignore"):
            expected = finished(-np.inf * weight.scales[:, 0], act)
        np.testing.assert_array_equal(found[2], expected)


@pytest.mark.parametrize(("m", "k", "n"), [(0, 8, 5), (3, 8, 0), (3, 0, 5)])
def test_products_without_elements(rng, device, m, k, n):
    # a sum over nothing is 0: what remains is the bias
    check_quantized(rng, device, (m,), k, n, bias=True, act="Relu")
    check_low_rank(rng, device, (m,), k, 2, n, bias=True)


# Every combination of options runs in the tests of the kernels. Here the way to them is tested, and
# every program costs a compilation.
@pytest.mark.parametrize(
    ("lead", "k", "n", "options"),
    [
        ((1,), 100, 33, {"bits": 4, "block": 32, "act": "Gelu", "bias": True}),
        ((9, 2), 70, 36, {"bits": 8, "block": 16, "zeros": True, "residual": True}),
        ((3,), 64, 5, {"bits": 2, "block": 24, "zeros": True, "dtype": F16, "bias": True}),
        ((0,), 16, 5, {"bias": True}),
        ((2,), 0, 5, {"bias": True, "act": "Relu"}),
    ],
)
def test_quantized_product_on_opencl(rng, lead, k, n, options):
    need("opencl")
    check_quantized(rng, "opencl", lead, k, n, **options)


def check_low_rank(rng, device, lead, k, rank, n, *, dtype=F32, act="", bias=False, residual=False):
    a, p, q = (
        rng.standard_normal(shape).astype(dtype) for shape in ((*lead, k), (k, rank), (rank, n))
    )
    b = rng.standard_normal(n).astype(dtype) if bias else None
    r = rng.standard_normal((*lead, n)).astype(dtype) if residual else None
    inputs = [("A", a), ("P", p), ("Q", q), ("bias", b), ("residual", r)]
    found = run("LowRankMatMul", inputs, attributes_of(act), ("A", "residual"), device)
    wide_a, wide_p, wide_q = (x.astype(np.float64) for x in (a, p, q))
    exact = wide_a @ wide_p @ wide_q
    size = np.abs(wide_a) @ np.abs(wide_p) @ np.abs(wide_q)
    for extra in (b, r):
        exact, size = (exact, size) if extra is None else (exact + extra, size + np.abs(extra))
    assert found.dtype == dtype
    # the errors of both sums add up: gamma(k) + gamma(r) + gamma(k) gamma(r) <= gamma(k + r)
    assert_close(found, finished(exact, act), size, k + rank + 8)


@pytest.mark.parametrize("dtype", [F32, F16])
@pytest.mark.parametrize(
    ("lead", "k", "rank", "n"),
    [((1,), 1, 1, 1), ((2, 5), 33, 7, 65), ((40,), 64, 16, 64), ((7,), 20, 40, 3)],
)
def test_low_rank_over_odd_shapes(rng, device, dtype, lead, k, rank, n):
    check_low_rank(rng, device, lead, k, rank, n, dtype=dtype, bias=True, residual=True)


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_low_rank_activations(rng, device, act):
    check_low_rank(rng, device, (4,), 19, 5, 23, act=act, bias=True)
