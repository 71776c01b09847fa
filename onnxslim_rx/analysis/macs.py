"""Multiply-adds of a model, node by node.

One multiply-add is one product that is added to a sum. Element-wise work, normalisation, pooling
and activations count zero: on real models they are below a few percent of the products.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import onnx_ir as ir

from onnxslim_rx.analysis.native import DOMAIN, native_macs
from onnxslim_rx.analysis.shapes import Shape
from onnxslim_rx.analysis.trace import Step, trace

__all__ = ["Flops", "NodeMacs", "flops", "node_macs"]


@dataclasses.dataclass(frozen=True)
class NodeMacs:
    """Multiply-adds of one node.

    Args:
        macs: for one run of the graph that holds the node, its own bodies left out; of a node in
            a function, over all calls. None where it is not known.
        why: why it is not known.
    """

    macs: int | None
    why: str | None = None


@dataclasses.dataclass(frozen=True)
class Flops:
    """Multiply-adds of a model for one run.

    Args:
        macs: of the whole model: of the branches of an If the dearer one counts, unless the
            condition is constant; a body of Loop or Scan counts once a trip, or once where the
            number of trips depends on data. Nodes that are not known count zero.
        nodes: by node, those in bodies and functions included.
        unknown: what was left out or assumed, one sentence each.
        input_shapes: the input shapes that were used.
        assumed: sizes of symbolic dimensions that were not given, by name; batches are 1, all
            others 128.
    """

    macs: int
    nodes: Mapping[ir.Node, NodeMacs]
    unknown: tuple[str, ...]
    input_shapes: Mapping[str, tuple[int, ...]]
    assumed: Mapping[str, int]

    @property
    def flops(self) -> int:
        """Floating-point operations: two for each multiply-add."""
        return 2 * self.macs


def flops(model: ir.Model, input_shapes: Mapping[str, Sequence[int]] | None = None) -> Flops:
    """Count the multiply-adds of a model.

    Args:
        model: the model; not changed.
        input_shapes: shape by input name; symbolic sizes that are left open become 1 (batches)
            or 128 (all others).

    Raises:
        InputError: `input_shapes` contradicts the model.
    """
    steps, binding = trace(model, input_shapes)
    counter = _Counter()
    total = counter.total(steps)
    return Flops(
        total, counter.nodes, tuple(counter.unknown), dict(binding.shapes), dict(binding.assumed)
    )


class _Counter:
    def __init__(self) -> None:
        self.nodes: dict[ir.Node, NodeMacs] = {}
        self.unknown: list[str] = []

    def total(self, steps: Iterable[Step], calls: bool = False) -> int:
        return sum(self.step(step, calls) for step in steps)

    def step(self, step: Step, called: bool) -> int:
        """Multiply-adds of one step and its bodies; `called`: inside a function."""
        own = NodeMacs(0) if step.runs != "no" else node_macs(step)
        self.note(step.node, own, called)
        bodies = [self.total(body, called or step.runs == "all") for body in step.bodies]
        where = f"{step.node.op_type} {step.node.name or step.node.outputs[0].name}"
        if own.macs is None:
            self.unknown.append(f"{where}: {own.why}")
        if step.runs == "one":
            return max(bodies) if step.which is None else bodies[step.which]
        if step.runs == "times":
            if step.times is None and bodies[0]:
                self.unknown.append(f"{where}: the number of trips depends on data, counted once")
            return bodies[0] * (1 if step.times is None else step.times)
        return (own.macs or 0) + (bodies[0] if step.runs == "all" else 0)

    def note(self, node: ir.Node, own: NodeMacs, called: bool) -> None:
        before = self.nodes.get(node)
        if called and before is not None and before.macs is not None and own.macs is not None:
            own = NodeMacs(before.macs + own.macs)
        self.nodes[node] = own


class _UnknownSizeError(Exception):
    """A shape that the count needs is not known."""


def node_macs(step: Step) -> NodeMacs:
    """Multiply-adds of one node by its shapes; of its subgraphs nothing."""
    node = step.node
    count = _COUNTS.get((node.domain, node.op_type))
    if node.domain == DOMAIN:
        found = native_macs(step.filled, step.inputs)
        return NodeMacs(found, None if found is not None else "the shape of an input is not known")
    if count is None:
        if node.domain == "" and node.op_type not in _NOT_COUNTED:
            return NodeMacs(0)
        if (node.domain, node.op_type) in _ZERO or node.domain == "ai.onnx.ml":
            return NodeMacs(0)
        return NodeMacs(None, f"{node.domain or 'ai.onnx'}.{node.op_type} is not counted")
    try:
        return NodeMacs(count(step))
    except _UnknownSizeError as error:
        return NodeMacs(None, str(error))


def _sizes(shapes: Sequence[Shape | None], index: int, what: str) -> tuple[int, ...]:
    shape = shapes[index] if index < len(shapes) else None
    sizes = () if shape is None else tuple(size for size in shape if size is not None)
    if shape is None or len(sizes) != len(shape):
        raise _UnknownSizeError(f"the shape of {what} {index} is not known")
    return sizes


def _input(step: Step, index: int) -> tuple[int, ...]:
    return _sizes(step.inputs, index, "input")


def _output(step: Step) -> tuple[int, ...]:
    return _sizes(step.outputs, 0, "output")


def _conv(weight: int) -> Callable[[Step], int]:
    """Every output element sums over C/group channels and the kernel: W (M, C/group, kernel)."""
    return lambda step: math.prod(_output(step)) * math.prod(_input(step, weight)[1:])


def _conv_transpose(step: Step) -> int:
    """Every input element goes into M/group channels times the kernel, before pads crop."""
    return math.prod(_input(step, 0)) * math.prod(_input(step, 1)[1:])


def _gemm(step: Step) -> int:
    a, b = _input(step, 0), _input(step, 1)
    attributes = step.filled.attributes
    inner = a[0] if attributes.get_int("transA", 0) else a[1]
    columns = b[0] if attributes.get_int("transB", 0) else b[1]
    return math.prod(a) // max(inner, 1) * inner * columns


def _matmul(step: Step) -> int:
    a = _input(step, 0)
    inner = a[-2] if step.filled.attributes.get_int("transA", 0) and len(a) > 1 else a[-1]
    return math.prod(_output(step)) * inner


def _matmul_nbits(step: Step) -> int:
    return math.prod(_input(step, 0)) * step.filled.attributes.get_int("N", 0)


def _recurrent(step: Step) -> int:
    """Every direction multiplies each step by its W (gates * H, I) and R (gates * H, H)."""
    steps, batch, _ = _input(step, 0)
    return steps * batch * (math.prod(_input(step, 1)) + math.prod(_input(step, 2)))


def _einsum(step: Step) -> int:
    """The product of all index sizes, once for each operand after the first, if a sum is taken.

    The order of evaluation of three and more operands is the runtime's: this is the naive one.
    """
    equation = step.filled.attributes.get_string("equation", "").replace(" ", "")
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    if len(terms) < 2:
        return 0
    sizes: dict[str, int] = {}
    ellipsis = 1
    for index, term in enumerate(terms):
        shape = list(_input(step, index))
        before, dots, after = term.partition("...")
        if dots:
            free = shape[len(before) : len(shape) - len(after)]
            ellipsis = max(ellipsis, math.prod(free))
            shape = shape[: len(before)] + shape[len(shape) - len(after) :]
        for letter, size in zip(before + after, shape, strict=True):
            sizes[letter] = max(size, sizes.get(letter, 1))
    if not arrow:
        joined = "".join(terms)
        right = "".join(letter for letter in sizes if joined.count(letter) == 1)
    if set(sizes) <= set(right):
        return 0
    return math.prod(sizes.values()) * ellipsis * (len(terms) - 1)


def _attention(step: Step) -> int:
    """Q K^T and the product with V: Q (.., S, ..), K (.., T, ..), 3-D (batch, S, heads * size)
    or 4-D (batch, heads, S, size); the past adds to T.
    """  # noqa: D205
    q, v = _input(step, 0), _input(step, 2)
    if len(q) != len(v):
        raise _UnknownSizeError("Q and V are laid out differently")
    length = v[-2]
    past = 4 if step.node.domain == "" else 6
    if past < len(step.inputs) and step.node.inputs[past] is not None:
        length += _input(step, past)[-2]
    if len(q) == 4:  # every head of Q attends, also where several share K and V
        return math.prod(q[:3]) * length * (q[3] + v[3])
    value_size = v[-1]
    heads = step.filled.attributes
    shared = heads.get_int("q_num_heads", 1) // max(heads.get_int("kv_num_heads", 1), 1)
    return q[0] * q[1] * length * (q[2] + value_size * max(shared, 1))


def _attention_with_projection(step: Step) -> int:
    """com.microsoft Attention: X (batch, S, D) times W (D, Q + K + V), then attention."""
    x, weight = _input(step, 0), _input(step, 1)
    q, _, v = step.filled.attributes.get_ints("qkv_hidden_sizes", [weight[1] // 3] * 3)
    return math.prod(x) * weight[1] + x[0] * x[1] * x[1] * (q + v)


_MS = "com.microsoft"
_COUNTS: Mapping[tuple[str, str], Callable[[Step], int]] = {
    ("", "Conv"): _conv(1),
    ("", "ConvInteger"): _conv(1),
    ("", "DeformConv"): _conv(1),
    ("", "QLinearConv"): _conv(3),
    ("", "ConvTranspose"): _conv_transpose,
    ("", "Gemm"): _gemm,
    ("", "MatMul"): _matmul,
    ("", "MatMulInteger"): _matmul,
    ("", "QLinearMatMul"): _matmul,
    ("", "LSTM"): _recurrent,
    ("", "GRU"): _recurrent,
    ("", "RNN"): _recurrent,
    ("", "Einsum"): _einsum,
    ("", "Attention"): _attention,
    (_MS, "FusedConv"): _conv(1),
    (_MS, "NhwcConv"): _conv(1),
    (_MS, "FusedGemm"): _gemm,
    (_MS, "FusedMatMul"): _matmul,
    (_MS, "MatMulIntegerToFloat"): _matmul,
    (_MS, "DynamicQuantizeMatMul"): _matmul,
    (_MS, "MatMulNBits"): _matmul_nbits,
    (_MS, "DynamicQuantizeLSTM"): _recurrent,
    (_MS, "MultiHeadAttention"): _attention,
    (_MS, "Attention"): _attention_with_projection,
}
_NOT_COUNTED = {"DFT", "STFT", "SequenceMap", "Scan"}  # transforms may be fast or plain
_ZERO = {
    (_MS, op)
    for op in (
        "BiasGelu", "BiasSoftmax", "BiasSplitGelu", "DequantizeLinear", "DynamicQuantizeLinear",
        "FastGelu", "GatherBlockQuantized", "Gelu", "QLinearAdd", "QLinearAveragePool",
        "QLinearConcat", "QLinearGlobalAveragePool", "QLinearLeakyRelu", "QLinearMul",
        "QLinearSigmoid", "QLinearSoftmax", "QuantizeLinear", "QuickGelu", "RotaryEmbedding",
        "SkipLayerNormalization", "SkipSimplifiedLayerNormalization",
    )
}  # fmt: skip
