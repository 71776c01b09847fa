"""Chains of convolutions that factorizing passes left, and the one that they stand for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim_rx.calibration import Moments, Patches
from onnxslim_rx.ir import constant, marked
from onnxslim_rx.linalg import network_product, network_regression, reduced_rank_regression
from onnxslim_rx.passbase import Layer

__all__ = ["Chain", "chain_of"]

Array = npt.NDArray[Any]
Matrix = npt.NDArray[np.float64]

_BY = "factorize-"
_LETTERS = "abdefghijkl"  # of the channels between two convolutions
_FILTERS, _CHANNELS, _SIDES = "m", "c", "xyz"


@dataclasses.dataclass(frozen=True)
class Chain:
    """Convolutions one after the other, with nothing between them.

    Args:
        layer: the first of them.
        patches: of the convolution that they stand for.
        near: its kernel (M, C, *k) in the original network, axes of size 1 left out.
        spec: what the kernels multiply to, see `linalg.network_product`.
        weights: the kernels, the last one first.
        shapes: of the operands of `spec`.
        bias: of the last one, or None where there is none that can be changed.
    """

    layer: Layer
    patches: Patches
    near: Matrix
    spec: str
    weights: tuple[ir.Value, ...]
    shapes: tuple[tuple[int, ...], ...]
    bias: ir.Value | None
    makes_transposed = False

    @property
    def names(self) -> tuple[str, ...]:
        """Of the kernels."""
        return tuple(str(weight.name) for weight in self.weights)

    @property
    def shape(self) -> tuple[int, int]:
        """(K, N): entries of a patch, and filters."""
        return self.near[0].size, len(self.near)

    def now(self) -> Matrix:
        """(K, N), what the kernels stand for."""
        return self.product({})

    def product(self, arrays: Mapping[str, Array]) -> Matrix:
        """(K, N), what the kernels stand for, with other contents for some of them."""
        product = network_product(self.spec, self._factors(arrays))
        flat: Matrix = product.reshape(len(product), -1).T
        return flat

    def solve(self, now: Matrix, moments: Moments) -> dict[str, Array]:
        """Kernels of the same sizes that come closer to what is wanted.

        Args:
            now: what the kernels stand for.
            moments: of patches, and of what is missing.
        """
        cross = moments.cross + moments.gram @ now
        factors = self._factors({})
        operands = self.spec.split("->")[0].split(",")
        if [len(one) for one in operands] == [2, self.near.ndim]:  # all in one, then pointwise
            near = self.near.reshape(len(self.near), -1).T
            rank = factors[0].shape[1]
            p, q = reduced_rank_regression(moments.gram, cross, near, rank, rows=moments.rows)
            factors = [q.T, p.T]
        else:
            factors = network_regression(
                self.spec, factors, moments.gram, cross, self.near, rows=moments.rows
            )
        return {
            str(value.name): self._stored(value, factor)
            for value, factor in zip(self.weights, factors, strict=True)
        }

    def _factors(self, arrays: Mapping[str, Array]) -> list[Matrix]:
        found = [
            arrays[name] if name in arrays else _tensor(value).numpy()
            for name, value in zip(self.names, self.weights, strict=True)
        ]
        return [
            array.astype(np.float64).reshape(shape)
            for array, shape in zip(found, self.shapes, strict=True)
        ]

    def _stored(self, value: ir.Value, factor: Matrix) -> Array:
        tensor = _tensor(value)
        with np.errstate(over="ignore"):  # whoever asks looks whether it is finite
            return np.ascontiguousarray(factor.reshape(tensor.shape.numpy()), tensor.dtype.numpy())


def chain_of(last: ir.Node, original: ir.Node) -> Chain | str:
    """The chain that ends in `last`, or why it cannot be fitted.

    Args:
        last: a convolution of the compressed network that a factorizing pass made.
        original: the convolution in whose place the chain stands.
    """
    if original.op_type != "Conv" or original.attributes.get_int("group", 1) != 1:
        return "it has groups" if original.op_type == "Conv" else "its outputs overlap"
    kernel = constant(original.inputs[1])
    if kernel is None:
        return "its kernel is computed"
    nodes = _nodes(last, str(original.inputs[0].name) if original.inputs[0] else "")
    if isinstance(nodes, str):
        return nodes
    found = _spec(nodes, tuple(kernel.shape.numpy()))
    if found is None:
        return "its parts do not make up the kernel of the original"
    spec, shapes = found
    near = kernel.numpy().astype(np.float64)
    weights = [value for node in reversed(nodes) if (value := node.inputs[1]) is not None]
    return Chain(
        Layer(str(weights[-1].name), "Conv", "conv", nodes[0], 1, 0),
        Patches.of(original),
        near.reshape(*near.shape[:2], *(size for size in near.shape[2:] if size > 1)),
        spec,
        tuple(weights),
        shapes,
        own_bias(last),
    )


def own_bias(node: ir.Node) -> ir.Value | None:
    """The bias of a node, where it is a constant that nobody else reads."""
    value = node.inputs[2] if len(node.inputs) > 2 else None
    if value is None or not value.is_initializer() or value.is_graph_input():
        return None
    return value if constant(value) is not None and len(value.uses()) == 1 else None


def _nodes(last: ir.Node, entering: str) -> list[ir.Node] | str:
    """The convolutions from the value `entering` to `last`, in order."""
    nodes = [last]
    while True:
        node = nodes[0]
        weight, read = node.inputs[1], node.inputs[0]
        if weight is None or not weight.is_initializer() or len(weight.uses()) > 1:
            return "a kernel of it is shared or computed"
        if read is None or read.name == entering:
            return nodes
        before = read.producer()
        if before is None or before.op_type != "Conv" or not (marked(before) or "").startswith(_BY):
            return "it does not start where the original does"
        if len(read.uses()) > 1 or read.is_graph_output():
            return "others read what is between its parts"
        if len(before.inputs) > 2 and before.inputs[2] is not None:
            return "a part of it has a bias"
        nodes.insert(0, before)


def _spec(
    nodes: list[ir.Node], kernel: tuple[int, ...]
) -> tuple[str, tuple[tuple[int, ...], ...]] | None:
    """The Einstein sum of the kernels, the last first, and the shapes of its operands.

    None where they are no factors of `kernel`. A kernel with as many groups as filters (depthwise)
    scales channels: the letter of these is that of its filters.
    """
    operands: list[str] = []
    shapes: list[tuple[int, ...]] = []
    seen: list[int] = []
    letters, made = iter(_LETTERS), _FILTERS
    for node in reversed(nodes):
        shape = _tensor(node.inputs[1]).shape.numpy()
        sides = [axis for axis, size in enumerate(shape[2:]) if size > 1]
        if len(shape) != len(kernel) or any(shape[2 + a] != kernel[2 + a] for a in sides):
            return None
        groups = node.attributes.get_int("group", 1)
        inner = made != _FILTERS and node is not nodes[0]
        if groups == 1:
            read = _CHANNELS if node is nodes[0] else next(letters)
        elif groups == shape[0] and shape[1] == 1 and inner:
            read = ""
        else:
            return None
        seen += sides
        operands.append(made + read + "".join(_SIDES[axis] for axis in sides))
        shapes.append((shape[0], *shape[1 : 1 + len(read)], *(shape[2 + axis] for axis in sides)))
        made = read or made
    wide = [axis for axis, size in enumerate(kernel[2:]) if size > 1]
    if sorted(seen) != wide:
        return None
    result = _FILTERS + _CHANNELS + "".join(_SIDES[axis] for axis in wide)
    return ",".join(operands) + "->" + result, tuple(shapes)


def _tensor(value: ir.Value | None) -> ir.TensorProtocol:
    tensor = constant(value)
    assert tensor is not None  # `chain_of` looked
    return tensor
