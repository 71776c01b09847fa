"""Which constant weights does which node read, and can they be compressed?

A weight may lie in an initializer or in a Constant node, in any graph or function, and may reach
its reader through `Identity`, `Transpose`, `Reshape`, `Cast` or `DequantizeLinear`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import onnx_ir as ir

from onnxslim_rx.analysis.native import DOMAIN
from onnxslim_rx.ir import constant, nodes

__all__ = ["WeightKind", "WeightUse", "constant_root", "weight_uses"]

WeightKind = Literal[
    "linear",  # MatMul or Gemm whose right side is a constant matrix
    "linear-left",  # MatMul or Gemm whose left side is a constant matrix
    "linear-batched",  # MatMul with a constant of rank 3 or more
    "conv",
    "conv-transpose",
    "embedding",  # Gather of rows
    "recurrent",  # W or R of LSTM, GRU, RNN
    "other",
]

_MS = "com.microsoft"
# (domain, operator) -> {weight input: (kind, activation input)}
_LAYERS: Mapping[tuple[str, str], Mapping[int, tuple[WeightKind, int | None]]] = {
    ("", "MatMul"): {1: ("linear", 0), 0: ("linear-left", 1)},
    ("", "Gemm"): {1: ("linear", 0), 0: ("linear-left", 1)},
    ("", "Conv"): {1: ("conv", 0)},
    ("", "ConvTranspose"): {1: ("conv-transpose", 0)},
    ("", "Gather"): {0: ("embedding", 1)},
    ("", "LSTM"): {1: ("recurrent", 0), 2: ("recurrent", 0)},
    ("", "GRU"): {1: ("recurrent", 0), 2: ("recurrent", 0)},
    ("", "RNN"): {1: ("recurrent", 0), 2: ("recurrent", 0)},
}
# Operators that take integer weights: listed, so that inspection shows them, never compressible.
_QUANTIZED: Mapping[tuple[str, str], Mapping[int, tuple[WeightKind, int | None]]] = {
    ("", "MatMulInteger"): {1: ("linear", 0)},
    ("", "QLinearMatMul"): {3: ("linear", 0)},
    ("", "ConvInteger"): {1: ("conv", 0)},
    ("", "QLinearConv"): {3: ("conv", 0)},
    (_MS, "MatMulNBits"): {1: ("linear", 0)},
    (_MS, "MatMulIntegerToFloat"): {1: ("linear", 0)},
    (_MS, "DynamicQuantizeMatMul"): {1: ("linear", 0)},
    (_MS, "DynamicQuantizeLSTM"): {1: ("recurrent", 0), 2: ("recurrent", 0)},
    (_MS, "GatherBlockQuantized"): {0: ("embedding", 1)},
    (_MS, "QAttention"): {1: ("linear", 0)},
    (_MS, "QGemm"): {3: ("linear", 0)},
    (DOMAIN, "QuantMatMul"): {1: ("linear", 0)},
    (DOMAIN, "QuantGather"): {0: ("embedding", 1)},
    (DOMAIN, "QuantConv"): {1: ("conv", 0)},
}
_FACTORED: Mapping[tuple[str, str], Mapping[int, tuple[WeightKind, int | None]]] = {
    (DOMAIN, "LowRankMatMul"): {1: ("linear", 0), 2: ("linear", 0)},
    (DOMAIN, "ConvChain"): dict.fromkeys(range(2, 8), ("conv", 0)),
}
_OPERATORS = {**_LAYERS, **_QUANTIZED, **_FACTORED}
_OTHER: tuple[WeightKind, int | None] = ("other", None)
_THROUGH = {"Identity", "Transpose", "Reshape", "Cast", "DequantizeLinear"}
_FLOATS = {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE}


@dataclasses.dataclass(frozen=True, eq=False)
class WeightUse:
    """One constant tensor as one input of one node.

    Args:
        node: the node that reads the weight.
        index: which input of `node` it is.
        kind: what the weight is to the node; biases and all the rest are "other".
        weight: `node.inputs[index]`. It is itself the constant unless `through` is not empty.
        tensor: the constant as stored, that is before the nodes in `through`.
        graph: the graph or function that holds `node`; compare with `model.graph` to see whether
            the node lies in a subgraph.
        users: every node that reads the constant, directly or through other nodes, in the order
            of the model; a node that reads it twice is listed twice.
        why_not: why the weight cannot be compressed, or None. None implies a floating-point
            weight that is a direct input of the node, is read by nodes of the same operator and
            kind only, and cannot be seen or overridden from outside the model.
        activation_index: which input of `node` carries the activations (for an embedding: the
            indices); None for the kind "other".
        through: nodes between the constant and `node`, from the node upwards.
    """

    node: ir.Node
    index: int
    kind: WeightKind
    weight: ir.Value
    tensor: ir.TensorProtocol
    graph: ir.Graph | ir.Function
    users: tuple[ir.Node, ...]
    why_not: str | None
    activation_index: int | None
    through: tuple[ir.Node, ...] = ()

    @property
    def compressible(self) -> bool:
        """Whether nothing speaks against compressing the weight."""
        return self.why_not is None


@dataclasses.dataclass(frozen=True, eq=False)
class _Read:
    """A node reads a constant; the first half of a `WeightUse`."""

    node: ir.Node
    index: int
    kind: WeightKind
    activation_index: int | None
    root: ir.Value
    through: tuple[ir.Node, ...]

    @property
    def role(self) -> tuple[str, WeightKind]:
        return self.node.op_type, self.kind


def constant_root(value: ir.Value | None) -> tuple[ir.Value | None, tuple[ir.Node, ...]]:
    """The stored tensor behind a value, and the nodes between them.

    Looks through `Identity`, `Transpose`, `Reshape`, `Cast`, `DequantizeLinear` and the scaling of
    a cast integer weight (`Mul(Cast(int), scale)`).

    Returns:
        The value of the initializer (also of one that is a graph input, so can be overridden) or
        of the Constant node, and the nodes passed on the way up; (None, ()) where the value is
        computed from activations.
    """
    through: list[ir.Node] = []
    while value is not None and not value.is_initializer():
        node = value.producer()
        if node is None:
            return None, ()
        if node.op_type == "Constant" and node.domain == "":
            break
        following = _look_through(node)
        if following is None:
            return None, ()
        through.append(node)
        value = following
    return value, tuple(through)


def _look_through(node: ir.Node) -> ir.Value | None:
    """The input of `node` that carries a weight, or None where it is not a mere wrapper."""
    if node.domain != "":
        return None
    if node.op_type in _THROUGH:
        return node.inputs[0]
    if node.op_type == "Mul":
        for value, scale in (node.inputs, node.inputs[::-1]):
            cast = value.producer() if value is not None else None
            if cast is None or cast.op_type != "Cast" or constant(scale) is None:
                continue
            stored = constant(cast.inputs[0])
            if stored is not None and stored.dtype.is_integer():
                return value
    return None


def weight_uses(
    model: ir.Model, *, min_elements: int = 1024, depthwise: bool = False
) -> list[WeightUse]:
    """Every use of every constant tensor, in the order of the model's nodes.

    Args:
        model: the model; not changed.
        min_elements: smaller weights are listed with the reason that they are too small.
        depthwise: whether depthwise kernels are weights like others; as a rule nothing is gained
            where each filter reads one channel.

    Returns:
        One entry for each pair of node and input that a constant tensor reaches. Nodes that
        only pass a constant on are not listed as its readers.
    """
    reads = list(_reads(model))
    readers: dict[ir.Value, list[_Read]] = {}
    for read in reads:
        readers.setdefault(read.root, []).append(read)
    in_functions = {node for f in model.functions.values() for node in f.all_nodes()}
    uses = []
    for read in reads:
        tensor = read.root.const_value if read.root.is_initializer() else constant(read.root)
        weight, graph = read.node.inputs[read.index], read.node.graph
        if tensor is None:  # a Constant node without a dense tensor
            continue
        assert weight is not None  # the weight was found by following this input,
        assert graph is not None  # the node by walking its graph
        why_not = (
            _why_not_operator(read)
            or _why_not_tensor(read, tensor, min_elements, depthwise)
            or _why_not_wrapped(read)
            or _why_not_sharing(read, readers[read.root])
            or ("lies in a function" if read.node in in_functions else None)
        )
        uses.append(
            WeightUse(
                node=read.node,
                index=read.index,
                kind=_kind(read, len(tensor.shape)),
                weight=weight,
                tensor=tensor,
                graph=graph,
                users=tuple(other.node for other in readers[read.root]),
                why_not=why_not,
                activation_index=read.activation_index,
                through=read.through,
            )
        )
    return uses


def _reads(model: ir.Model) -> Iterator[_Read]:
    """Every (node, input) that a constant reaches, less the nodes that merely pass it on."""
    found = []
    for node in nodes(model):
        for index, value in enumerate(node.inputs):
            root, through = constant_root(value)
            if root is not None:
                found.append((node, index, root, through))
    passing = {node for _, _, _, through in found for node in through}
    for node, index, root, through in found:
        if node in passing:
            continue
        roles = _OPERATORS.get((node.domain, node.op_type), {})
        kind, activation = roles.get(index, _OTHER)
        yield _Read(node, index, kind, activation, root, through)


def _kind(read: _Read, rank: int) -> WeightKind:
    if read.node.op_type == "MatMul" and read.node.domain == "" and rank > 2:
        return "linear-batched"
    return read.kind


def _why_not_operator(read: _Read) -> str | None:
    """The node has no place for a compressed weight."""
    node, op = read.node, read.node.op_type
    if (node.domain, op) in _QUANTIZED and read.kind != "other":
        return "already quantized"
    if (node.domain, op) in _FACTORED and read.kind != "other":
        return "is a factor of a native operator"
    if read.kind == "other":
        return f"input {read.index} of {op} is not a weight matrix or kernel"
    assert read.activation_index is not None  # every kind but "other" has one
    activation = node.inputs[read.activation_index]
    if activation is None or constant_root(activation)[0] is not None:
        return "all inputs are constants: folds away"
    if op == "Gather" and node.attributes.get_int("axis", 0) != 0:
        return "gathers along an axis other than 0"
    return None


def _why_not_tensor(
    read: _Read, tensor: ir.TensorProtocol, min_elements: int, depthwise: bool
) -> str | None:
    """The stored tensor is of the wrong type, rank or size."""
    shape, dtype = tensor.shape.numpy(), tensor.dtype
    if read.through and dtype.is_integer():
        return "already quantized"
    if dtype not in _FLOATS:
        return f"is of type {dtype.name}"
    least = {"linear": 2, "linear-left": 2, "embedding": 2}.get(read.kind, 3)
    if len(shape) < least or (read.kind == "embedding" and len(shape) != least):
        return f"has rank {len(shape)}"
    if tensor.size < min_elements:
        return f"has {tensor.size} elements, below {min_elements}"
    # Conv holds (M, C/group, ...), ConvTranspose (C, M/group, ...): 1 means one channel a filter
    groups = read.node.attributes.get_int("group", 1)
    is_kernel = read.kind in ("conv", "conv-transpose")
    if is_kernel and shape[1] == 1 and groups > 1 and not depthwise:
        return "is a depthwise kernel"
    return None


def _why_not_wrapped(read: _Read) -> str | None:
    if read.through:
        return f"reaches {read.node.op_type} through {read.through[0].op_type}: simplify first"
    return None


def _why_not_sharing(read: _Read, together: Sequence[_Read]) -> str | None:
    """Someone else sees the tensor, or may replace it."""
    if read.root.is_graph_input():
        return "is also a graph input, so callers may override it"
    if read.root.is_graph_output():
        return "is also a graph output"
    others = [o for o in together if (o.role, o.through) != (read.role, ())]
    if others:
        return "is shared with " + ", ".join(
            sorted({f"{o.role[0]} input {o.index}" for o in others})
        )
    return None
