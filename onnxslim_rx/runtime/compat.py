"""Which version of ONNX Runtime a model needs at least."""

from __future__ import annotations

import onnx_ir as ir
import onnxruntime

from onnxslim_rx.errors import InputError
from onnxslim_rx.ir import marked, nodes

__all__ = ["check_onnxruntime", "least_onnxruntime"]

# First release of onnxruntime whose CPU kernels cover an opset of ai.onnx, from its table of
# compatibility with ONNX. Releases before 1.17 are no target of this project.
_OLDEST = "1.17"
_FIRST_RELEASE = ((20, "1.17"), (21, "1.18"), (22, "1.20"), (23, "1.22"), (24, "1.23"))
_FIRST_IR_VERSION = ((9, "1.17"), (10, "1.18"), (11, "1.22"), (12, "1.23"))
# First releases that compute weights in blocks right, by bits; found by running small models.
_PRODUCTS = {4: "1.17", 8: "1.22", 2: "1.24"}
_HALF_PRODUCTS = {4: "1.17", 8: "1.22", 2: "1.28"}  # of float16 activations
_BIASED_PRODUCTS = "1.20"
_LOOK_UPS = {4: "1.23", 8: "1.23", 2: "1.27"}
_LOOK_UPS_WITH_ZEROS = "1.27"  # before, odd numbers of zero points in a row are read wrong
_LOOK_UPS_UNPACKED = "1.20"
# First release that makes a kernel on integers of DequantizeLinear with 8 bits in front of MatMul;
# before, such weights are turned back at every inference, which takes ten times as long.
_BYTES = "1.26"
_BIAS = 5


def least_onnxruntime(model: ir.Model) -> str:
    """Least version of onnxruntime that runs `model`, such as "1.17"; "" where it is not known.

    Decided by the opset, the format's version and operators on weights in blocks: others of domains
    other than ONNX's may need more. Weights that `quantize-weights` stored as DequantizeLinear in 8
    bits run before, but not as fast as they were measured.
    """
    by_opset = _first(_FIRST_RELEASE, model.opset_imports.get("", 1))
    by_format = _first(_FIRST_IR_VERSION, model.ir_version)
    if not (by_opset and by_format):
        return ""
    return max(by_opset, by_format, *map(_by_operator, nodes(model)), key=_number)


def check_onnxruntime(least: str) -> None:
    """Refuse what the onnxruntime at hand is too old for.

    Args:
        least: such as "1.24"; "": not known, and nothing is refused.

    Raises:
        InputError: an older one is installed.
    """
    found = onnxruntime.__version__
    if least and _number(".".join(found.split(".")[:2])) < _number(least):
        raise InputError(
            f"the plan makes a model that needs onnxruntime {least}; {found} is installed",
            advice="install a newer onnxruntime, or plan again with this one",
        )


def _first(table: tuple[tuple[int, str], ...], version: int) -> str:
    return next((release for known, release in table if version <= known), "")


def _number(release: str) -> tuple[int, ...]:
    return tuple(map(int, release.split(".")))


def _by_operator(node: ir.Node) -> str:
    if node.domain == "com.microsoft" and node.op_type == "MatMulNBits":
        return _by_product(node)
    if node.domain == "com.microsoft" and node.op_type == "GatherBlockQuantized":
        return _by_look_up(node)
    if node.op_type == "DequantizeLinear" and marked(node) == "quantize-weights":
        stored = node.inputs[0]
        if stored is not None and stored.dtype in (ir.DataType.INT8, ir.DataType.UINT8):
            return _BYTES
    return _OLDEST


def _by_product(node: ir.Node) -> str:
    scale = node.inputs[2]
    half = scale is not None and scale.dtype == ir.DataType.FLOAT16
    table = _HALF_PRODUCTS if half else _PRODUCTS
    least = table.get(node.attributes.get_int("bits", 4), _OLDEST)
    biased = len(node.inputs) > _BIAS and node.inputs[_BIAS] is not None
    return max(least, _BIASED_PRODUCTS, key=_number) if biased else least


def _by_look_up(node: ir.Node) -> str:
    stored = node.inputs[0]
    if stored is not None and stored.dtype != ir.DataType.UINT8:
        return _LOOK_UPS_UNPACKED
    bits = node.attributes.get_int("bits", 4)
    least = _LOOK_UPS.get(bits, _OLDEST)
    packed = len(node.inputs) > 3 and node.inputs[3] is not None and bits < 8
    return max(least, _LOOK_UPS_WITH_ZEROS, key=_number) if packed else least
