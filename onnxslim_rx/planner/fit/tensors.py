"""Three products that a tensorizing pass left in the place of one matrix."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim_rx.calibration import Moments
from onnxslim_rx.ir import constant, marked
from onnxslim_rx.linalg import network_product, row_network_regression
from onnxslim_rx.passbase import Layer
from onnxslim_rx.planner.fit.products import Product

__all__ = ["Tensor", "is_tensorized", "tensor_of"]

Array = npt.NDArray[Any]
Matrix = npt.NDArray[np.float64]

_BY = "tensorize-"
_MATRIX, _TRAIN, _CP = "kr,rs,sn->kn", "kr,ris,sj->kij", "kr,ir,rj->kij"
_MOST_COLUMNS = 2304  # a fit multiplies by a matrix of this side


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A layer to fit that is three products: a Tucker decomposition, a tensor train or CP.

    Args:
        layer: the first of the products.
        near: (K, n) or (K, n1, n2), what the original multiplies by.
        spec: what the factors multiply to, see `linalg.network_product`.
        weights: the factors, the one that reads the inputs first.
        shapes: of the operands of `spec`.
        turned: whether a factor is stored transposed.
        bias: added to the result, or None where there is none that can be changed.
    """

    layer: Layer
    near: Matrix
    spec: str
    weights: tuple[ir.Value, ...]
    shapes: tuple[tuple[int, ...], ...]
    turned: tuple[bool, ...]
    bias: ir.Value | None

    makes_transposed = False
    patches = None

    @property
    def names(self) -> tuple[str, ...]:
        """Of the factors."""
        return tuple(str(weight.name) for weight in self.weights)

    @property
    def shape(self) -> tuple[int, int]:
        """(K, N)."""
        return len(self.near), self.near[0].size

    def now(self) -> Matrix:
        """(K, N), what the factors stand for."""
        return self.product({})

    def product(self, arrays: Mapping[str, Array]) -> Matrix:
        """(K, N), what the factors stand for, with other contents for some of them."""
        return network_product(self.spec, self._factors(arrays)).reshape(self.shape)

    def solve(self, now: Matrix, moments: Moments) -> dict[str, Array]:
        """Factors of the same sizes that come closer to what is wanted.

        Args:
            now: what the factors stand for.
            moments: of what enters, and of what is missing.
        """
        cross = moments.cross + moments.gram @ now
        fitted = row_network_regression(
            self.spec, self._factors({}), moments.gram, cross, self.near, rows=moments.rows
        )
        return {
            str(value.name): _stored(value, factor, turned)
            for value, factor, turned in zip(self.weights, fitted, self.turned, strict=True)
        }

    def _factors(self, arrays: Mapping[str, Array]) -> list[Matrix]:
        found = []
        for value, shape, turned in zip(self.weights, self.shapes, self.turned, strict=True):
            name = str(value.name)
            stored = arrays[name] if name in arrays else _array(value)
            matrix = (stored.T if turned else stored).astype(np.float64)
            found.append(matrix.reshape(shape))
        return found


def is_tensorized(node: ir.Node) -> bool:
    """Whether a pass made the node in place of a product."""
    return (marked(node) or "").startswith(_BY)


