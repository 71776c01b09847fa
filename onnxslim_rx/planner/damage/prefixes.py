"""A network that is run many times with other weights in one layer.

Only what lies behind the layer is run: the activations that cross a cut in front of it are kept.
Cuts are passed once, from the front to the back; one set of activations is in memory at a time.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim_rx.errors import InputError
from onnxslim_rx.ir import clone
from onnxslim_rx.passbase import Layer
from onnxslim_rx.planner.damage.cuts import Layout, choose_cuts
from onnxslim_rx.planner.parts import Entering, extract, open_weights
from onnxslim_rx.runtime import Runner

__all__ = ["Network", "overridable"]

Array = npt.NDArray[Any]
Sample = Mapping[str, Any]

_KEPT_BYTES = 256 << 20
"""Activations in front of a cut, over all samples, take no more."""


class Network:
    """A model that can be run with other weights in one of its layers at a time.

    Args:
        model: not changed.
        layers: those whose weights are replaced. They must be asked for in the order of `order`:
            what lies before the last one is gone.
        probes: how often the weights of each will be replaced.
        samples: complete inputs, at least one.
        outputs: names of the outputs that count; None: all.

    Attributes:
        references: by sample, the outputs with the weights as they are, of the session that
            `move_to` opened: sessions differ from each other in the order of their sums.
    """

    def __init__(
        self,
        model: ir.Model,
        layers: Sequence[Layer],
        probes: Sequence[int],
        samples: Sequence[Sample],
        outputs: Sequence[str] | None,
    ) -> None:
        self._original = model
        self._model, self._names = overridable(model, layers)
        self._layers, self._samples = layers, samples
        graph = self._model.graph
        self._inputs = [value for value in graph.inputs if not value.is_initializer()]
        wanted = [v for v in graph.outputs if outputs is None or v.name in outputs]
        self._outputs = [value for value in wanted if value.producer() is not None]
        # outputs that no layer behind the cut can change
        self._settled: list[dict[str, Any]] = [
            {str(v.name): _given(v, sample) for v in wanted if v.producer() is None}
            for sample in samples
        ]
        self._cut = 0
        self._kept: dict[ir.Value, list[Array]] = {}  # what crosses the cut, by sample
        self._block = -1
        self._runner: Runner | None = None
        self.references: list[dict[str, Any]] = []
        self._layout = Layout(self._model, self._outputs, self._input_shapes())
        self._places = self._places_of(layers)
        number: Counter[int] = Counter()
        for place, count in zip(self._places, probes, strict=True):
            number[place] += count
        most = _KEPT_BYTES // len(samples)
        self._cuts = choose_cuts(self._layout, number, len(samples), most)

    @property
    def order(self) -> list[int]:
        """The numbers of the layers in the order in which they must be asked for."""
        return sorted(range(len(self._layers)), key=self._places.__getitem__)

    @property
    def sessions(self) -> int:
        """How many sessions serve all layers."""
        return len(self._cuts)

    def covers(self, number: int) -> bool:
        """Whether all weights of layer `number` can be replaced."""
        return all(weight in self._names for weight in self._layers[number].weights)

    def move_to(self, number: int) -> None:
        """Make ready to run the network with other weights in layer `number`.

        Raises:
            InputError: onnxruntime fails.
        """
        block = self._block_of(number)
        if block == self._block:
            return
        self._runner, self._block = None, block  # its memory is free before more is taken
        with contextlib.suppress(InputError):  # the network cannot be cut here: the last cut stays
            self._advance(self._cuts[block])
        together = [n for n in range(len(self._layers)) if self._block_of(n) == block]
        opened = {
            self._names[weight]
            for n in together
            for weight in self._layers[n].weights
            if weight in self._names
        }
        self._runner = Runner(self._part(self._outputs_behind(), opened))
        self.references = [self.run(index, {}) for index in range(len(self._samples))]

    def run(
        self,
        index: int,
        weights: Mapping[ir.Value, Array],
        runner: Runner | None = None,
    ) -> dict[str, Any]:
        """The outputs for sample number `index` with other weights in the layer.

        Args:
            index: of the sample.
            weights: what takes the place of which.
            runner: of what lies behind the cut, changed: see `behind`. None: as it is.

        Raises:
            InputError: onnxruntime fails.
        """
        runner = runner or self._runner
        assert runner is not None  # made by `move_to`
        own = {self._names[value]: array for value, array in weights.items()}
        read = {name: array for name, array in own.items() if name in runner.overridable}
        return self._settled[index] | runner(self._feeds(index, runner) | read)

    def behind(self) -> ir.Model:
        """What lies behind the cut that `move_to` went to, with the weights' own names."""
        named = {value.name: value for node in self._original.graph for value in node.outputs}
        named |= {value.name: value for value in self._original.graph.inputs}
        entering: dict[ir.Value, Entering | None] = {
            named[value.name]: known for value, known in self._entering().items()
        }
        outputs = [named[value.name] for value in self._outputs_behind()]
        return extract(self._original, self._original.graph, entering, outputs)

    def _input_shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the largest sample."""
        shapes = [
            {
                str(v.name): sample[str(v.name)].shape
                for v in self._inputs
                if isinstance(sample[str(v.name)], np.ndarray)
            }
            for sample in self._samples
        ]
        return max(shapes, key=lambda found: sum(int(np.prod(s)) for s in found.values()))

    def _places_of(self, layers: Iterable[Layer]) -> list[int]:
        """Of each layer, the first node of the layout that reads one of its weights."""
        first = self._layout.first_readers()
        constants = self._model.graph.initializers
        # what no node of the sample reads is found by running everything
        return [
            min((first.get(constants[self._names[w]], 0) for w in own), default=0)
            for own in ([w for w in layer.weights if w in self._names] for layer in layers)
        ]

    def _block_of(self, number: int) -> int:
        """The number of the last cut in front of a layer."""
        place = self._places[number]
        return max((i for i, cut in enumerate(self._cuts) if cut <= place), default=0)

    def _advance(self, place: int) -> None:
        """Compute what crosses the cut in front of node `place` from what crosses the last."""
        crossing = self._layout.crossing(place)
        new = [value for value in crossing if value not in self._kept]
        due = [
            value
            for value in self._outputs
            if self._layout.is_before(value, place) and not self._layout.is_before(value, self._cut)
        ]
        made: dict[ir.Value, list[Any]] = {value: [] for value in (*new, *due)}
        if made:
            runner = Runner(self._part(list(made), ()))
            for index in range(len(self._samples)):
                found = runner(self._feeds(index, runner))
                for value, arrays in made.items():
                    arrays.append(found[str(value.name)])
        for value in new:
            if not all(isinstance(array, np.ndarray) for array in made[value]):
                raise InputError(f"{value.name!r} is no tensor, so that the network is not cut")
        for value in due:
            for settled, array in zip(self._settled, made[value], strict=True):
                settled[str(value.name)] = array
        self._kept = {
            value: made[value] if value in made else self._kept[value] for value in crossing
        }
        self._cut = place

    def _part(self, outputs: Sequence[ir.Value], opened: Iterable[str]) -> ir.Model:
        """What makes `outputs` from what crosses the cut; the weights in `opened` can be fed."""
        part = extract(self._model, self._model.graph, self._entering(), outputs)
        open_weights(part, [name for name in opened if name in part.graph.initializers])
        return part

    def _entering(self) -> dict[ir.Value, Entering | None]:
        """What crosses the cut, and the inputs of the model."""
        inputs: dict[ir.Value, Entering | None] = dict.fromkeys(self._inputs)
        return inputs | {value: Entering.of(arrays) for value, arrays in self._kept.items()}

    def _outputs_behind(self) -> list[ir.Value]:
        return [v for v in self._outputs if not self._layout.is_before(v, self._cut)]

    def _feeds(self, index: int, runner: Runner) -> dict[str, Any]:
        kept = {str(value.name): arrays[index] for value, arrays in self._kept.items()}
        sample = self._samples[index]
        return {name: kept[name] if name in kept else sample[name] for name in runner.inputs}


def _given(value: ir.Value, sample: Sample) -> Any:
    """An output of the model that no node makes."""
    if value.is_initializer() and value.const_value is not None:
        return value.const_value.numpy()
    return sample[str(value.name)]


def overridable(model: ir.Model, layers: Sequence[Layer]) -> tuple[ir.Model, dict[ir.Value, str]]:
    """A copy in which each weight of the layers is an input that has a default.

    Args:
        model: not changed.
        layers: layers of `model`.

    Returns:
        The copy, and the name of the input for each weight. Constants that are no initializers
        are missing.
    """
    copy = clone(model)
    originals = [value for graph in model.graphs() for value in graph.initializers.values()]
    twins = [value for graph in copy.graphs() for value in graph.initializers.values()]
    twin_of = dict(zip(originals, twins, strict=True))
    names: dict[ir.Value, str] = {}
    for value in dict.fromkeys(value for layer in layers for value in layer.weights):
        twin = twin_of.get(value)
        if twin is None or twin.graph is None:
            continue
        twin.graph.initializers.pop(str(twin.name))
        twin.name = names[value] = f"rx.probe.{len(names)}"
        copy.graph.register_initializer(twin)
    open_weights(copy, names.values())
    return copy, names
