"""What a model takes and gives, and whether an array fits."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxslim_rx.errors import InputError

__all__ = ["TensorSpec", "check_feeds", "numpy_dtype"]

Dim = int | str | None

_RUNTIME_NAMES = {"complex64": "COMPLEX64", "complex128": "COMPLEX128"}


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """One input or output of a model.

    Args:
        name: as in the graph.
        dtype: of the array; `object` for strings and for anything that is no tensor.
        shape: an int is fixed, a str is a symbolic dimension, None is unknown; empty for a
            scalar and for anything that is no tensor.
        type: onnxruntime's name of the type, such as `tensor(float)` or `seq(tensor(int64))`.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[Dim, ...]
    type: str

    @property
    def is_tensor(self) -> bool:
        """Whether the value is one tensor (not a sequence, map, optional or sparse tensor)."""
        return self.type.startswith("tensor(")

    def __str__(self) -> str:
        dims = ", ".join("?" if dim is None else str(dim) for dim in self.shape)
        return f"{self.dtype.name}[{dims}]" if self.is_tensor else self.type


def numpy_dtype(type_name: str) -> np.dtype[Any]:
    """The array type for onnxruntime's `tensor(...)`; `object` for strings and non-tensors."""
    element = type_name.removeprefix("tensor(").removesuffix(")").upper()
    if not type_name.startswith("tensor(") or element == "STRING":
        return np.dtype(object)
    return np.dtype(ir.DataType[element].numpy())


def check_feeds(
    feeds: Mapping[str, Any], required: Mapping[str, TensorSpec], optional: Mapping[str, TensorSpec]
) -> None:
    """Check names, types, ranks and fixed dimensions of `feeds`.

    Raises:
        InputError: what does not fit, with found and expected.
    """
    known = {**required, **optional}
    unknown = [name for name in feeds if name not in known]
    if unknown:
        raise InputError(
            f"the model has no input {_names(unknown)}", expected=_names(required) or "no input"
        )
    missing = [name for name in required if name not in feeds]
    if missing:
        raise InputError(
            f"no value is given for the input {_names(missing)}",
            expected=", ".join(f"{name!r} as {required[name]}" for name in missing),
        )
    for name, value in feeds.items():
        if known[name].is_tensor:
            _check_array(value, known[name])


def _check_array(value: Any, spec: TensorSpec) -> None:
    if not isinstance(value, (np.ndarray, np.generic)):
        raise InputError(
            f"input {spec.name!r} is a {type(value).__name__}", expected=f"an array {spec}"
        )
    is_text = spec.dtype == object and value.dtype.kind in "OUS"
    if value.dtype != spec.dtype and not is_text:
        raise InputError(f"input {spec.name!r} has type {value.dtype.name}", expected=str(spec))
    fits = value.ndim == len(spec.shape) and all(
        not isinstance(want, int) or want == have
        for want, have in zip(spec.shape, value.shape, strict=True)
    )
    # a tensor of unknown rank is listed with an empty shape, just like a scalar
    if not fits and spec.shape:
        raise InputError(f"input {spec.name!r} has shape {list(value.shape)}", expected=str(spec))


def _names(names: Sequence[str] | Mapping[str, Any]) -> str:
    return ", ".join(map(repr, names))
