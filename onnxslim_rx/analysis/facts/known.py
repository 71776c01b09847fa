"""What is known of a value, and a node as rules of inference see it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim_rx.analysis.facts.dims import Dim, fresh

if TYPE_CHECKING:
    from typing import TypeAlias

__all__ = [
    "LONGEST",
    "NOTHING",
    "Array",
    "Contents",
    "Known",
    "Rule",
    "Shape",
    "Site",
    "Source",
    "unknown_shape",
]

LONGEST = 64
"""Contents of tensors with more elements are not followed."""

_LONGEST_GUESS = 8

Array = npt.NDArray[Any]
Shape: TypeAlias = "tuple[Dim, ...]"
Contents: TypeAlias = "tuple[Dim, ...]"


class Known(NamedTuple):
    """What is known of a tensor.

    Args:
        dtype: type of its elements, or None; also None for sequences and the like.
        shape: its sizes; None where not even the rank is known.
        contents: whole numbers, element by element, of a tensor of rank 0 or 1; numbers stand for
            truth values and for whole floating-point numbers too.
    """

    dtype: ir.DataType | None = None
    shape: Shape | None = None
    contents: Contents | None = None


NOTHING = Known()


class Source(Protocol):
    """Where sites get constants from; `Facts` is one."""

    def array(self, value: ir.Value | None) -> Array | None:
        """The content of a constant."""

    def learn(self, value: ir.Value, known: Known) -> None:
        """Note more about a value."""


class Site:
    """A node, and what is known of its inputs.

    Args:
        node: one without references to attributes of a function.
        version: of the operator set of its domain.
        inputs: what is known of each input; nothing of those left out.
        source: for constants.
    """

    __slots__ = ("inputs", "node", "source", "version")

    def __init__(
        self, node: ir.Node, version: int, inputs: Sequence[Known], source: Source
    ) -> None:
        self.node = node
        self.version = version
        self.inputs = inputs
        self.source = source

    def get(self, index: int) -> Known:
        """What is known of an input; nothing where the node has no such input."""
        return self.inputs[index] if index < len(self.inputs) else NOTHING

    def has(self, index: int) -> bool:
        """Whether the node has this input."""
        inputs = self.node.inputs
        return index < len(inputs) and inputs[index] is not None

    def attribute(self, name: str, default: Any = None) -> Any:
        """The value of an attribute."""
        found = self.node.attributes.get(name)
        return default if found is None else found.value

    def array(self, index: int) -> Array | None:
        """The content of an input that is a constant."""
        return self.source.array(self.node.inputs[index]) if self.has(index) else None

    def numbers(self, index: int) -> tuple[int, ...] | None:
        """The content of an input, all numbers."""
        contents = self.get(index).contents
        if contents is None or not all(isinstance(item, int) for item in contents):
            return None
        return contents  # type: ignore[return-value]  # checked in the line above

    def listed(self, name: str, index: int) -> tuple[int, ...] | None:
        """Whole numbers from an attribute, or from an input where there is no such attribute."""
        found = self.attribute(name)
        return self.numbers(index) if found is None else tuple(found)

    def contents(self, index: int) -> Contents | None:
        """The content of an input; elements not known are symbols, where they are few."""
        known = self.get(index)
        if known.contents is not None or known.shape is None or len(known.shape) > 1:
            return known.contents
        length = known.shape[0] if known.shape else 1
        if not isinstance(length, int) or length > _LONGEST_GUESS:
            return None
        if known.dtype not in (ir.DataType.INT64, ir.DataType.INT32):
            return None
        contents = tuple(fresh(None) for _ in range(length))
        value = self.node.inputs[index]
        assert value is not None  # something is known of it
        self.source.learn(value, known._replace(contents=contents))
        return contents


Rule: TypeAlias = "Callable[[Site], Sequence[Known] | None]"
"""What is known of the outputs of a node; None: not covered, ask ONNX's own inference.

It may raise anything where the node is not valid: nothing is known of the outputs then.
"""


def unknown_shape(rank: int) -> Shape:
    """Sizes of which nothing is known."""
    return tuple(fresh() for _ in range(rank))


def small_integers(array: Array) -> Contents | None:
    """The elements of an array as whole numbers, if it is short and they are."""
    if array.ndim > 1 or array.size > LONGEST:
        return None
    kind = array.dtype.kind
    if kind in "iub":
        return tuple(map(int, array.reshape(-1).tolist()))
    if kind == "f" and array.dtype.itemsize >= 4:
        flat = array.reshape(-1)
        if np.isfinite(flat).all() and (flat == np.trunc(flat)).all():
            exact = np.abs(flat).max(initial=0) <= 2**24
            return tuple(map(int, flat.tolist())) if exact else None
    return None
