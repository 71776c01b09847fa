"""Products with constants that factorizing passes left, and what they stand in for."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim_rx.analysis import Shape, WeightUse, weight_uses
from onnxslim_rx.ir import constant, marked
from onnxslim_rx.passbase import Layer, Skipped

__all__ = ["Product", "main_products", "pairs", "target_of"]

Matrix = npt.NDArray[np.float64]

_KINDS = {"linear": "linear", "linear-left": "linear", "linear-batched": "linear", "conv": "conv"}
_BY = "factorize-"


@dataclasses.dataclass(frozen=True)
class Product:
    """A node that computes `alpha X W` plus what does not depend on X.

    Args:
        layer: the node with its weight.
        stored_transposed: the weight is stored as (N, K).
        reads_transposed: the rows of X lie along the last axis of what enters.
        makes_transposed: as `reads_transposed`, of what leaves.
        alpha: the factor.
        plain: nothing is added.
    """

    layer: Layer
    stored_transposed: bool
    reads_transposed: bool
    makes_transposed: bool
    alpha: float
    plain: bool

    @property
    def shape(self) -> tuple[int, int]:
        """(K, N)."""
        dims = self._tensor().shape.numpy()
        one, other = dims[:2] if self.is_conv else dims[-2:]
        return (other, one) if self.stored_transposed else (one, other)

    @property
    def is_conv(self) -> bool:
        """Whether channels take the place of columns."""
        return self.layer.kind == "conv"

    def matrix(self) -> Matrix:
        """`alpha W`, (K, N)."""
        return self.read(self._tensor().numpy())

    def read(self, stored: npt.NDArray[Any]) -> Matrix:
        """`alpha W`, (K, N), of a weight in the layout of the layer's own."""
        k, n = self.shape
        w = stored.astype(np.float64)
        w = w.reshape(n, k).T if self.stored_transposed else w.reshape(k, n)
        return w if self.alpha == 1.0 else self.alpha * w

    def stored(self, matrix: Matrix) -> npt.NDArray[Any]:
        """`matrix` (K, N), which stands for `alpha W`, as the weight is stored."""
        tensor = self._tensor()
        # whoever asks looks whether it is finite
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            w = matrix if self.alpha == 1.0 else matrix / self.alpha
            w = w.T if self.stored_transposed else w
            return np.ascontiguousarray(w.reshape(tensor.shape.numpy()), tensor.dtype.numpy())

    def _tensor(self) -> ir.TensorProtocol:
        tensor = constant(self.layer.weight)
        assert tensor is not None  # `main_products` lists constants only
        return tensor


def main_products(model: ir.Model) -> Iterator[tuple[WeightUse, Product | str]]:
    """The products of a model with constants, or why one is none that can be refitted."""
    for use in weight_uses(model, min_elements=1):
        if use.kind in _KINDS:
            yield use, _why_not(use, model) or _product(use)


def pairs(
    model: ir.Model, names: Collection[str]
) -> Iterator[tuple[Product | None, Product] | Skipped]:
    """Products that factorizing passes left: the last of each layer, the first where there is one.

    Args:
        model: in topological order.
        names: only products whose output has one of these names are last ones.

    Yields:
        The two products in the order in which they are carried out; None for the first where the
        last reads something else, or something that others read, too.
    """
    known: dict[ir.Node, Product] = {}
    for use, product in main_products(model):
        if not (marked(use.node) or "").startswith(_BY):
            continue
        output = use.node.outputs[0]
        if isinstance(product, str):
            if output.name in names:
                yield Skipped(str(output.name), product)
            continue
        known[use.node] = product
        if output.name in names:
            producer = product.layer.activation.producer()
            first = known.get(producer) if producer is not None else None
            yield (first if first is not None and _chain(first, product) else None), product


def _why_not(use: WeightUse, model: ir.Model) -> str | None:
    if use.graph is not model.graph:
        return "it lies in the body of another node"
    if use.why_not is not None:
        return use.why_not
    if len(use.users) > 1:
        return f"{len(use.users)} nodes share its weight"
    if not use.weight.is_initializer():
        return "its weight is no initializer"
    dims = use.tensor.shape.numpy()
    if use.kind == "conv":
        node = use.node
        pointwise = set(dims[2:]) <= {1} and not any(node.attributes.get_ints("pads", []))
        if not pointwise or node.attributes.get_int("group", 1) != 1:
            return "it is no convolution of 1 x 1"
        if node.attributes.get_string("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
            return "it pads"
    elif any(dim != 1 for dim in dims[:-2]):
        return "its weight is a batch of matrices"
    return None


def _product(use: WeightUse) -> Product:
    node, left = use.node, use.index == 0
    assert use.activation_index is not None  # the kind has one
    name = str(use.weight.name)
    kind = _KINDS[use.kind]
    layer = Layer(name, node.op_type, kind, node, use.index, use.activation_index)
    added = len(node.inputs) > 2 and node.inputs[2] is not None
    if kind == "conv":
        return Product(layer, True, False, False, 1.0, not added)
    flags = [bool(node.attributes.get_int(flag, 0)) for flag in ("transA", "transB")]
    of_weight, of_other = flags if left else flags[::-1]
    return Product(
        layer,
        stored_transposed=of_weight != left,
        reads_transposed=of_other != left,
        makes_transposed=left,
        alpha=node.attributes.get_float("alpha", 1.0),
        plain=not added,
    )


def _chain(first: Product, last: Product) -> bool:
    """Whether both are one product of two factors, and the first is nobody else's."""
    middle = last.layer.activation
    same = first.is_conv == last.is_conv and first.makes_transposed == last.reads_transposed
    every = set(last.layer.node.attributes.get_ints("strides", [])) <= {1}
    return (
        first.plain
        and same
        and every
        and first.alpha != 0.0
        and last.alpha != 0.0
        and len(middle.uses()) == 1
        and not middle.is_graph_output()
        and first.shape[1] == last.shape[0] <= min(first.shape[0], last.shape[1])
    )


def target_of(
    name: str,
    columns: int,
    original: Mapping[str, ir.Value],
    compressed: Mapping[str, ir.Value],
    shapes: Mapping[str, Shape | None],
) -> str:
    """The value that an output reaches through additions only, which nobody else reads.

    Errors that the other summands carry already are then corrected, too. The other summand of an
    addition cannot depend on the output, as nobody else reads it.

    Args:
        name: of an output, in both models.
        columns: of the output.
        original: the values of the original's main graph by name.
        compressed: those of the compressed model.
        shapes: what is known of the shapes of the original's values; a sum with more rows than the
            output is no target.
    """
    while True:
        add, other = _addition(original[name]), _addition(compressed[name])
        if add is None or other is None or add.outputs[0].name != other.outputs[0].name:
            return name
        total = str(add.outputs[0].name)
        shape = shapes.get(total)
        known = shape is not None and None not in shape and shape == shapes.get(name)
        if not known and not any(_is_row(value, columns) for value in add.inputs):
            return name
        name = total


def _addition(value: ir.Value) -> ir.Node | None:
    """What adds something else to `value`, where nothing else reads it."""
    uses = value.uses()
    if len(uses) != 1 or value.is_graph_output():
        return None
    node = next(iter(uses)).node
    inside = node.op_type == "Add" and node.domain == "" and node.graph is value.graph
    return node if inside else None


def _is_row(value: ir.Value | None, columns: int) -> bool:
    """Whether `value` is a constant too small to add rows."""
    tensor = constant(value)
    return tensor is not None and tensor.size <= columns
