"""What passes that make attention heads narrower have in common."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxslim_rx.errors import InputError
from onnxslim_rx.ir import marked
from onnxslim_rx.linalg.matrix import Matrix
from onnxslim_rx.passbase import (
    Candidate,
    CompressionPass,
    Factors,
    Layer,
    LayerStatistics,
    Skip,
    Skipped,
    Stage,
)
from onnxslim_rx.targets import Target
from onnxslim_rx_passes._attention import products
from onnxslim_rx_passes._head_nodes import emit
from onnxslim_rx_passes._heads import (
    Heads,
    as_heads,
    candidate,
    constants_of,
    offered_widths,
    restore,
    take,
    width_of,
)
from onnxslim_rx_passes._projections import Projections, Refused

__all__ = ["HeadPass"]

Members = tuple[LayerStatistics, ...]
"""Statistics of all members of a unit, each with a Gram matrix; none: inputs count as white."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeadPass(CompressionPass):
    """Makes heads narrower; subclasses say which, and how.

    Args:
        width: of the heads afterwards; None: several for the planner to choose from.
        max_side: units with wider inputs are left alone.

    Raises:
        InputError: an option outside its range.
    """

    partial: ClassVar[bool] = True
    method: ClassVar[str] = ""
    width: int | None = None
    max_side: int = 4096

    def __post_init__(self) -> None:
        for field, value in (("width", self.width), ("max_side", self.max_side)):
            if value is not None and value < 1:
                raise InputError(f"{self.name} has {field} = {value}", expected="at least 1")

    def find(self, product: ir.Node, known: Projections) -> Heads:
        """The unit of a product of activations.

        Raises:
            Refused: narrower heads would not fit.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement find")

    def is_expected(self, product: ir.Node, known: Projections) -> bool:
        """Whether the product is one of attention, so that a refusal is worth a word."""
        raise NotImplementedError(f"{type(self).__name__} does not implement is_expected")

    def error_curve(self, unit: Heads, arrays: Factors, members: Members) -> Matrix:
        """Relative error by width, from 0 on."""
        raise NotImplementedError(f"{type(self).__name__} does not implement error_curve")

    def narrow(self, unit: Heads, arrays: Factors, width: int, members: Members) -> Factors:
        """The unit's constants with heads of that width."""
        raise NotImplementedError(f"{type(self).__name__} does not implement narrow")

    def layers(self, model: ir.Model) -> Iterable[Layer | Skipped]:
        """One unit for each product of activations that is attention."""
        known = Projections(model)
        names: Counter[str] = Counter()
        for product in products(known):
            try:
                unit = self.find(product, known)
            except Refused as refused:
                if self.is_expected(product, known):
                    yield Skipped(f"{product.outputs[0].name}.{self.method}", f"MatMul: {refused}")
                continue
            names[unit.name] += 1
            if names[unit.name] > 1:  # in another subgraph
                unit = dataclasses.replace(unit, name=f"{unit.name}#{names[unit.name]}")
            inputs = max(_inputs(member) for member in unit.members)
            if marked(unit.nodes[-1]) == self.name:  # a second cut would add a second error
                yield Skipped(unit.name, "MatMul: its heads are narrower already")
            elif inputs > self.max_side:
                yield Skipped(unit.name, f"MatMul: {inputs} inputs, above {self.max_side}")
            else:
                yield unit

    def candidates(
        self, layer: Layer, stats: LayerStatistics | None, target: Target
    ) -> Iterable[Candidate]:
        """Each width below that of the heads as they are, widest first."""
        unit = as_heads(layer)
        arrays = constants_of(unit)
        offered = offered_widths(unit.width) if self.width is None else [self.width]
        most = min(unit.width - 1, *(take(unit, arrays, side)[0].shape[-2] for side in (0, 1)))
        offered = [width for width in offered if width <= most]
        if not offered or not _are_finite(arrays):
            return
        members = _members(unit, stats)
        curve = self.error_curve(unit, arrays, members)
        for width in offered:
            whitened = bool(members)
            stage = Stage(self.name, {"method": self.method, "width": width, "whitened": whitened})
            yield candidate(unit, stage, float(curve[width]))

    def transform(
        self, layer: Layer, stage: Stage, factors: Factors, stats: LayerStatistics | None
    ) -> Factors:
        """The constants with heads of the stage's width."""
        unit = as_heads(layer)
        members = _members(unit, stats) if stage.options["whitened"] else ()
        if stage.options["whitened"] and not members:
            raise InputError(
                "the plan has whitened = true and there are no statistics of the activations",
                advice="give the calibration data that the plan was made with",
            )
        return self.narrow(unit, factors, width_of(unit, stage), members)

    def restore(self, layer: Layer, factors: Factors) -> Factors:
        """The constants with zeros in the place of the columns and rows that went."""
        return restore(as_heads(layer), factors)

    def apply(
        self, layer: Layer, stage: Stage, stats: LayerStatistics | None, tape: ir.tape.Tape
    ) -> Mapping[ir.Value, ir.Value] | Skip:
        """Emit the unit's nodes with narrower constants."""
        unit = as_heads(layer)
        arrays = constants_of(unit)
        if not _are_finite(arrays):
            return Skip("the weights have NaN or infinity")
        return emit(unit, self.transform(unit, stage, arrays, stats), width_of(unit, stage), tape)


def _inputs(member: Layer) -> int:
    assert member.weight.shape is not None  # that of a constant
    axis = 1 if member.node.attributes.get_int("transB", 0) else 0
    return int(member.weight.shape.numpy()[axis])


def _are_finite(arrays: Factors) -> bool:
    return all(bool(np.isfinite(array).all()) for array in arrays)


def _members(unit: Heads, stats: LayerStatistics | None) -> Members:
    found = () if stats is None else stats.members
    full = tuple(one for one in found if one is not None and one.gram is not None)
    return full if len(full) == len(unit.members) else ()