def tensor_of(last: ir.Node, original: Product | None) -> Tensor | str:
    """The products that end in `last`, or why they cannot be fitted.

    Args:
        last: a node of the compressed network that makes what the original made.
        original: the product in whose place they stand; None: it is none that is known.
    """
    if original is None or original.alpha == 0.0:
        return "what the original multiplies by is not known"
    if original.shape[1] > _MOST_COLUMNS:
        return f"it has {original.shape[1]} columns, above {_MOST_COLUMNS}"
    scaled = last.op_type == "Gemm" and (
        last.attributes.get_float("alpha", 1.0) != 1.0
        or last.attributes.get_float("beta", 1.0) != 1.0
    )
    found = _parts(last)
    if scaled or len(found) != 3 or any(node.domain for node, _ in found):
        return "its parts are not three plain products"
    weights = [node.inputs[index] for node, index in found]
    arrays = [constant(weight) for weight in weights]
    if any(array is None or len(array.shape) != 2 for array in arrays):
        return "its parts are no matrices"
    if any(weight is None or len(weight.uses()) > 1 for weight in weights):
        return "a weight of it is shared"
    turned = tuple(index == 0 for _, index in found)
    shapes = [_array(weight).shape for weight in weights]
    shapes = [shape[::-1] if t else shape for shape, t in zip(shapes, turned, strict=True)]
    first = found[0][0]
    layout = _layout(shapes, original.shape)
    if layout is None:
        return "its parts do not make up the weight of the original"
    spec, sides, factors = layout
    names = tuple(weight for weight in weights if weight is not None)
    layer = Layer(str(names[0].name), first.op_type, "linear", first, found[0][1], 1 - found[0][1])
    near = original.matrix().reshape(sides)
    return Tensor(layer, near, spec, names, factors, turned, _bias(last, original.shape[1]))


def _layout(
    shapes: list[tuple[int, ...]], shape: tuple[int, int]
) -> tuple[str, tuple[int, ...], tuple[tuple[int, ...], ...]] | None:
    """The Einstein sum, the sides of the weight, and the shapes of the operands."""
    (k, r), (a, b), (s, n2) = shapes
    n1 = shape[1] // n2
    if k != shape[0] or n1 * n2 != shape[1]:
        return None
    if n1 == 1 and (a, b) == (r, s):
        return _MATRIX, (k, n2), ((k, r), (r, s), (s, n2))
    if (a, b) == (n1, r) and s == r:
        return _CP, (k, n1, n2), ((k, r), (n1, r), (r, n2))
    if (a, b) == (r, n1 * s):
        return _TRAIN, (k, n1, n2), ((k, r), (r, n1, s), (s, n2))
    return None


def _parts(last: ir.Node) -> list[tuple[ir.Node, int]]:
    """The products that end in a node, first to last, with the place of the constant of each."""
    found: list[tuple[ir.Node, int]] = []
    node: ir.Node | None = last
    while node is not None and is_tensorized(node):
        own = [i for i in (0, 1) if i < len(node.inputs) and constant(node.inputs[i]) is not None]
        read = 0 if node.op_type in ("Reshape", "Transpose") or own != [0] else 1
        if node.op_type in ("MatMul", "Gemm", "Mul"):
            if len(own) != 1:
                return []
            found.insert(0, (node, own[0]))
        elif node.op_type not in ("Reshape", "Transpose", "Add"):
            return []
        value = node.inputs[read]
        if node is not last and (
            len(node.outputs[0].uses()) > 1 or node.outputs[0].is_graph_output()
        ):
            return []
        node = None if value is None else value.producer()
    return found


def _bias(last: ir.Node, columns: int) -> ir.Value | None:
    """What is added to each row, where it can be changed."""
    place = {"Add": 1, "Gemm": 2}.get(last.op_type, len(last.inputs))
    value = last.inputs[place] if place < len(last.inputs) else None
    if value is None or not value.is_initializer() or value.is_graph_input():
        return None
    if len(value.uses()) > 1 or value.shape is None or value.shape.numpy() != (columns,):
        return None
    return value


def _array(value: ir.Value | None) -> Array:
    tensor = constant(value)
    assert tensor is not None  # `tensor_of` looked
    return tensor.numpy()


def _stored(value: ir.Value, factor: Matrix, turned: bool) -> Array:
    stored = _array(value)
    flat = factor.reshape(stored.shape[::-1] if turned else stored.shape)
    with np.errstate(over="ignore"):  # whoever asks looks whether it is finite
        return np.ascontiguousarray(flat.T if turned else flat, stored.dtype)
