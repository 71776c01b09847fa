"""Write a model so that it is there completely or not at all."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import onnx_ir

from onnxslim_rx.ir.atomic import partial
from onnxslim_rx.ir.serial import (
    has_external_data,
    needs_external_data,
    place,
    serialize,
)
from onnxslim_rx.progress import task

__all__ = ["save"]

PathLike = str | os.PathLike[str]


def save(
    model: onnx_ir.Model,
    path: PathLike,
    *,
    external: bool | None = None,
    protect: Sequence[PathLike] = (),
) -> None:
    """Write `model` to `path`, completely or not at all.

    Everything is written to temporary files in the same folder and on the disk before it gets
    its name. A killed process leaves at worst a file `.NAME.*.rx-partial`.

    Args:
        model: what to write; it is not changed.
        path: where to; an existing file is replaced, unless it is an input.
        external: whether tensors above 1 KiB go to a second file `PATH.data`; None: where the
            model came with external data or is above 2 GB.
        protect: files that are never written over, such as the input model. External data that
            the model reads is always protected.

    Raises:
        InputError: the path cannot be written, is protected, the disk is full, or the model is
            above 2 GB and `external` is False.
    """
    target = Path(path)
    data_target = target.with_name(target.name + ".data")
    if external is None:
        external = has_external_data(model) or needs_external_data(model)
    if not external:
        content = serialize(model)
        with partial(target) as file:
            file.write(content)
        return
    proto, placements = place(model, data_target.name)
    content = proto.SerializeToString(deterministic=True)
    with partial(data_target) as file, task("save", len(placements)) as advance:
        for offset, tensor in placements:
            file.seek(offset)
            file.write(tensor.tobytes())
            advance(1)
    with partial(target) as file:
        file.write(content)
