"""Running a step of the graph on every sample."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim_rx.calibration.frontiers import Step
from onnxslim_rx.calibration.observers import Observer
from onnxslim_rx.calibration.padding import masks_of
from onnxslim_rx.calibration.readings import Reading
from onnxslim_rx.calibration.samples import Dataset
from onnxslim_rx.calibration.spool import FrontierError, Spool
from onnxslim_rx.errors import InputError
from onnxslim_rx.progress import Advance
from onnxslim_rx.runtime import Runner

__all__ = ["run_step"]

Array = npt.NDArray[Any]
Run = Callable[[dict[str, Any]], dict[str, Any]]


def run_step(
    model: ir.Model,
    step: Step[Any],
    data: Dataset,
    observers: Mapping[Reading, Observer],
    spool: Spool,
    advance: Advance,
) -> None:
    """Run `step` on every sample, show the observers what they measure, save what comes next.

    Raises:
        InputError: onnxruntime fails, or the activations are not finite.
        FrontierError: a tensor of the frontier is no plain array, or onnxruntime cannot load what
            lies behind it on its own.
        OSError: the disk is full.
    """
    saved = [_name(value) for value in step.inputs if _name(value) in spool]
    given = [_name(value) for value in step.inputs if _name(value) not in spool]
    inputs = [_name(value) for value in model.graph.inputs if not value.is_initializer()]
    run: Run | None = None
    with contextlib.ExitStack() as stack:
        read = spool.reader(saved, stack)
        write = spool.writer([_name(value) for value in step.saves], stack)
        for number, sample in enumerate(data):
            feeds = read() | {name: sample[name] for name in given}
            run = run or _loaded(model, step, list(observers), feeds, saved)
            values = dict(sample) | feeds | run(feeds)
            masks = masks_of({name: sample[name] for name in inputs})
            for reading, observer in observers.items():
                if all(_content(gate, values).all() == open_ for gate, open_ in reading.gates):
                    where = f"calibration sample {number}"
                    observer.see(_found(reading, values), masks, where)
            write(values)
            advance(1)


def _loaded(
    model: ir.Model,
    step: Step[Any],
    readings: Sequence[Reading],
    feeds: Mapping[str, Any],
    saved: Sequence[str],
) -> Run:
    """As `_runner`; a step that needs more of the model than itself moves its frontier."""
    try:
        return _runner(model, step, readings, feeds)
    except InputError as error:
        if saved:
            raise FrontierError(saved) from error
        raise


def _name(value: ir.Value) -> str:
    return str(value.name)


def _shape_name(value: ir.Value) -> str:
    return f"{value.name}:rx-shape"


def _found(reading: Reading, values: Mapping[str, Any]) -> list[Array]:
    """What the observer of `reading` is shown."""
    if reading.kind == "shape":
        found = values.get(_shape_name(reading.value))
        return [np.array(_content(reading.value, values).shape) if found is None else found]
    return [_content(value, values) for value in (reading.value, *reading.others)]


def _content(value: ir.Value, values: Mapping[str, Any]) -> Array:
    if value.is_initializer() and value.const_value is not None:
        return value.const_value.numpy()
    return np.asarray(values[_name(value)])


def _runner(
    model: ir.Model, step: Step[Any], readings: Sequence[Reading], feeds: Mapping[str, Any]
) -> Run:
    """The step as a model of its own; its weights are those of `model`, not copies."""
    made = {value for node in step.nodes for value in node.outputs}
    wanted = [
        value
        for reading in readings
        for value in reading.values
        if reading.kind != "shape" or value is not reading.value
    ]
    outputs = [value for value in dict.fromkeys([*step.saves, *wanted]) if value in made]
    view = ir.GraphView(
        step.inputs,
        outputs,
        nodes=step.nodes,
        initializers=step.weights,
        opset_imports=model.graph.opset_imports,
        name="step",
    )
    graph = view.clone()
    for value in graph.inputs:
        array = feeds[_name(value)]
        if isinstance(array, np.ndarray) and array.dtype.kind in "biufc":
            value.type = ir.TensorType(ir.DataType.from_numpy(array.dtype))
            value.shape = ir.Shape([None] * array.ndim)
    _add_shapes(graph, readings)
    if not graph.outputs:
        return lambda _: {}
    functions = tuple(model.functions.values())
    return Runner(ir.Model(graph, ir_version=model.ir_version, functions=functions))


def _add_shapes(graph: ir.Graph, readings: Sequence[Reading]) -> None:
    """Give shapes where nothing else is asked for, instead of copying the tensors."""
    values = {_name(value): value for node in graph for value in node.outputs}
    values |= {_name(value): value for value in (*graph.inputs, *graph.initializers.values())}
    for original in dict.fromkeys(r.value for r in readings if r.kind == "shape"):
        if _name(original) not in values:  # an input that no node of the step reads
            continue
        node = ir.node("Shape", [values[_name(original)]])
        node.outputs[0].name = _shape_name(original)
        node.outputs[0].type = ir.TensorType(ir.DataType.INT64)
        graph.append(node)
        graph.outputs.append(node.outputs[0])
