"""What statistics depend on, as a hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxslim_rx.calibration.data import Dataset
from onnxslim_rx.ir import digest
from onnxslim_rx.passbase import Layer
from onnxslim_rx.runtime import version

__all__ = ["key_of"]

_FORMAT = 1  # of the files; count up when what they mean changes


def key_of(model: ir.Model, layers: Sequence[Layer], data: Dataset, seed: int) -> str:
    """Hash of the model, the layers, the data, the seed and the versions, 32 hex digits."""
    units = [
        (layer.name, layer.kind, layer.node.name, layer.weight_index, layer.activation_index)
        for layer in layers
    ]
    about = [_FORMAT, version(), np.__version__, digest(model), seed, units]
    total = hashlib.sha256(json.dumps(about).encode())
    for sample in data:
        for name in sorted(sample):
            total.update(f"\n{name} ".encode())
            for part in _parts(sample[name]):
                total.update(part)
    return total.hexdigest()[:32]


def _parts(value: Any) -> Iterator[bytes]:
    if isinstance(value, (list, tuple)):  # a sequence of tensors
        for item in value:
            yield from _parts(item)
    elif isinstance(value, np.ndarray) and not value.dtype.hasobject:
        yield f"{value.dtype} {value.shape} ".encode()
        yield value.tobytes()
    else:
        yield repr(value.tolist() if isinstance(value, np.ndarray) else value).encode()
