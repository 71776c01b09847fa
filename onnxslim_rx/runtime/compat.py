"""Which version of ONNX Runtime a model needs at least."""

from __future__ import annotations

import onnx_ir as ir

__all__ = ["least_onnxruntime"]

# First release of onnxruntime whose CPU kernels cover an opset of ai.onnx, from its table of
# compatibility with ONNX. Releases before 1.17 are no target of this project.
_FIRST_RELEASE = ((20, "1.17"), (21, "1.18"), (22, "1.20"), (23, "1.22"), (24, "1.23"))
_FIRST_IR_VERSION = ((9, "1.17"), (10, "1.18"), (11, "1.22"), (12, "1.23"))


def least_onnxruntime(model: ir.Model) -> str:
    """Least version of onnxruntime that loads `model`, such as "1.17"; "" where it is not known.

    Decided by the opset and the format's version alone: operators of other domains may need more.
    """
    by_opset = _first(_FIRST_RELEASE, model.opset_imports.get("", 1))
    by_format = _first(_FIRST_IR_VERSION, model.ir_version)
    if not (by_opset and by_format):
        return ""
    return max(by_opset, by_format, key=lambda text: tuple(map(int, text.split("."))))


def _first(table: tuple[tuple[int, str], ...], version: int) -> str:
    return next((release for known, release in table if version <= known), "")
