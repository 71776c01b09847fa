"""What enters layers when a network runs, for timing them on their own."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim_rx.analysis import Shape, concrete_shapes
from onnxslim_rx.errors import InputError
from onnxslim_rx.passbase import Layer, LayerStatistics
from onnxslim_rx.planner.cost.isolate import Region
from onnxslim_rx.planner.parts import extract
from onnxslim_rx.runtime import Runner

__all__ = ["Activations"]

Array = npt.NDArray[Any]

_RUN_BYTES = 256 << 20  # of activations that one run gives
_UNKNOWN = 1 << 10  # assumed where a size depends on data
_LENGTHS = 4  # which input of LSTM, GRU and RNN holds the lengths of sequences


class Activations:
    """Arrays that enter layers.

    Real ones where the model can be run on a sample, as sizes and masks among them steer what a
    layer does; made-up ones of the right size for layers that lie in subgraphs, or without a model.

    Args:
        model: None: nothing is known but statistics.
        sample: a complete input of `model`; None: as without a model.
    """

    def __init__(self, model: ir.Model | None, sample: Mapping[str, Any] | None) -> None:
        self.model = model
        self._sample = sample if model is not None else None
        self._shapes: Mapping[str, Shape | None] = {}
        self._real: dict[ir.Value, Array] = {}
        self._alike: dict[tuple[object, ...], Array] = {}
        if model is not None and sample is not None:
            names = [str(v.name) for v in model.graph.inputs if not v.is_initializer()]
            given = {n: sample[n] for n in names if isinstance(sample[n], np.ndarray)}
            self._shapes = concrete_shapes(model, {n: a.shape for n, a in given.items()})

    def prepare(self, regions: Iterable[Region]) -> None:
        """Run the model for everything that enters `regions`."""
        if self.model is None or self._sample is None:
            return
        values = dict.fromkeys(value for region in regions for value in region.inputs)
        own = [value for value in values if value.graph is self.model.graph]
        for value in own:
            if value.producer() is None and isinstance(
                self._sample.get(str(value.name)), np.ndarray
            ):
                self._keep(value, self._sample[str(value.name)])
        for together in self._groups([v for v in own if v.producer() is not None]):
            with contextlib.suppress(InputError):  # they are made up
                self._run(self.model, together, self._sample)

    def entering(self, region: Region, stats: LayerStatistics | None) -> dict[str, Array]:
        """What enters a layer, by name.

        Raises:
            InputError: a size or type is not known.
        """
        return {
            str(value.name): self._real[value]
            if value in self._real
            else self._made_up(value, region.layer, stats)
            for value in region.inputs
        }

    def _groups(self, values: Sequence[ir.Value]) -> Iterator[list[ir.Value]]:
        group: list[ir.Value] = []
        total = 0
        for value in values:
            sizes = self._shapes.get(str(value.name)) or (_UNKNOWN,)
            size = 4 * math.prod(_UNKNOWN if d is None else d for d in sizes)
            if group and total + size > _RUN_BYTES:
                yield group
                group, total = [], 0
            group.append(value)
            total += size
        if group:
            yield group

    def _run(self, model: ir.Model, values: Sequence[ir.Value], sample: Mapping[str, Any]) -> None:
        inputs = {value: None for value in model.graph.inputs if not value.is_initializer()}
        runner = Runner(extract(model, model.graph, inputs, values))
        found = runner({name: sample[name] for name in runner.inputs})
        for value in values:
            array = found[str(value.name)]
            if isinstance(array, np.ndarray):
                self._keep(value, array)

    def _keep(self, value: ir.Value, array: Array) -> None:
        """Floats of equal size serve each other: time does not depend on them."""
        if array.dtype.kind == "f":
            array = self._alike.setdefault((array.dtype, array.shape), array)
        self._real[value] = array

    def _made_up(self, value: ir.Value, layer: Layer, stats: LayerStatistics | None) -> Array:
        rng = np.random.default_rng(0)
        indices = layer.kind == "embedding" and value is layer.activation
        shape = self._shape(value, layer, stats)
        dtype = value.dtype or (ir.DataType.INT64 if indices else layer.weight.dtype)
        if dtype is None or dtype == ir.DataType.STRING:
            raise InputError(f"the type of {value.name!r} is not known")
        kind = dtype.numpy()
        if indices:
            assert layer.weight.shape is not None  # weights have shapes
            axis = layer.node.attributes.get_int("axis", 0)
            return rng.integers(0, layer.weight.shape.numpy()[axis], shape).astype(kind)
        if kind.kind in "iub":
            return np.full(shape, self._integer(value, layer, stats), kind)
        return rng.standard_normal(shape).astype(kind)

    def _integer(self, value: ir.Value, layer: Layer, stats: LayerStatistics | None) -> int:
        """Full lengths of sequences; ones in masks."""
        if layer.kind == "recurrent" and value in layer.node.inputs[_LENGTHS : _LENGTHS + 1]:
            batch_first = layer.node.attributes.get_int("layout", 0)
            return self._shape(layer.activation, layer, stats)[1 if batch_first else 0]
        return 1

    def _shape(
        self, value: ir.Value, layer: Layer, stats: LayerStatistics | None
    ) -> tuple[int, ...]:
        known = self._shapes.get(str(value.name))
        if known is not None and all(size is not None for size in known):
            return tuple(size for size in known if size is not None)
        if value is layer.activation and stats is not None and stats.shape:
            return tuple(stats.shape)
        if value.shape is not None and value.shape.is_static():
            return tuple(value.shape.numpy())
        raise InputError(f"the size of {value.name!r} is not known")
