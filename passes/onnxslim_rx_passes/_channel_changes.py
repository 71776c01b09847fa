"""Constants whose channels are scaled."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim_rx.rewriter import Editor
from onnxslim_rx.rules import Scene
from onnxslim_rx_passes._weights import fused_name, tensor_of

__all__ = ["Change"]

Matrix = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True, eq=False)
class Change:
    """Another constant for one input of a node, float64, and the type that it is stored in."""

    node: ir.Node
    index: int
    array: Matrix
    dtype: ir.DataType

    @classmethod
    def of(cls, node: ir.Node, index: int, factor: Matrix, scene: Scene) -> Change:
        """The constant times `factor`, which broadcasts."""
        tensor = tensor_of(node.inputs[index], scene)
        assert tensor is not None  # it was looked at when the link was found
        return cls(node, index, tensor.numpy().astype(np.float64) * factor, tensor.dtype)

    @property
    def is_exact(self) -> bool:
        """Whether the type holds every entry."""
        with np.errstate(over="ignore"):
            stored = self.array.astype(self.dtype.numpy()).astype(np.float64)
        return bool((stored == self.array).all())

    def carry_out(self, editor: Editor) -> None:
        """Let the node read it."""
        old, graph = self.node.inputs[self.index], self.node.graph
        assert old is not None  # a constant was found there
        assert graph is not None  # the node belongs to one
        array = self.array.astype(self.dtype.numpy())
        name = fused_name(old, f"{self.node.op_type}.weight")
        new = editor.constant(graph, ir.tensor(array, dtype=self.dtype), name)
        self.node.replace_input_with(self.index, new)
        editor.remove_unused([old])
