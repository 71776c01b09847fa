"""Whether a model uses operators of our domain, seen without reading its weights."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import onnx_ir as ir

from onnxslim_rx.errors import InputError
from onnxslim_rx.ir.lean import Field, fields

__all__ = ["DOMAIN", "VERSION", "uses_domain"]

DOMAIN = "ai.onnxslim.rx"
VERSION = 1
"""The newest version of the domain's operators that the native library has."""

_OPSET_IMPORT, _FUNCTIONS = 8, 25  # of ModelProto
_OPSET_IMPORT_OF_FUNCTION = 9
_DOMAIN_OF_IMPORT, _VERSION_OF_IMPORT = 1, 2
_NUMBER, _BYTES = 0, 2  # types of fields: a number, and what has a length


def uses_domain(model: ir.Model | str | os.PathLike[str] | bytes) -> bool:
    """Whether the model, or a function of it, imports `ai.onnxslim.rx`.

    False also for what is no model: whoever opens it will say what is wrong.

    Raises:
        InputError: it imports a version that is newer than `VERSION`. ONNX Runtime would take the
            operators that are there for newer ones of the same name.
    """
    versions = _versions(model)
    newest = max(versions, default=0)
    if newest > VERSION:
        raise InputError(
            f"the model uses version {newest} of the operators of {DOMAIN}",
            expected=f"at most {VERSION}",
            advice="install a newer onnxslim-rx",
        )
    return bool(versions)


def _versions(model: ir.Model | str | os.PathLike[str] | bytes) -> list[int]:
    if isinstance(model, ir.Model):
        parts = [model.opset_imports, *(one.opset_imports for one in model.functions.values())]
        return [part[DOMAIN] for part in parts if DOMAIN in part]
    if isinstance(model, bytes):
        return _imported(memoryview(model))
    try:
        with (
            Path(model).open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
            memoryview(content) as view,
        ):
            return _imported(view)
    except (OSError, ValueError):  # no file, or an empty one
        return []


def _imported(content: memoryview) -> list[int]:
    """Versions that an encoded model imports: what lies between is skipped by its length."""
    try:
        return list(_within(content, 0, len(content), _OPSET_IMPORT))
    except (IndexError, ValueError):  # damaged
        return []


def _within(content: memoryview, start: int, end: int, imports: int) -> Iterator[int]:
    for field in fields(content, start, end):
        if field.kind != _BYTES:
            continue
        if field.number == imports:
            yield from _version(content, field)
        elif imports == _OPSET_IMPORT and field.number == _FUNCTIONS:
            yield from _within(content, field.content, field.end, _OPSET_IMPORT_OF_FUNCTION)


def _version(content: memoryview, one: Field) -> Iterator[int]:
    """The version that an import states, if it is of our domain."""
    ours, version = False, 0
    for part in fields(content, one.content, one.end):
        if (part.number, part.kind) == (_DOMAIN_OF_IMPORT, _BYTES):
            ours = bytes(content[part.content : part.end]) == DOMAIN.encode()
        elif (part.number, part.kind) == (_VERSION_OF_IMPORT, _NUMBER):
            version = sum(
                (byte & 0x7F) << 7 * place
                for place, byte in enumerate(content[part.content : part.end])
            )
    if ours:
        yield version
