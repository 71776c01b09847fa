"""A folder that keeps what passes made of layers, so that a run that was killed goes on."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir

from onnxslim_rx.errors import InputError
from onnxslim_rx.fragments import Fragment, nodes_around, pack, unpack, values_around
from onnxslim_rx.ir import constant, load, save, tensor_digest
from onnxslim_rx.ir.atomic import PARTIAL
from onnxslim_rx.passbase import Layer

__all__ = ["SHELF_BYTES", "Place", "Shelf"]

SHELF_BYTES = 20 << 30
"""What the files of a shelf take together, those that were used last aside."""

_FOLDER = "layers"
_FORMAT = 1  # goes up when files of before must not be read any more
_ABANDONED = 600.0  # seconds after which nobody writes a file that is not complete


class Shelf:
    """Fragments in files, found by what they were made from.

    Args:
        folder: made if need be.
        about: plain data; what was made under other data is not found.

    Raises:
        InputError: the folder cannot be made.
    """

    def __init__(self, folder: Path, about: Any) -> None:
        self._folder = folder / _FOLDER
        self._about = json.dumps([_FORMAT, about], sort_keys=True)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"the cache folder {folder} cannot be made: {error.strerror}",
                advice="choose another one",
            ) from error
        self._tidy()

    def place(self, layer: Layer, opsets: Mapping[str, int]) -> Place | None:
        """Where what is made of `layer` is kept; None where it cannot be told from others.

        Args:
            layer: of a model; its weights are read once.
            opsets: of the model.
        """
        nodes = nodes_around(layer)
        around = values_around(nodes)
        if around is None:
            return None
        unit = [layer.name, layer.kind, [value.name for value in layer.weights]]
        key = hashlib.sha256(self._about.encode())
        key.update(json.dumps([unit, dict(opsets)], sort_keys=True).encode())
        for node in nodes:
            key.update(ir.to_proto(node).SerializeToString(deterministic=True))
        for name, value in sorted(around.items()):
            tensor = constant(value)
            if tensor is not None:
                about = f"{name} {tensor.dtype.name} {tensor.shape.numpy()}"
                key.update(f"{about} {tensor_digest(tensor)} ".encode())
        return Place(self._folder / f"{key.hexdigest()}.onnx", around, opsets)

    def limit(self, most_bytes: int = SHELF_BYTES) -> None:
        """Delete what was used longest ago until the rest takes at most `most_bytes`."""
        entries = []
        for path in self._folder.glob("*.onnx"):
            with contextlib.suppress(OSError):  # another process deletes it
                data = path.with_name(f"{path.name}.data")
                files = [one for one in (path, data) if one.is_file()]
                about = [one.stat() for one in files]
                entries.append((about[0].st_mtime, sum(one.st_size for one in about), files))
        total = sum(size for _, size, _ in entries)
        for _, size, files in sorted(entries):
            if total <= most_bytes:
                return
            _delete(files)
            total -= size

    def _tidy(self) -> None:
        """Delete what killed processes left."""
        for path in self._folder.glob(f".*{PARTIAL}"):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > _ABANDONED:
                    path.unlink()


class Place:
    """Where the fragment of one layer lies, or will lie."""

    def __init__(
        self, path: Path, around: Mapping[str, ir.Value], opsets: Mapping[str, int]
    ) -> None:
        self._path, self._around, self._opsets = path, around, opsets

    def take(self) -> Fragment | None:
        """The fragment; None where there is none, or a damaged one."""
        if not self._path.is_file():
            return None
        try:
            found = unpack(load(self._path), self._around)
        except InputError:
            return None
        with contextlib.suppress(OSError):  # nobody may write there
            os.utime(self._path)
        return found

    def keep(self, fragment: Fragment) -> bool:
        """Write the fragment, completely or not at all; False where it cannot be kept.

        Raises:
            InputError: the folder cannot be written, or the disk is full.
        """
        model = pack(fragment, self._around, self._opsets)
        if model is None:
            return False
        save(model, self._path)
        return True


def _delete(files: Sequence[Path]) -> None:
    for path in files:
        with contextlib.suppress(OSError):
            path.unlink()
