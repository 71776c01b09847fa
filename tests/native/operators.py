"""Models of one operator of `ai.onnxslim.rx`, run by ONNX Runtime with the native library."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime
import pytest

from onnxslim_rx.errors import InputError
from onnxslim_rx.ir import serialize
from onnxslim_rx.runtime import native

Array = npt.NDArray[Any]
DOMAIN = native.DOMAIN
U = 2.0**-24
"""Unit roundoff of float32."""


@functools.cache
def missing(device: str) -> str:
    """Why tests on a device cannot run here; "" where they can."""
    if native.library_path() is None:
        return "the native library is not built: python3 tools/dev.py build"
    try:
        native.check_device(device)
    except InputError as error:
        return str(error)
    return ""


def need(device: str) -> None:
    """Skip the test where the device is missing."""
    if reason := missing(device):
        pytest.skip(reason)


def model_of(
    op: str,
    inputs: Sequence[tuple[str, Array | None]],
    attributes: Mapping[str, Any],
    *,
    fed: Sequence[str],
    version: int = 1,
    name: str = "node",
) -> bytes:
    """One node; `inputs` in its order (None: left out), those of `fed` from outside."""
    values: list[ir.Value | None] = []
    initializers, given = [], []
    for key, array in inputs:
        if array is None:
            values.append(None)
            continue
        if key in fed:
            shape = ir.Shape([f"{key}{axis}" for axis in range(array.ndim)])
            dtype = ir.TensorType(ir.DataType.from_numpy(array.dtype))
            value = ir.Value(name=key, shape=shape, type=dtype)
            given.append(value)
        else:
            value = ir.Value(name=key, const_value=ir.tensor(array, name=key))
            value.type = ir.TensorType(ir.DataType.from_numpy(array.dtype))
            value.shape = ir.Shape(array.shape)
            initializers.append(value)
        values.append(value)
    node = ir.node(op, values, attributes, domain=DOMAIN, name=name)
    real = next(a.dtype for _, a in reversed(inputs) if a is not None and a.dtype.kind == "f")
    node.outputs[0].name = "Y"
    node.outputs[0].type = ir.TensorType(ir.DataType.from_numpy(real))
    graph = ir.Graph(
        given,
        node.outputs,
        nodes=[node],
        initializers=initializers,
        opset_imports={"": 17, DOMAIN: version},
        name="one",
    )
    return serialize(ir.Model(graph, ir_version=9))


def session_of(model: bytes, device: str = "cpu", threads: int = 2) -> Any:
    """A session of ONNX Runtime alone, with the library registered."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    native.register(options, device)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run(
    op: str,
    inputs: Sequence[tuple[str, Array | None]],
    attributes: Mapping[str, Any],
    fed: Sequence[str],
    device: str = "cpu",
) -> Array:
    """The output of one node."""
    session = session_of(model_of(op, inputs, attributes, fed=fed), device)
    feeds = {key: array for key, array in inputs if key in fed and array is not None}
    found: Array = session.run(None, feeds)[0]
    return found


def bound(exact: Array, size: Array, terms: int, dtype: Any) -> Array:
    """What an operator may differ from the exact result.

    Args:
        exact: the result.
        size: sum of the absolute terms of each sum, bias and residual included.
        terms: of a sum; each takes part in that many roundings at most.
        dtype: of the output.

    A sum of n terms is within gamma(n) of `size`, gamma(n) = n u / (1 - n u) (Higham, Accuracy and
    Stability of Numerical Algorithms, 2002, section 3.1); no activation has a slope above 1.14; its
    own value is within 8 u of its argument, which `size` is not below.
    """
    gamma = terms * U / (1 - terms * U)
    allowed: Array = 1.14 * gamma * size + 8 * U * size
    if dtype == np.float16:  # half an ulp, or half the least subnormal
        allowed = allowed + 2.0**-11 * (np.abs(exact) + allowed) + 2.0**-25
    return allowed


def assert_close(found: Array, exact: Array, size: Array, terms: int) -> None:
    """Compare with the exact result, within `bound`."""
    assert found.shape == exact.shape
    error = np.abs(found.astype(np.float64) - exact)
    allowed = bound(exact, size, terms, found.dtype)
    assert (error <= allowed).all(), f"error {error.max():.3g}, {np.max(error / allowed):.3g} x"


class Blocks:
    """A random weight in blocks, as the operators store it, and its values.

    Args:
        rng: where numbers come from.
        rows, columns: of the weight.
        bits, block: how it is stored.
        zeros: whether it has zero points.
        dtype: of the scales.
        flat: rows of bytes, without what fills up the last block.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        rows: int,
        columns: int,
        *,
        bits: int,
        block: int,
        zeros: bool,
        dtype: Any,
        flat: bool = False,
    ) -> None:
        count = -(-columns // block)
        q = rng.integers(0, 2**bits, (rows, count * block), dtype=np.uint8)
        points = rng.integers(0, 2**bits, (rows, count), dtype=np.uint8)
        self.scales = rng.uniform(-0.2, 0.2, (rows, count)).astype(dtype)
        self.data = packed(q, bits).reshape(rows, count, block * bits // 8)
        if flat:
            self.data = self.data.reshape(rows, -1)[:, : -(-columns * bits // 8)]
        self.zeros = packed(points, bits) if zeros else None
        middle = points if zeros else np.full_like(points, 2 ** (bits - 1))
        steps = q.astype(np.float64) - np.repeat(middle, block, axis=1)
        wide = steps * np.repeat(self.scales.astype(np.float64), block, axis=1)
        self.values: Array = wide[:, :columns]


def packed(values: Array, bits: int) -> Array:
    """(rows, bytes) of (rows, count): the first value in the lowest bits."""
    each = 8 // bits
    rows, count = values.shape
    padded = np.zeros((rows, -(-count // each) * each), np.uint8)
    padded[:, :count] = values
    parts = padded.reshape(rows, padded.shape[1] // each, each) << (
        np.arange(each, dtype=np.uint8) * bits
    )
    found: Array = np.bitwise_or.reduce(parts, axis=2).astype(np.uint8)
    return found
