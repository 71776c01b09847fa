"""Checks of a model's structure, on the protobuf, before anything is built from it.

Cheap on purpose: names, versions and operators, never the data of weights. What the types and
shapes of values are is left to ONNX Runtime, which must load every model anyway.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping

import onnx

from onnxslim_rx.errors import InputError
from onnxslim_rx.ir.invalid import invalid
from onnxslim_rx.ir.names import Body, bodies, check_names
from onnxslim_rx.ir.operators import check_operator, plain_domain
from onnxslim_rx.ir.text import check_text

__all__ = ["check_structure"]

FunctionId = tuple[str, str, str]


def check_structure(model: onnx.ModelProto) -> bool:
    """Check versions, operators, names and references of a model.

    Returns:
        Whether the nodes of all graphs are in topological order.

    Raises:
        InputError: the model is not valid, or holds what cannot be kept (see `_refuse_unheld`).
    """
    if not model.HasField("graph"):
        raise invalid("the model has no graph", expected="an ONNX model")
    check_text(model)
    _refuse_unheld(model)
    functions = {_identifier(function): function for function in model.functions}
    if len(functions) != len(model.functions):
        raise invalid("the model defines a function twice")
    _check_recursion(functions)
    _check_ir_version(model)
    is_sorted = True
    for body, entries in [
        (model.graph, model.opset_import),
        *((function, function.opset_import) for function in model.functions),
    ]:
        imports = _imports(entries)

        def visit(node: onnx.NodeProto, imports: Mapping[str, int] = imports) -> None:
            if _called(node) not in functions:
                check_operator(node, imports)

        is_sorted &= check_names(body, visit)
    return is_sorted


def _check_ir_version(model: onnx.ModelProto) -> None:
    if not 1 <= model.ir_version <= onnx.IR_VERSION:
        raise invalid(
            f"the model has IR version {model.ir_version}",
            expected=f"1 to {onnx.IR_VERSION}, which onnx {onnx.__version__} knows",
            advice="update onnx, or export the model for an older version",
        )


def _imports(entries: Iterable[onnx.OperatorSetIdProto]) -> dict[str, int]:
    """Version by domain, checked."""
    imports: dict[str, int] = {}
    known = _known_versions()
    for entry in entries:
        domain, version = plain_domain(entry.domain), entry.version
        newest = known.get(domain)
        if newest is not None and not 1 <= version <= newest:
            raise invalid(
                f"the model uses opset {version} of {domain or 'ai.onnx'}",
                expected=f"1 to {newest}, which onnx {onnx.__version__} knows",
                advice="update onnx, or export the model for an older opset",
            )
        if imports.setdefault(domain, version) != version:
            raise invalid(
                f"the model uses opsets {imports[domain]} and {version} of {domain or 'ai.onnx'}",
                expected="one version of each domain",
            )
    if not imports:
        raise invalid(
            "the model does not state its opset",
            expected="an opset import, such as ai.onnx 17",
        )
    return imports


@functools.cache
def _known_versions() -> dict[str, int]:
    """Newest opset of each domain that the installed onnx defines."""
    return {domain: newest for domain, (_, newest) in onnx.defs.C.schema_version_map().items()}


def _refuse_unheld(model: onnx.ModelProto) -> None:
    """Refuse what onnx_ir cannot hold; losing it would change the model."""
    if model.training_info:
        raise InputError(
            "the model has training information",
            expected="a model for inference",
            advice="export it for inference",
        )
    for body in (model.graph, *model.functions):
        if name := next(_sparse(body), None):
            raise InputError(
                f"the model has a sparse tensor, {name!r}",
                expected="dense tensors",
                advice="export it with dense ones, or convert them with onnx",
            )


def _sparse(body: Body) -> Iterator[str]:
    """Names of the sparse tensors, or of the attributes that hold them."""
    if isinstance(body, onnx.GraphProto):
        yield from (tensor.values.name for tensor in body.sparse_initializer)
    for node in body.node:
        for attribute in node.attribute:
            if attribute.HasField("sparse_tensor") or attribute.sparse_tensors:
                yield attribute.name
        for inner in bodies(node):
            yield from _sparse(inner)


def _identifier(function: onnx.FunctionProto) -> FunctionId:
    return plain_domain(function.domain), function.name, function.overload


def _called(node: onnx.NodeProto) -> FunctionId:
    return plain_domain(node.domain), node.op_type, node.overload


def _all_nodes(body: Body) -> Iterator[onnx.NodeProto]:
    for node in body.node:
        yield node
        for inner in bodies(node):
            yield from _all_nodes(inner)


def _check_recursion(functions: Mapping[FunctionId, onnx.FunctionProto]) -> None:
    calls = {
        name: {_called(node) for node in _all_nodes(function)} & set(functions)
        for name, function in functions.items()
    }
    while leaves := [name for name, callees in calls.items() if not callees & set(calls)]:
        for name in leaves:
            del calls[name]
    if calls:
        raise invalid(
            f"functions of the model call themselves: {', '.join(name for _, name, _ in calls)}",
            expected="no recursion, which ONNX does not allow",
        )
