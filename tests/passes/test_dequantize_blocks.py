"""Dequantize: weights in blocks, in MatMulNBits and GatherBlockQuantized."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto

from onnxslim_rx.quant import BlockFormat, pack, pack_zeros
from tests.passes.quantized import dequantize, model, node, small_integers


def blocks(rng, bits, rows, k, block, *, zeros):
    """Integers in bytes with scales and zero points, and the weight that they stand for."""
    how = BlockFormat(bits=bits, group=block, symmetric=zeros is None, scale_type=np.float32)
    count = how.count(k)
    values = rng.integers(0, 2**bits, (rows, k)).astype(np.uint8)
    scales = rng.uniform(0.01, 1, (rows, count)).astype(np.float32)
    weights = {"q": pack(values, how), "s": scales}
    points = np.full((rows, count), 2.0 ** (bits - 1))
    if zeros == "packed":
        points = rng.integers(0, 2**bits, (rows, count)).astype(np.uint8)
        weights["z"] = pack_zeros(points, bits)
    elif zeros == "float":
        points = rng.uniform(0, 2**bits, (rows, count)).astype(np.float32)
        weights["z"] = points
    wide = [np.repeat(a.astype(np.float64), block, 1)[:, :k] for a in (points, scales)]
    return weights, ((values - wide[0]) * wide[1]).astype(np.float32)


FORMS = [(bits, zeros) for bits in (2, 4, 8) for zeros in (None, "packed", "float")]
FORMS.remove((8, "float"))  # onnxruntime has no such kernel


@pytest.mark.parametrize(("bits", "zeros"), FORMS)
@pytest.mark.parametrize("k", [32, 40, 7])
def test_in_matmul_nbits(bits, zeros, k, rng):
    weights, expected = blocks(rng, bits, 6, k, 16, zeros=zeros)
    names = "x q s z" if zeros else "x q s"
    weights["bias"] = rng.standard_normal(6).astype(np.float32)
    names += " - - bias" if not zeros else " - bias"
    made = node("ms::MatMulNBits", names, K=k, N=6, bits=bits, block_size=16)
    done = dequantize(model([made], weights, inputs={"x": (np.float32, ["N", k])}))
    assert done.ops == ["MatMul", "Add"]
    (found,) = (a for a in done.constants.values() if a.ndim == 2)
    np.testing.assert_array_equal(found, expected.T)
    before, after = done.run({"x": rng.standard_normal((3, k)).astype(np.float32)})
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-5 * np.abs(before).max())


def test_scales_in_half_behind_a_cast(rng):
    weights, _ = blocks(rng, 4, 6, 32, 16, zeros=None)
    weights["h"] = weights.pop("s").astype(np.float16)
    nodes = [
        node("Cast", "h", "s", to=TensorProto.FLOAT),
        node("ms::MatMulNBits", "x q s", K=32, N=6, bits=4, block_size=16),
    ]
    done = dequantize(model(nodes, weights, inputs={"x": (np.float32, ["N", 32])}))
    assert "MatMul" in done.ops
    before, after = done.run({"x": rng.standard_normal((3, 32)).astype(np.float32)})
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-5 * np.abs(before).max())


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("zeros", [None, "packed"])
def test_in_gather_block_quantized(bits, zeros, rng):
    weights, expected = blocks(rng, bits, 10, 32, 16, zeros=zeros)
    weights["q"] = weights["q"].reshape(10, -1)
    names = "q i s z" if zeros else "q i s"
    made = node("ms::GatherBlockQuantized", names, bits=bits, block_size=16, quantize_axis=1)
    done = dequantize(model([made], weights, inputs={"i": (np.int64, ["N"])}))
    assert done.ops == ["Gather"]
    before, after = done.run({"i": np.arange(10)})
    np.testing.assert_array_equal(after, expected)
    np.testing.assert_allclose(after, before, rtol=1e-6)


def test_in_gather_block_quantized_of_int4(rng):
    q = rng.integers(-8, 8, (10, 32))
    s = rng.uniform(0.01, 1, (10, 2)).astype(np.float32)
    weights = {"q": small_integers("q", q, TensorProto.INT4), "s": s}
    made = node("ms::GatherBlockQuantized", "q i s", block_size=16, quantize_axis=1)
    done = dequantize(model([made], weights, inputs={"i": (np.int64, ["N"])}))
    before, after = done.run({"i": np.arange(10)})
    np.testing.assert_allclose(after, before, rtol=1e-6)


def test_a_tied_weight_stays_tied(rng):
    weights, expected = blocks(rng, 4, 10, 32, 16, zeros=None)
    packed = weights["q"]
    weights["q"] = packed.reshape(10, -1)
    weights["shape"] = np.array(packed.shape)
    nodes = [
        node("ms::GatherBlockQuantized", "q x s", "h", bits=4, block_size=16, quantize_axis=1),
        node("Reshape", "q shape", "r"),
        node("ms::MatMulNBits", "h r s", K=32, N=10, bits=4, block_size=16),
    ]
    done = dequantize(model(nodes, weights, inputs={"x": (np.int64, ["N"])}))
    assert done.ops == ["Gather", "Transpose", "MatMul"]
    (found,) = (a for a in done.constants.values() if a.size == expected.size)
    np.testing.assert_array_equal(found, expected)
    before, after = done.run({"x": np.arange(10)})
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-5 * np.abs(before).max())


def test_a_weight_of_two_layers_is_stored_once(rng):
    weights, expected = blocks(rng, 4, 32, 32, 16, zeros=None)
    nodes = [
        node("ms::MatMulNBits", f"{x} q s", y, K=32, N=32, bits=4, block_size=16)
        for x, y in ("xh", "hy")
    ]
    done = dequantize(model(nodes, weights, inputs={"x": (np.float32, ["N", 32])}))
    assert done.ops == ["MatMul", "MatMul"]
    (found,) = done.constants.values()
    np.testing.assert_array_equal(found, expected.T)
