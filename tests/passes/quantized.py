"""Models on integers, made node by node, and what stock ONNX Runtime makes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxruntime
from onnx import helper, numpy_helper

from onnxslim_rx.ir import load, nodes, serialize
from onnxslim_rx.manager import JournalEntry, PassManager
from onnxslim_rx_passes.dequantize import Dequantize

Array = npt.NDArray[Any]
Inputs = Mapping[str, tuple[type, Sequence[int | str]]]
"""Inputs of a model: type and shape."""
MS = "com.microsoft"


def node(op_type: str, inputs: str, outputs: str = "y", **attributes: Any) -> onnx.NodeProto:
    """A node; `-` is an input that is left out, `ms::` in front of the type means com.microsoft."""
    names = ["" if name == "-" else name for name in inputs.split()]
    domain = MS if op_type.startswith("ms::") else ""
    op_type = op_type.removeprefix("ms::")
    return helper.make_node(op_type, names, outputs.split(), domain=domain, **attributes)


def model(
    graph: Sequence[onnx.NodeProto],
    weights: Mapping[str, Any],
    *,
    inputs: Inputs | None = None,
    outputs: Mapping[str, type] | None = None,
    opset: int = 21,
) -> onnx.ModelProto:
    """A model of `x`, float32 (N, 8) unless stated, to `y`, float32."""
    kinds: Inputs = {"x": (np.float32, ["N", 8])} if inputs is None else inputs
    made = helper.make_graph(
        list(graph),
        "g",
        [helper.make_tensor_value_info(n, _kind(t), s) for n, (t, s) in kinds.items()],
        [
            helper.make_tensor_value_info(n, _kind(t), None)
            for n, t in (outputs or {"y": np.float32}).items()
        ],
        [
            w if isinstance(w, onnx.TensorProto) else numpy_helper.from_array(np.asarray(w), n)
            for n, w in weights.items()
        ],
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid(MS, 1)]
    return helper.make_model(made, opset_imports=imports, ir_version=10)


def _kind(dtype: type) -> int:
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def small_integers(name: str, values: Array, dtype: int) -> onnx.TensorProto:
    """A tensor of INT4, UINT4, INT2 or UINT2, packed."""
    return helper.make_tensor(name, dtype, values.shape, values.reshape(-1).tolist())


class Dequantized:
    """A model before and after the pass."""

    def __init__(self, before: onnx.ModelProto, options: Mapping[str, Any]) -> None:
        self.before = before
        given = load(before)
        content = serialize(given)
        one = Dequantize(**options)
        found = PassManager([one], verify=None).run(given)
        assert serialize(given) == content  # the input is left as it was
        self.after: ir.Model = found.model
        self.entry: JournalEntry = found.journal[0]
        again = PassManager([one], verify=None).run(found.model)
        assert not again.journal[0].changed  # it has come to an end

    @property
    def ops(self) -> list[str]:
        """Operators of all nodes, in order."""
        return [one.op_type for one in nodes(self.after)]

    @property
    def reasons(self) -> list[str]:
        """Why nodes were refused."""
        return [skipped.why for skipped in self.entry.skipped]

    @property
    def constants(self) -> dict[str, Array]:
        """Contents of the initializers."""
        found = self.after.graph.initializers
        return {name: v.const_value.numpy() for name, v in found.items() if v.const_value}

    def run(self, feeds: Mapping[str, Array]) -> tuple[Array, Array]:
        """The first output before and after, nothing of either being fused."""
        content = serialize(self.after)
        load(onnx.load_from_string(content))  # whose checks know operators of com.microsoft
        return run(self.before.SerializeToString(), feeds), run(content, feeds)


def dequantize(before: onnx.ModelProto, **options: Any) -> Dequantized:
    """Run the pass with these options."""
    return Dequantized(before, options)


def run(content: bytes, feeds: Mapping[str, Array]) -> Array:
    """The first output in stock ONNX Runtime."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    result: Array = session.run(None, dict(feeds))[0]
    return result
