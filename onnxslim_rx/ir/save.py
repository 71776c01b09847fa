"""Write a model so that it is there completely or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import onnx_ir

from onnxslim_rx.errors import InputError
from onnxslim_rx.ir.atomic import complete_files
from onnxslim_rx.ir.content import chunks
from onnxslim_rx.ir.mapped import release
from onnxslim_rx.ir.serial import has_external_data, needs_external_data, place, serialize
from onnxslim_rx.ir.walk import SOURCES, tensors
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

    Everything is written to temporary files in the same folder, and is on the disk, before it
    gets its name. A killed process leaves at worst files named `.*.rx-partial`.

    Args:
        model: what to write; it is not changed.
        path: where to; an existing file is replaced, unless it is an input.
        external: whether tensors above 1 KiB go to a second file `PATH.data`; None: where the
            model came with external data or is above 2 GB.
        protect: files that are never written over. The files that the model was loaded from, and
            external data that it reads, are always protected.

    Raises:
        InputError: the path cannot be written, is protected, the disk is full, or the model is
            above 2 GB and `external` is False.
    """
    target = Path(path)
    data_target = target.with_name(f"{target.name}.data") if target.name else target
    if external is None:
        external = has_external_data(model) or needs_external_data(model)
    targets = [data_target, target] if external else [target]
    _refuse_inputs(targets, [*_sources(model), *map(Path, protect)])
    if not external:
        content = serialize(model)
        with complete_files(target) as [file], task("save", len(content)) as advance:
            file.write(content)
            advance(len(content))
        return
    proto, placements = place(model, data_target.name)
    content = proto.SerializeToString(deterministic=True)
    total = len(content) + sum(tensor.nbytes for _, tensor in placements)
    with complete_files(*targets) as [data, file], task("save", total) as advance:
        file.write(content)
        advance(len(content))
        for offset, tensor in placements:
            data.seek(offset)
            for chunk in chunks(tensor):
                data.write(chunk.data)
                release(chunk)  # what lies in a mapped file takes memory no longer than needed
            advance(tensor.nbytes)


def _sources(model: onnx_ir.Model) -> Iterable[Path]:
    """The files that the model was loaded from or reads."""
    yield from map(Path, model.meta.get(SOURCES, ()))
    for tensor in tensors(model):
        if isinstance(tensor, onnx_ir.ExternalTensor):
            yield Path(tensor.path)


def _refuse_inputs(targets: Iterable[Path], inputs: Iterable[Path]) -> None:
    existing = [target for target in targets if os.path.lexists(target)]
    for source in dict.fromkeys(inputs):
        for target in existing:
            if _same(target, source):
                raise InputError(
                    f"writing {target} would replace the input file {source}",
                    expected="another path for the output",
                    advice="inputs are never touched",
                )


def _same(first: Path, second: Path) -> bool:
    """Whether both are names of one file, also through links."""
    try:
        return first.samefile(second)
    except OSError:  # one of them is gone, or a link that leads nowhere
        return os.path.realpath(first) == os.path.realpath(second)
