"""Inputs for any model, and plain ONNX Runtime to run it on them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir
import onnxruntime

Sample = dict[str, npt.NDArray[Any]]

_TYPES = {
    "tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16,
    "tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8, "tensor(bool)": np.bool_,
}  # fmt: skip
_BATCH, _SPACE = (2, 3), ((64, 96), (224, 256))
_LENGTHS = ((7, 12), (576, 576), (16, 16))
_LARGEST = (1000, 10, 3, 2)  # what integers stay below: token ids, classes, loop counts, flags


def session(path: Path | bytes) -> onnxruntime.InferenceSession:
    """Of plain ONNX Runtime, without graph optimisations, and always in the same order."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def run(model: onnxruntime.InferenceSession, sample: Mapping[str, Any]) -> list[Any]:
    """Outputs for a sample; arrays of types that numpy does not have are given as they are.

    Raises:
        Exception: whatever ONNX Runtime raises.
    """
    values = {name: _given(value) for name, value in sample.items()}
    if all(value is sample[name] for name, value in values.items()):
        outputs: list[Any] = model.run(None, values)
        return outputs
    found = model.run_with_ort_values(None, {
        name: value if isinstance(value, onnxruntime.OrtValue)
        else onnxruntime.OrtValue.ortvalue_from_numpy(value)
        for name, value in values.items()
    })  # fmt: skip
    return [value.numpy() for value in found]


def _given(value: Any) -> Any:
    """An OrtValue where numpy has no such type: bfloat16, float8, int4."""
    if not isinstance(value, np.ndarray) or value.dtype.kind != "V":
        return value
    kind = onnx_ir.DataType.from_numpy(value.dtype).value
    raw = value.view(f"u{value.dtype.itemsize}")
    return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(raw, kind)


def samples(model: onnxruntime.InferenceSession, count: int = 2) -> list[Sample]:
    """Inputs of `count` shapes with which the model runs; one where every size is fixed.

    Symbolic sizes of one name are the same everywhere. What the graph wants of its integers is
    found by trying.

    Raises:
        ValueError: nothing ran.
    """
    dynamic = any(not isinstance(d, int) or d < 1 for i in model.get_inputs() for d in i.shape)
    found = []
    for index in range(count if dynamic else 1):
        for lengths, space, largest in itertools.product(_LENGTHS, _SPACE, _LARGEST):
            sizes = _Sizes(_BATCH[index % 2], lengths[index % 2], space[index % 2])
            sample = _sample(model, sizes, largest, index)
            try:
                run(model, sample)
            except Exception as error:  # noqa: BLE001 - any refusal: these values do not fit
                why = str(error)
            else:
                found.append(sample)
                break
        else:
            raise ValueError(f"no inputs found with which the original runs: {why}")
    return found


class _Sizes:
    """Sizes for open axes, by name and place."""

    def __init__(self, batch: int, length: int, space: int) -> None:
        self.batch, self.length, self.space = batch, length, space
        self.known: dict[str, int] = {}

    def of(self, dim: Any, axis: int, rank: int) -> int:
        """The size of `dim`; a product such as 32*h gives a multiple."""
        if isinstance(dim, int) and dim > 0:
            return dim
        name = dim if isinstance(dim, str) else f"?{axis}"
        product = re.fullmatch(r"(\d+)\*\w+", name)
        if product:
            return int(product[1]) * (self.space // 32) + int(product[1]) * (axis % 2)
        if name not in self.known:
            self.known[name] = self._guess(name, axis, rank)
        return self.known[name]

    def _guess(self, name: str, axis: int, rank: int) -> int:
        if re.search(r"batch|^b$|^n$|unk", name) or (axis == 0 and rank > 1):
            return self.batch
        if rank == 4 and axis >= 2:
            return self.space + 32 * (axis % 2)
        return self.length + (2 if re.search(r"past|^p$", name) else 0)


def _sample(model: onnxruntime.InferenceSession, sizes: _Sizes, largest: int, seed: int) -> Sample:
    rng = np.random.default_rng([seed, 20])
    sample: Sample = {}
    for value in model.get_inputs():
        shape = [sizes.of(dim, axis, len(value.shape)) for axis, dim in enumerate(value.shape)]
        dtype = np.dtype(_TYPES[value.type])
        array: npt.NDArray[Any]
        if "mask" in value.name:
            array = np.ones(shape)
            if seed and array.size > 1:
                array[..., -2:] = 0  # padding
        elif value.name == "sr":
            array = np.full(shape, 16000)
        elif dtype.kind == "f":
            array = rng.standard_normal(shape)
        else:
            array = rng.integers(0, largest if dtype.itemsize > 1 else 2, shape)
            if not shape:
                array = np.asarray(3)  # a count of trips
        sample[value.name] = np.asarray(array).astype(dtype)
    return sample
