"""What a pass emitted for one layer, as a small model of its own, to be kept in a file.

The inputs of that model stand for values of the model around it, which are found again by name.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import onnx_ir as ir

from onnxslim_rx.analysis import constant_root
from onnxslim_rx.ir import bodies, digest
from onnxslim_rx.passbase import Layer

__all__ = ["Fragment", "nodes_around", "pack", "unpack", "values_around"]

Made = ir.Value | Mapping[ir.Value, ir.Value]

_ABOUT, _DIGEST = "rx.about", "rx.digest"
_IR_VERSION = 10  # holds all element types
_Place = Sequence[Any]
"""Where a value comes from: ["around", name], ["constant", index] or ["node", index, output]."""


@dataclasses.dataclass(frozen=True)
class Fragment:
    """What a pass emitted, and what is noted about it.

    Args:
        tape: nodes and constants without a graph.
        made: what `CompressionPass.apply` returned.
        about: plain data.
    """

    tape: ir.tape.Tape
    made: Made
    about: Mapping[str, Any]


def nodes_around(layer: Layer) -> list[ir.Node]:
    """The nodes of `layer`, and all others that read its weights, directly or transposed."""
    found = dict.fromkeys(layer.nodes)
    values = list(layer.weights)
    for value in values:  # which grows
        for node in dict.fromkeys(use.node for use in value.uses()):
            found[node] = None
            values += [out for out in node.outputs if constant_root(out)[0] is not None]
    return list(found)


def values_around(nodes: Sequence[ir.Node]) -> dict[str, ir.Value] | None:
    """What `nodes` read and make, by name; None where a name means two things."""
    values = {v for node in nodes for v in (*node.inputs, *node.outputs) if v is not None}
    values = {value for value in values if value.name}
    found = {str(value.name): value for value in values}
    return found if len(found) == len(values) else None


def pack(
    fragment: Fragment, around: Mapping[str, ir.Value], opsets: Mapping[str, int]
) -> ir.Model | None:
    """A model that holds `fragment`; None where it reads or replaces what is not in `around`.

    Args:
        fragment: stays as it is.
        around: values of the model that the fragment was made for, by name.
        opsets: of that model.
    """
    tape, names = fragment.tape, {value: name for name, value in around.items()}
    places: dict[ir.Value, _Place] = {v: ["around", name] for v, name in names.items()}
    places |= _places(tape)
    read = [value for node in tape.nodes for value in node.inputs if value is not None]
    named = _named(fragment.made)
    if not places.keys() >= {*read, *(value for pair in named for value in pair)}:
        return None
    constants = {value.name for value in tape.initializers}
    if len(constants) < len(tape.initializers) or any(bodies(node) for node in tape.nodes):
        return None
    inputs = [value for value in dict.fromkeys(read) if value in names]
    about = {
        "inputs": [names[value] for value in inputs],
        # a graph gives names to what has none
        "names": [[node.name, *(value.name for value in node.outputs)] for node in tape.nodes],
        "made": [[places[value] for value in pair] for pair in named],
        "about": fragment.about,
    }
    model = ir.Model(_graph(tape, inputs, opsets), ir_version=_IR_VERSION)
    model.metadata_props[_ABOUT] = json.dumps(about)
    model.metadata_props[_DIGEST] = digest(model)
    return model


def unpack(model: ir.Model, around: Mapping[str, ir.Value]) -> Fragment | None:
    """The fragment that `pack` made a model of; None where the model is damaged.

    Args:
        model: as `pack` returned it, or saved and loaded since; used up.
        around: values of the model that the fragment is meant for, by name.
    """
    with contextlib.suppress(KeyError, IndexError, TypeError, ValueError, AttributeError):
        if model.metadata_props.pop(_DIGEST) != digest(model):
            return None
        about = json.loads(model.metadata_props[_ABOUT])
        tape, values = ir.tape.Tape(), {}
        for value, name in zip(model.graph.inputs, about["inputs"], strict=True):
            values[value] = around[name]
        for value in model.graph.initializers.values():
            assert value.const_value is not None  # `pack` takes constants from tapes
            values[value] = tape.initializer(value.const_value, name=value.name)
        for node, names in zip(model.graph, about["names"], strict=True):
            inputs = [None if value is None else values[value] for value in node.inputs]
            values.update(zip(node.outputs, _copy(node, names, inputs, tape), strict=True))
        pairs = [tuple(_at(place, tape, around) for place in pair) for pair in about["made"]]
        made: Made = pairs[0][0] if len(pairs[0]) == 1 else {pair[0]: pair[1] for pair in pairs}
        return Fragment(tape, made, about["about"])
    return None


def _named(made: Made) -> list[tuple[ir.Value, ...]]:
    """What is made, alone; or pairs of what it takes the place of, and what is made."""
    return list(made.items()) if isinstance(made, Mapping) else [(made,)]


def _places(tape: ir.tape.Tape) -> dict[ir.Value, _Place]:
    """Where each value that is on the tape comes from."""
    found: dict[ir.Value, _Place] = {
        value: ["constant", index] for index, value in enumerate(tape.initializers)
    }
    for index, node in enumerate(tape.nodes):
        found |= {value: ["node", index, place] for place, value in enumerate(node.outputs)}
    return found


def _at(place: _Place, tape: ir.tape.Tape, around: Mapping[str, ir.Value]) -> ir.Value:
    kind, first, *rest = place
    if kind == "around":
        return around[first]
    return tape.initializers[first] if kind == "constant" else tape.nodes[first].outputs[rest[0]]


def _graph(tape: ir.tape.Tape, inputs: Sequence[ir.Value], opsets: Mapping[str, int]) -> ir.Graph:
    """A graph with copies of what is on the tape, under names that no constant has."""
    imports = {"": 1} | dict(opsets)
    for node in tape.nodes:
        imports.setdefault(node.domain, node.version or 1)
    view = ir.GraphView(
        inputs,
        (),
        nodes=tape.nodes,
        initializers=tape.initializers,
        opset_imports=imports,
        name="fragment",
    )
    graph = view.clone()
    for index, value in enumerate(graph.inputs):
        value.name = f"rx:{index}"
    for index, node in enumerate(graph):
        for place, value in enumerate(node.outputs):
            value.name = f"rx:{index}:{place}"
    return graph


def _copy(
    node: ir.Node,
    names: Sequence[str | None],
    inputs: Sequence[ir.Value | None],
    tape: ir.tape.Tape,
) -> Sequence[ir.Value]:
    """The outputs of a node on `tape` that does what `node` does.

    `names`: of the new node and its outputs.
    """
    outputs = [
        ir.Value(name=name, type=old.type, shape=old.shape)
        for name, old in zip(names[1:], node.outputs, strict=True)
    ]
    return tape.op_multi_out(
        node.op_type,
        inputs,
        dict(node.attributes),
        outputs=outputs,
        domain=node.domain,
        overload=node.overload,
        name=names[0],
        doc_string=node.doc_string,
        metadata_props=dict(node.metadata_props),
    )
