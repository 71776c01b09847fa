"""What factorizing passes made of layers, as something that can be fitted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import onnx_ir as ir

from onnxslim_rx.ir import marked, nodes
from onnxslim_rx.passbase import Skipped
from onnxslim_rx.planner.fit.chains import Chain, chain_of, own_bias
from onnxslim_rx.planner.fit.pair import Pair
from onnxslim_rx.planner.fit.products import Product, main_products, pairs
from onnxslim_rx.planner.fit.tensors import Tensor, is_tensorized, tensor_of

__all__ = ["Form", "forms", "weight_names"]

Form: TypeAlias = Pair | Chain | Tensor


def forms(original: ir.Model, compressed: ir.Model) -> Iterator[tuple[str, Form | str]]:
    """The output of each layer in a new form, and the form, or why it cannot be fitted.

    Args:
        original: the network before its layers were factorized.
        compressed: with factorized layers, whose outputs kept their names.
    """
    wanted = {str(v.name): v for node in original.graph for v in node.outputs if v.name}
    matrices = _matrices(original)
    done: set[str] = set()
    for node in compressed.graph:
        output = str(node.outputs[0].name)
        before = wanted[output].producer() if output in wanted else None
        if before is None:
            continue
        if is_tensorized(node):
            yield output, tensor_of(node, matrices.get(output))
        elif _is_chain(node, before):
            yield output, chain_of(node, before)
        else:
            continue
        done.add(output)
    every = {str(v.name) for node in nodes(original) for v in node.outputs} - done
    for one in pairs(compressed, every):
        output = one.where if isinstance(one, Skipped) else str(one[1].layer.output.name)
        if isinstance(one, Skipped):
            yield output, one.why
        elif output not in wanted:  # it moved out of the body of another node
            yield output, "the original computes it elsewhere"
        else:
            yield output, _pair(*one, matrices.get(output))


def weight_names(original: ir.Model) -> dict[str, str]:
    """Names of the weights of products and convolutions by the names of their outputs."""
    convolutions = {
        str(node.outputs[0].name): str(node.inputs[1].name)
        for node in original.graph
        if _is_conv(node) and node.inputs[1] is not None
    }
    products = {output: product.layer.name for output, product in _matrices(original).items()}
    return convolutions | products


def _pair(first: Product | None, last: Product, weight: Product | None) -> Pair:
    shape = ((first or last).shape[0], last.shape[1])
    if weight is not None and (weight.shape != shape or weight.alpha == 0.0):
        weight = None
    return Pair(first, last, weight, _bias(last))


def _bias(last: Product) -> ir.Value | None:
    """What a convolution or Gemm adds to each row, where it can be changed."""
    node = last.layer.node
    value = None if last.plain else own_bias(node)
    if value is None or value.shape is None:
        return None
    plain = node.attributes.get_float("beta", 1.0) == 1.0 and not last.makes_transposed
    return value if plain and value.shape.numpy() == (last.shape[1],) else None


def _matrices(model: ir.Model) -> dict[str, Product]:
    return {
        str(use.node.outputs[0].name): product
        for use, product in main_products(model)
        if isinstance(product, Product)
    }


def _is_chain(node: ir.Node, before: ir.Node) -> bool:
    """Whether convolutions stand in the place of one that has a kernel of several positions."""
    if not ((marked(node) or "").startswith("factorize-") and _is_conv(node) and _is_conv(before)):
        return False
    weight = before.inputs[1]
    return weight is None or weight.shape is None or set(weight.shape.numpy()[2:]) != {1}


def _is_conv(node: ir.Node) -> bool:
    return node.domain == "" and node.op_type in ("Conv", "ConvTranspose")
