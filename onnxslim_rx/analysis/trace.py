"""Walk through a model with inputs of known sizes, and note the shapes at every node.

Node by node: ONNX's own inference gives shapes, ONNX's reference implementation evaluates what
depends on shapes and small constants alone (the arithmetic in front of Reshape, Expand, Slice),
so that sizes stay numbers where inference of the whole graph loses them. Bodies of If, Loop, Scan
and functions are walked where they are used.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np
import onnx
import onnx_ir as ir

from onnxslim_rx.analysis.contrib import contrib_shape
from onnxslim_rx.analysis.known import UNKNOWN, Known, infer, merge, slice_of, stack, tensor_type
from onnxslim_rx.analysis.shapes import Binding, Shape, bind
from onnxslim_rx.ir import constant

__all__ = ["Step", "concrete_shapes", "trace"]

Runs = Literal["no", "all", "one", "times"]


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """One node, as it runs.

    Args:
        node: the node.
        filled: where to look for attributes: `node`, or in a function a detached copy of it that
            has the attributes of the call filled in.
        inputs: shapes of the inputs; None where absent, of unknown rank, or no tensor.
        outputs: shapes of the outputs, likewise.
        bodies: the steps of the node's subgraphs or of the function that it calls.
        runs: which bodies run: "all" (a call), "one" of them (If), the only one several "times"
            (Loop, Scan); "no" where there is none, or nothing is known of the operator.
        which: for "one", the index of the body that runs; None where it depends on data.
        times: for "times", how often at most; None where it depends on data.
    """

    node: ir.Node
    filled: ir.Node
    inputs: tuple[Shape | None, ...]
    outputs: tuple[Shape | None, ...]
    bodies: tuple[tuple[Step, ...], ...] = ()
    runs: Runs = "no"
    which: int | None = None
    times: int | None = None


def trace(
    model: ir.Model, input_shapes: Mapping[str, Sequence[int]] | None = None
) -> tuple[tuple[Step, ...], Binding]:
    """The steps of the main graph, and the sizes that were used for its inputs.

    Args:
        model: the model; not changed.
        input_shapes: see `bind`.

    Raises:
        InputError: `input_shapes` contradicts the model.
    """
    tracer = _Tracer(model, bind(model, input_shapes))
    return tracer.graph(model.graph), tracer.binding


def concrete_shapes(
    model: ir.Model, input_shapes: Mapping[str, Sequence[int]] | None = None
) -> dict[str, Shape | None]:
    """Shapes by name of the values of the main graph and its subgraphs, for inputs of such sizes.

    A shape is None where the rank is unknown or the value is no tensor, a size None where it
    depends on data. Arguments and errors as `trace`.
    """
    tracer = _Tracer(model, bind(model, input_shapes))
    tracer.graph(model.graph)
    inside = set(model.graphs())
    return {v.name: k.shape for v, k in tracer.known.items() if v.name and v.graph in inside}


class _Tracer:
    def __init__(self, model: ir.Model, binding: Binding) -> None:
        self.model = model
        self.binding = binding
        self.known: dict[ir.Value, Known] = {}
        self.opsets: Mapping[str, int] = model.graph.opset_imports
        self.attributes: Mapping[str, ir.Attr] = {}  # of the function call that is walked
        for value in model.graph.inputs:
            shape = binding.shapes.get(value.name or "")
            if shape is not None:
                self.known[value] = Known(tensor_type(value.dtype, shape))

    def graph(self, nodes: Iterable[ir.Node]) -> tuple[Step, ...]:
        return tuple(self.step(node) for node in nodes)

    def get(self, value: ir.Value | None) -> Known:
        if value is None:
            return UNKNOWN
        if value not in self.known:
            # an initializer that is a graph input too is taken at its default
            tensor = value.const_value if value.is_initializer() else constant(value)
            self.known[value] = self.declared(value) if tensor is None else Known.tensor(tensor)
        return self.known[value]

    def declared(self, value: ir.Value) -> Known:
        """What the model itself states, with sizes for its symbols."""
        if value.shape is None:
            return Known(tensor_type(value.dtype, None))
        symbols = self.binding.symbols
        sizes = (d if isinstance(d, int) else symbols.get(str(d.value)) for d in value.shape)
        return Known(tensor_type(value.dtype, tuple(sizes)))

    def set(self, value: ir.Value, known: Known) -> None:
        """Note what was found; sizes that were not found are as the model states."""
        shape, stated = known.shape, self.declared(value)
        if shape is None:
            known = stated if stated.shape is not None or known == UNKNOWN else known
        elif None in shape and stated.shape is not None and len(stated.shape) == len(shape):
            sizes = tuple(s if f is None else f for f, s in zip(shape, stated.shape, strict=True))
            known = Known(tensor_type(known.dtype, sizes), known.data)
        self.known[value] = known

    def step(self, node: ir.Node) -> Step:
        """Walk one node: note what is known of its outputs."""
        function = self.model.functions.get(node.op_identifier())
        if function is not None:
            return self.call(node, function)
        walk = {"If": self.branch, "Loop": self.loop, "Scan": self.scan}.get(node.op_type)
        old_scan = node.op_type == "Scan" and self.opsets.get("", 1) < 9  # with a batch axis
        if walk is not None and node.domain == "" and not old_scan:
            return walk(node)
        if node.op_type != "Constant" or node.domain != "" or _refers(node):
            for value, known in zip(node.outputs, self.infer(node), strict=True):
                self.set(value, known)
        return self.record(node)

    def record(
        self,
        node: ir.Node,
        bodies: tuple[tuple[Step, ...], ...] = (),
        runs: Runs = "no",
        which: int | None = None,
        times: int | None = None,
    ) -> Step:
        inputs = tuple(self.get(value).shape for value in node.inputs)
        outputs = tuple(self.get(value).shape for value in node.outputs)
        return Step(node, self.filled(node), inputs, outputs, bodies, runs, which, times)

    def infer(self, node: ir.Node) -> list[Known]:
        filled = self.filled(node)
        inputs = [self.get(value) for value in node.inputs]
        opset = self.opsets.get(node.domain, 1)
        if node.op_type in ("Shape", "Size") and node.domain == "":
            return [_shape_of(filled, inputs[0])]
        if onnx.defs.has(node.op_type, opset, node.domain):
            proto = ir.serde.serialize_node(filled)
            proto.ClearField("input")
            proto.input.extend("" if v is None else f"i{i}" for i, v in enumerate(node.inputs))
            proto.ClearField("output")
            proto.output.extend(f"o{i}" for i in range(len(node.outputs)))
            return infer(proto, opset, inputs)
        shape = contrib_shape(filled, inputs)
        dtype = node.outputs[0].dtype or (inputs[0].dtype if inputs else None)
        first = UNKNOWN if shape is None else Known(tensor_type(dtype, shape))
        return [first] + [UNKNOWN] * (len(node.outputs) - 1)

    def filled(self, node: ir.Node) -> ir.Node:
        """The node, or a detached one with the attributes of the function call filled in."""
        if not _refers(node):
            return node
        given = []
        for name, attribute in node.attributes.items():
            source = attribute.ref_attr_name
            found = attribute if source is None else self.attributes.get(source)
            if found is not None:
                given.append(ir.Attr(name, found.type, found.value))
        return ir.Node(node.domain, node.op_type, [], given, num_outputs=len(node.outputs))

    def call(self, node: ir.Node, function: ir.Function) -> Step:
        """Walk the function that the node calls."""
        opsets, attributes = self.opsets, self.attributes
        given = {n: a for n, a in function.attributes.items() if a.value is not None}
        given.update(self.filled(node).attributes)
        arguments = [self.get(value) for value in node.inputs]
        arguments += [UNKNOWN] * (len(function.inputs) - len(arguments))
        self.known.update(zip(function.inputs, arguments, strict=False))
        for inner in function.all_nodes():  # what an earlier call found does not hold here
            for value in inner.outputs:
                self.known.pop(value, None)
        self.opsets, self.attributes = function.opset_imports, given
        try:
            body = self.graph(function)
        finally:
            self.opsets, self.attributes = opsets, attributes
        for value, result in zip(node.outputs, function.outputs, strict=False):
            self.set(value, self.get(result))
        return self.record(node, (body,), "all")

    def branch(self, node: ir.Node) -> Step:
        """Walk both branches of an If."""
        graphs = [node.attributes[n].as_graph() for n in ("then_branch", "else_branch")]
        bodies = tuple(self.graph(graph) for graph in graphs)
        condition = self.get(node.inputs[0]).data
        which = None if condition is None else int(not condition.all())
        results = [[self.get(value) for value in graph.outputs] for graph in graphs]
        for value, then, other in zip(node.outputs, *results, strict=True):
            self.set(value, merge(then, other) if which is None else (then, other)[which])
        return self.record(node, bodies, "one", which=which)

    def loop(self, node: ir.Node) -> Step:
        """Walk the body of a Loop, with sizes that hold in every trip."""
        body = node.attributes["body"].as_graph()
        limit = self.get(node.inputs[0]).data
        times = None if limit is None else max(int(limit.item()), 0)
        state = [Known(self.get(value).type) for value in node.inputs[2:]]
        control = [
            Known(tensor_type(ir.DataType.INT64, ())),
            Known(tensor_type(ir.DataType.BOOL, ())),
        ]
        steps, state, rest = self.repeat(body, control, state, [], skip=1)
        stacked = [stack(known, times, 0) for known in rest]
        for value, known in zip(node.outputs, [*state, *stacked], strict=True):
            self.set(value, known)
        return self.record(node, (steps,), "times", times=times)

    def scan(self, node: ir.Node) -> Step:
        """Walk the body of a Scan, with sizes that hold in every trip."""
        body = node.attributes["body"].as_graph()
        inputs = [self.get(value) for value in node.inputs]
        first = len(inputs) - node.attributes.get_int("num_scan_inputs", 0)
        axes = node.attributes.get_ints("scan_input_axes", [0] * (len(inputs) - first))
        pairs = list(zip(inputs[first:], axes, strict=True))
        lengths = {k.shape[axis] for k, axis in pairs if k.shape is not None}
        times = lengths.pop() if len(lengths) == 1 else None
        slices = [slice_of(known, axis) for known, axis in pairs]
        state = [Known(known.type) for known in inputs[:first]]
        steps, state, rest = self.repeat(body, [], state, slices, skip=0)
        out_axes = node.attributes.get_ints("scan_output_axes", [0] * len(rest))
        stacked = [stack(k, times, axis) for k, axis in zip(rest, out_axes, strict=True)]
        for value, known in zip(node.outputs, [*state, *stacked], strict=True):
            self.set(value, known)
        return self.record(node, (steps,), "times", times=times)

    def repeat(
        self, body: ir.Graph, control: list[Known], state: list[Known], more: list[Known], skip: int
    ) -> tuple[tuple[Step, ...], list[Known], list[Known]]:
        """Walk a body until the shapes of its state hold for every trip.

        Returns:
            Its steps, its state afterwards, and its other outputs.
        """
        while True:
            for value, known in zip(body.inputs, [*control, *state, *more], strict=True):
                self.known[value] = known
            steps = self.graph(body)
            results = [Known(self.get(value).type) for value in body.outputs[skip:]]
            after = [merge(a, b) for a, b in zip(state, results, strict=False)]
            if after == state:
                return steps, state, results[len(state) :]
            state = after  # sizes only ever turn unknown, so this ends


def _refers(node: ir.Node) -> bool:
    """Whether the node takes attributes from the call of the function that it lies in."""
    return any(attribute.is_ref() for attribute in node.attributes.values())


def _shape_of(node: ir.Node, known: Known) -> Known:
    """Output of Shape or Size."""
    if known.shape is None:
        rank: Shape = (None,) if node.op_type == "Shape" else ()
        return Known(tensor_type(ir.DataType.INT64, rank))
    sizes = known.shape
    if node.op_type == "Shape":
        start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", len(sizes))
        sizes = sizes[start:end]
    data = None if None in sizes else np.array(sizes, np.int64)
    if node.op_type == "Size":
        return Known(tensor_type(ir.DataType.INT64, ()), None if data is None else data.prod())
    return Known(tensor_type(ir.DataType.INT64, (len(sizes),)), data)
