"""LSTM, GRU and RNN: what their attributes say, and whether their steps can be written out."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim_rx.ir import constant

__all__ = ["Cell", "read_cell", "why_not_written_out"]

Matrix = npt.NDArray[np.float64]

_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_DEFAULTS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
# Functions without parameters; operators of the same name compute them.
_FUNCTIONS = {name.lower(): name for name in ("Sigmoid", "Tanh", "Relu", "Softsign", "Softplus")}
_FIRST_SCAN = 9  # opset; the Scan of 8 has an axis of samples
_BIAS, _LENGTHS, _PEEPHOLES = 3, 4, 7


@dataclasses.dataclass(frozen=True, eq=False)
class Cell:
    """A recurrent node, its constants taken apart by direction.

    Shapes: D directions, H hidden units, G gates, K inputs, T steps, B samples.

    Attributes:
        node: the operator.
        op: LSTM, GRU or RNN.
        hidden: H.
        gates: G; in the order i, o, f, c of LSTM and z, r, h of GRU.
        reverse: for each direction, whether it runs from the last step to the first.
        functions: for each direction, operators f, g, h as far as `op` has them.
        clip: bound of what enters the functions, or None.
        coupled: LSTM: the forget gate is one minus the input gate.
        reset_after: GRU: the reset gate is applied after the product (linear_before_reset).
        batch_first: X is (B, T, K), not (T, B, K) (layout).
        weight: (K, D G H), all directions side by side, in its own type.
        bias: (D, 2, G, H): added to the products with W and with R; zeros where there is none.
        peepholes: (D, 3, H), of the gates i, o, f, or None.
    """

    node: ir.Node
    op: str
    hidden: int
    gates: int
    reverse: tuple[bool, ...]
    functions: tuple[tuple[str, ...], ...]
    clip: float | None
    coupled: bool
    reset_after: bool
    batch_first: bool
    weight: npt.NDArray[np.generic]
    bias: Matrix
    peepholes: Matrix | None

    @property
    def lengths(self) -> ir.Value | None:
        """(B,) int32, steps of each sample, or None."""
        return _input(self.node, _LENGTHS)

    def initial(self, state: int) -> ir.Value | None:
        """(D, B, H), or (B, D, H) where samples come first: h (0) or c (1) at the start."""
        return _input(self.node, 5 + state)


def why_not_written_out(node: ir.Node) -> str | None:
    """Why the steps of a recurrent node cannot be written out as a Scan; None: they can.

    Args:
        node: LSTM, GRU or RNN whose R is constant.
    """
    graph = node.graph
    opset = graph.opset_imports.get("") if isinstance(graph, ir.Graph) else None
    if opset is None:
        return "lies in a subgraph, and only in the main graph steps are written out"
    if opset < _FIRST_SCAN:
        return f"opset {opset} has no Scan that could hold the factors; 9 is the first"
    for index, what in ((1, "input weights"), (_BIAS, "biases"), (_PEEPHOLES, "peepholes")):
        value = _input(node, index)
        if value is not None and constant(value) is None:
            return f"its {what} are computed"
    directions = len(_reverse(node))
    names = node.attributes.get_strings("activations", _DEFAULTS[node.op_type] * directions)
    for name in names:
        if name.lower() not in _FUNCTIONS:
            return f"its activation {name} has parameters"
    if len(names) != len(_DEFAULTS[node.op_type]) * directions:
        return f"it has {len(names)} activations"
    return None


def read_cell(node: ir.Node) -> Cell:
    """The node taken apart; `why_not_written_out` has nothing against it."""
    attributes, op = node.attributes, node.op_type
    reverse, gates = _reverse(node), _GATES[op]
    weight = _array(_input(node, 1))
    recurrent = _array(_input(node, 2))
    assert weight is not None  # both are constants
    assert recurrent is not None
    hidden, directions = recurrent.shape[-1], len(reverse)
    bias = _array(_input(node, _BIAS))
    peepholes = _array(_input(node, _PEEPHOLES)) if op == "LSTM" else None
    names = attributes.get_strings("activations", _DEFAULTS[op] * directions)
    each = len(_DEFAULTS[op])
    found = [_FUNCTIONS[name.lower()] for name in names]
    shape = (directions, 2, gates, hidden)
    return Cell(
        node=node,
        op=op,
        hidden=hidden,
        gates=gates,
        reverse=reverse,
        functions=tuple(tuple(found[d * each : (d + 1) * each]) for d in range(directions)),
        clip=attributes.get_float("clip") if "clip" in attributes else None,
        coupled=op == "LSTM" and bool(attributes.get_int("input_forget", 0)),
        reset_after=op == "GRU" and bool(attributes.get_int("linear_before_reset", 0)),
        batch_first=bool(attributes.get_int("layout", 0)),
        weight=weight.reshape(-1, weight.shape[-1]).T,
        bias=np.zeros(shape) if bias is None else bias.astype(np.float64).reshape(shape),
        peepholes=None
        if peepholes is None
        else peepholes.astype(np.float64).reshape(directions, 3, hidden),
    )


def _reverse(node: ir.Node) -> tuple[bool, ...]:
    direction = node.attributes.get_string("direction", "forward")
    return {"forward": (False,), "reverse": (True,)}.get(direction, (False, True))


def _input(node: ir.Node, index: int) -> ir.Value | None:
    return node.inputs[index] if index < len(node.inputs) else None


def _array(value: ir.Value | None) -> npt.NDArray[np.generic] | None:
    tensor = constant(value)
    return None if tensor is None else tensor.numpy()
