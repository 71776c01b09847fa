"""QuantGather against float64 numpy, on the processor and on OpenCL."""

from __future__ import annotations

import numpy as np
import pytest
from onnxruntime.capi import onnxruntime_pybind11_state as errors

from tests.native.operators import Blocks, U, need, run

F32, F16 = np.float32, np.float16


def look_up(rng, device, indices, *, rows=11, columns=40, bits=4, block=16, zeros=False, dtype=F32):
    need(device)
    table = Blocks(rng, rows, columns, bits=bits, block=block, zeros=zeros, dtype=dtype, flat=True)
    inputs = [("data", table.data), ("indices", indices), ("scales", table.scales),
              ("zeros", table.zeros)]  # fmt: skip
    attributes = {"columns": columns, "bits": bits, "block_size": block}
    return run("QuantGather", inputs, attributes, ("indices",), device), table.values[indices]


def check(rng, device, indices, **options):
    found, exact = look_up(rng, device, indices, **options)
    assert found.shape == exact.shape
    # an integer is exact, and its scale multiplies it once; then half an ulp of half
    allowed = U * np.abs(exact)
    if found.dtype == F16:
        allowed = allowed + 2.0**-11 * np.abs(exact) * (1 + U) + 2.0**-25
    assert (np.abs(found - exact) <= allowed).all()


@pytest.mark.parametrize("device", ["cpu", "opencl"])
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("dtype", [F32, F16])
def test_rows_of_every_format(rng, device, bits, dtype):
    indices = rng.integers(-11, 11, (3, 4))
    check(rng, device, indices, bits=bits, dtype=dtype, zeros=dtype == F32)


@pytest.mark.parametrize("index", [np.int32, np.int64])
@pytest.mark.parametrize("shape", [(), (1,), (2, 1, 3), (0,), (65,)])
def test_indices_of_any_shape_and_type(rng, index, shape):
    check(rng, "cpu", rng.integers(0, 11, shape).astype(index))


@pytest.mark.parametrize("columns", [1, 4, 17, 36, 100])
@pytest.mark.parametrize("block", [8, 24, 64])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_short_last_block_is_not_filled_up(rng, columns, block, bits):
    check(rng, "cpu", np.array([0, 10, -1]), columns=columns, block=block, bits=bits, zeros=True)


@pytest.mark.parametrize("device", ["cpu", "opencl"])
@pytest.mark.parametrize("index", [-12, 11, 2**40, -(2**62)])
def test_index_out_of_range_is_refused(rng, device, index):
    with pytest.raises(errors.InvalidArgument, match="lies outside the 11 rows"):
        look_up(rng, device, np.array([1, index, 2]))
