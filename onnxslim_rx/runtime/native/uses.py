"""Whether a model uses operators of our domain, seen without reading its weights."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import onnx_ir as ir

from onnxslim_rx.ir.lean import fields

__all__ = ["DOMAIN", "uses_domain"]

DOMAIN = "ai.onnxslim.rx"

_OPSET_IMPORT, _FUNCTIONS = 8, 25  # of ModelProto
_OPSET_IMPORT_OF_FUNCTION = 9
_DOMAIN_OF_IMPORT = 1
_BYTES = 2  # the type of a field with a length


def uses_domain(model: ir.Model | str | os.PathLike[str] | bytes) -> bool:
    """Whether the model, or a function of it, imports `ai.onnxslim.rx`.

    False also for what is no model: whoever opens it will say what is wrong.
    """
    if isinstance(model, ir.Model):
        functions = model.functions.values()
        return DOMAIN in model.opset_imports or any(DOMAIN in f.opset_imports for f in functions)
    if isinstance(model, bytes):
        return _imports(memoryview(model))
    try:
        with (
            Path(model).open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
            memoryview(content) as view,
        ):
            return _imports(view)
    except (OSError, ValueError):  # no file, or an empty one
        return False


def _imports(content: memoryview) -> bool:
    """The imports of an encoded model: what lies between is skipped by its length."""
    domain = DOMAIN.encode()

    def names_it(start: int, end: int) -> bool:
        return any(
            part.number == _DOMAIN_OF_IMPORT and bytes(content[part.content : part.end]) == domain
            for part in fields(content, start, end)
        )

    def within(start: int, end: int, imports: int) -> bool:
        for field in fields(content, start, end):
            if field.kind != _BYTES:
                continue
            if field.number == imports and names_it(field.content, field.end):
                return True
            is_function = imports == _OPSET_IMPORT and field.number == _FUNCTIONS
            if is_function and within(field.content, field.end, _OPSET_IMPORT_OF_FUNCTION):
                return True
        return False

    try:
        return within(0, len(content), _OPSET_IMPORT)
    except (IndexError, ValueError):  # damaged
        return False
