"""What metrics read from samples and outputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxslim_rx.errors import InputError
from onnxslim_rx.metrics.base import Data
from onnxslim_rx.verify import Run

__all__ = ["embeddings", "floats", "label", "labelled", "optional_label"]

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
_NAMES = ("label", "labels", "y", "target", "targets")


def optional_label(sample: Mapping[str, Any]) -> Array | None:
    """What is right for `sample`, if it says so."""
    return next((np.asarray(sample[name]) for name in _NAMES if name in sample), None)


def label(sample: Mapping[str, Any]) -> Array:
    """What is right for `sample`.

    Raises:
        InputError: the sample does not say.
    """
    found = optional_label(sample)
    if found is None:
        raise InputError(
            f"the metric finds no label among {', '.join(map(repr, sample))}",
            expected="one of " + ", ".join(_NAMES),
            advice="add it to every sample, beside the model's inputs",
        )
    return found


def labelled(run: Run, data: Data) -> Iterator[tuple[Mapping[str, Any], Array, Mapping[str, Any]]]:
    """Outputs, label and the sample itself, for every sample."""
    for sample in data:
        right = label(sample)
        yield run(sample), right, sample


def floats(outputs: Mapping[str, Any]) -> Floats:
    """The first output of floats, as float64; NaN becomes the lowest of all values.

    Raises:
        InputError: there is none.
    """
    for value in outputs.values():
        if isinstance(value, np.ndarray) and "float" in value.dtype.name:
            return np.nan_to_num(
                value.astype(np.float64), nan=-np.inf, posinf=np.inf, neginf=-np.inf
            )
    raise InputError(f"the metric finds no floats among the outputs {', '.join(outputs)}")


def embeddings(outputs: Mapping[str, Any], sample: Mapping[str, Any]) -> Floats:
    """The first output of floats as one vector of length 1 for each row, (rows, features).

    Of an output (rows, steps, features) the mean over the steps is taken that `attention_mask`
    leaves.
    """
    vectors = floats(outputs)
    if vectors.ndim == 3:
        mask = np.asarray(sample.get("attention_mask", np.ones(vectors.shape[:2])), np.float64)
        vectors = (vectors * mask[..., None]).sum(1) / np.maximum(mask.sum(1), 1.0)[:, None]
    vectors = vectors.reshape(vectors.shape[0], -1)
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(length > 0, length, 1.0)
