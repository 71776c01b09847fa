"""One sample: does it fit the model's inputs?"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxslim_rx.errors import InputError
from onnxslim_rx.runtime import TensorSpec

__all__ = ["conform", "fed"]

Array = npt.NDArray[Any]


def fed(sample: Mapping[str, Any], inputs: Mapping[str, TensorSpec]) -> dict[str, Any]:
    """The part of `sample` that the model takes; labels and other extra arrays are left out."""
    return {name: sample[name] for name in inputs}


def conform(sample: object, inputs: Mapping[str, TensorSpec], where: str) -> dict[str, Any]:
    """`sample` with every input in the type and rank that the model wants.

    Integers are converted to other integers that can hold them, floats to other floats. A
    leading axis of 1 is added where it is all that lacks. Arrays that are no inputs are kept.

    Args:
        sample: arrays (or what numpy makes arrays of) by input name; for a model of one input
            also the bare array.
        inputs: what the model takes.
        where: names the sample in messages.

    Raises:
        InputError: a name, type, rank or dimension does not fit, or a float is NaN or infinite.
    """
    if not isinstance(sample, Mapping):
        if len(inputs) != 1 or not isinstance(sample, np.ndarray):
            raise InputError(
                f"{where} is a {type(sample).__name__}", expected="a dict of arrays by input name"
            )
        sample = {next(iter(inputs)): sample}
    check_names(sample, inputs, where)
    extras = {name: value for name, value in sample.items() if name not in inputs}
    return {name: _fit(sample[name], spec, where) for name, spec in inputs.items()} | extras


def check_names(arrays: Mapping[str, Any], inputs: Mapping[str, TensorSpec], where: str) -> None:
    """Check that every input has an array.

    Raises:
        InputError: one has none; with the closest name among those that are no inputs.
    """
    missing = [name for name in inputs if name not in arrays]
    if not missing:
        return
    spare = [str(name) for name in arrays if name not in inputs]
    only = spare if len(spare) == len(missing) == 1 else []
    close = difflib.get_close_matches(missing[0], spare, n=1) or only
    raise InputError(
        f"{where} has no array for {_names(missing)}; its arrays are {_names(arrays) or 'none'}",
        expected=", ".join(f"{name!r} as {spec}" for name, spec in inputs.items()),
        advice=f"rename {close[0]!r} to {missing[0]!r}" if close else "",
    )


def _names(names: Any) -> str:
    return ", ".join(repr(name) for name in names)


def _fit(value: Any, spec: TensorSpec, where: str) -> Any:
    if not spec.is_tensor:
        return value
    what = f"input {spec.name!r} of {where}"
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:  # ragged lists, tensors on a GPU
        raise InputError(f"{what} cannot become an array: {error}", expected=str(spec)) from error
    array = _cast(array, spec, what)
    shape = spec.shape
    if array.ndim == len(shape) - 1 and shape[0] in (None, 1, *_names_of(shape)):
        array = array[np.newaxis]
    # a tensor of unknown rank is listed with an empty shape, just like a scalar
    if shape and not (
        array.ndim == len(shape)
        and all(
            not isinstance(want, int) or want == have
            for want, have in zip(shape, array.shape, strict=True)
        )
    ):
        raise InputError(f"{what} has shape {list(array.shape)}", expected=str(spec))
    if _family(array.dtype) == "float" and not np.isfinite(array).all():
        raise InputError(
            f"{what} holds NaN or infinity",
            expected="finite numbers",
            advice="remove the sample or repair what computes it",
        )
    return array


def _names_of(shape: tuple[int | str | None, ...]) -> list[str]:
    return [dim for dim in shape[:1] if isinstance(dim, str)]


def _cast(array: Array, spec: TensorSpec, what: str) -> Array:
    have, want = array.dtype, spec.dtype
    if have == want:
        return array
    family = _family(want)
    if _family(have) != family or family == "other":
        raise InputError(
            f"{what} has type {have}",
            expected=str(spec),
            advice=f"convert it with .astype({want.name!r}) if that is what the model takes"
            if family in ("integer", "float", "bool")
            else "",
        )
    if family == "integer" and array.size:
        limits = np.iinfo(want)
        low, high = int(array.min()), int(array.max())
        if low < limits.min or high > limits.max:
            raise InputError(
                f"{what} holds integers from {low} to {high}",
                expected=f"{limits.min} to {limits.max}, as {spec} can hold",
            )
    with np.errstate(over="ignore"):  # what overflows becomes infinite, which is refused
        return array.astype(want)


def _family(dtype: np.dtype[Any]) -> str:
    """The kind of numbers within which a conversion keeps the meaning."""
    if dtype.kind in "iu":
        return "integer"
    if dtype.kind == "f" or dtype.name == "bfloat16":
        return "float"
    return {"b": "bool", "O": "text", "U": "text", "S": "text"}.get(dtype.kind, "other")
