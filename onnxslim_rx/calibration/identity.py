"""What statistics depend on, as a hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import scipy

from onnxslim_rx.calibration.samples import Dataset
from onnxslim_rx.ir import digest
from onnxslim_rx.passbase import Layer
from onnxslim_rx.runtime import version

__all__ = ["key_of"]

_FORMAT = 4  # of the files; count up when what they mean changes


def key_of(model: ir.Model, layers: Sequence[Layer], data: Dataset, options: Sequence[int]) -> str:
    """Hash of model, layers, data, options and versions, 32 hex digits."""
    about = [
        _FORMAT,
        version(),
        np.__version__,
        scipy.__version__,
        list(options),
        digest(model),
        [_unit(layer) for layer in layers],
    ]
    total = hashlib.sha256(json.dumps(about).encode())
    for sample in data:
        for name in sorted(sample):
            total.update(f"\n{name} ".encode())
            for part in _parts(sample[name]):
                total.update(part)
    return total.hexdigest()[:32]


def _unit(layer: Layer) -> list[object]:
    node = layer.node
    outputs = [value.name for value in node.outputs]  # nodes need no names
    return [layer.name, layer.kind, node.name, outputs, layer.weight_index, layer.activation_index]


def _parts(value: Any) -> Iterator[bytes]:
    if isinstance(value, (list, tuple)):  # a sequence of tensors
        for item in value:
            yield from _parts(item)
    elif isinstance(value, np.ndarray) and not value.dtype.hasobject:
        yield f"{value.dtype} {value.shape} ".encode()
        yield value.tobytes()
    else:
        yield repr(value.tolist() if isinstance(value, np.ndarray) else value).encode()
