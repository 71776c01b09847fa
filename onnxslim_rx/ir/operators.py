"""Checks of nodes against the operators that ONNX defines."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import onnx

from onnxslim_rx.ir.invalid import invalid

__all__ = ["ONNX_DOMAINS", "check_operator", "describe", "plain_domain"]

ONNX_DOMAINS = ("", "ai.onnx.ml", "ai.onnx.preview", "ai.onnx.preview.training", "ai.onnx.training")

# ONNX Runtime registers these in the ai.onnx domain too, and its exporters and older tools
# write them (its onnxruntime/core/graph/contrib_ops/contrib_defs.cc)
_RUNTIME_OPERATORS = frozenset(
    {
        "Affine",
        "Crop",
        "DynamicSlice",
        "GRUUnit",
        "GivenTensorFill",
        "ImageScaler",
        "LayerNormalization",
        "MeanVarianceNormalization",
        "ParametricSoftplus",
        "Scale",
        "ScaledTanh",
        "SimplifiedLayerNormalization",
        "ThresholdedRelu",
    }
)

_TREES = ("TreeEnsembleClassifier", "TreeEnsembleRegressor")

Schema = onnx.defs.OpSchema


def plain_domain(domain: str) -> str:
    """The domain as nodes are compared: "ai.onnx" is another name of ""."""
    return "" if domain == "ai.onnx" else domain


def describe(node: onnx.NodeProto) -> str:
    """How messages name a node: by its name, or else by its first output."""
    if node.name:
        return f"node {node.name!r} ({node.op_type})"
    return f"the {node.op_type} that makes {next(filter(None, node.output), 'nothing')!r}"


@functools.lru_cache(maxsize=4096)
def _schema(op_type: str, version: int, domain: str) -> Schema | None:
    try:
        return onnx.defs.get_schema(op_type, version, domain)
    except onnx.defs.SchemaError:
        return None


def check_operator(node: onnx.NodeProto, opset_imports: Mapping[str, int]) -> None:
    """Check that the operator of `node` exists, and is given what it asks for.

    Operators of custom domains are taken as they are.

    Raises:
        InputError: the operator is unknown or withdrawn in its opset, or has too few or too many
            inputs or outputs, or an attribute that is missing, unknown or of the wrong type.
    """
    domain = plain_domain(node.domain)
    if domain not in ONNX_DOMAINS:
        return
    if domain not in opset_imports:
        raise invalid(
            f"{describe(node)} belongs to {domain or 'ai.onnx'}, whose version the model does not "
            "state",
            expected="an opset import of this domain",
        )
    version = opset_imports[domain]
    schema = _schema(node.op_type, version, domain)
    if schema is None and domain == "" and node.op_type in _RUNTIME_OPERATORS:
        return
    if schema is None or schema.deprecated:
        what = "is unknown" if schema is None else "was withdrawn"
        raise invalid(
            f"{describe(node)}: the operator {what} in opset {version} of {domain or 'ai.onnx'}",
            advice="check the name, or give the operator its own domain if it is a custom one",
        )
    _check_arity(node, schema)
    _check_attributes(node, schema)
    if domain == "ai.onnx.ml" and node.op_type in _TREES:
        _check_trees(node)


def _check_arity(node: onnx.NodeProto, schema: Schema) -> None:
    for what, found, least, most in (
        ("inputs", len(node.input), schema.min_input, schema.max_input),
        ("outputs", len(node.output), schema.min_output, schema.max_output),
    ):
        if not least <= found <= most:
            expected = str(least) if least == most else f"{least} to {most}"
            raise invalid(f"{describe(node)} has {found} {what}", expected=expected)
    for name, formal in zip(node.input, schema.inputs, strict=False):
        if not name and formal.option == Schema.FormalParameterOption.Single:
            raise invalid(f"{describe(node)} lacks its input {formal.name!r}")


def _check_attributes(node: onnx.NodeProto, schema: Schema) -> None:
    given = {attribute.name: attribute for attribute in node.attribute}
    if len(given) != len(node.attribute):
        raise invalid(f"{describe(node)} has an attribute twice")
    for name, formal in schema.attributes.items():
        if formal.required and name not in given:
            raise invalid(f"{describe(node)} lacks the attribute {name!r}")
    for name, attribute in given.items():
        if name not in schema.attributes:
            raise invalid(
                f"{describe(node)} has an attribute {name!r}",
                expected="one of " + ", ".join(sorted(schema.attributes)),
            )
        found = onnx.AttributeProto.AttributeType.Name(attribute.type)
        expected = schema.attributes[name].type.name  # type: ignore[attr-defined]  # not in its stubs
        if found != expected:
            raise invalid(
                f"{describe(node)} has the attribute {name!r} of type {found}", expected=expected
            )


def _check_trees(node: onnx.NodeProto) -> None:
    """The parallel lists of a tree ensemble; ONNX Runtime 1.23 aborts where lengths differ."""
    for prefix in ("nodes_", "class_", "target_"):
        lengths = {
            attribute.name: length
            for attribute in node.attribute
            if attribute.name.startswith(prefix)
            and (length := len(attribute.ints) + len(attribute.floats) + len(attribute.strings))
        }
        if len(set(lengths.values())) > 1:
            found = ", ".join(f"{name} has {length}" for name, length in lengths.items())
            raise invalid(f"{describe(node)} has lists of different lengths: {found}")
