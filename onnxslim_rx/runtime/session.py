"""A model that can be called."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime

from onnxslim_rx.errors import InputError
from onnxslim_rx.ir import is_large
from onnxslim_rx.runtime.bits import needs_bits, share, to_numpy
from onnxslim_rx.runtime.folding import folded
from onnxslim_rx.runtime.frugal import large_model_in, set_frugal
from onnxslim_rx.runtime.messages import explain
from onnxslim_rx.runtime.native import register, uses_domain
from onnxslim_rx.runtime.specs import TensorSpec, check_feeds, numpy_dtype
from onnxslim_rx.runtime.weights import Detached, detach

__all__ = ["Runner", "default_threads", "evaluate", "set_default_threads"]

Array = npt.NDArray[Any]
_IR_VERSION = 10  # of the small models made here; holds all element types
_FOLDER_KEY = "session.model_external_initializers_file_folder_path"
_SILENT = 4  # only fatal errors are logged; all others are raised anyway

_default_threads: int | None = None


def set_default_threads(threads: int | None) -> None:
    """Threads that every later `Runner` of this process uses (None: as onnxruntime chooses)."""
    global _default_threads  # noqa: PLW0603  one setting of the process, made by the command line
    _default_threads = threads


def default_threads() -> int:
    """What `set_default_threads` was told; 0: onnxruntime chooses."""
    return _default_threads or 0


class Runner:
    """A model in a session of ONNX Runtime on the CPU; call it with inputs, get outputs.

    Weights of an `onnx_ir.Model` are shared with the session, not copied, whatever their size. Of
    large models (see `ir.is_large`) onnxruntime makes no packed or folded copies either.

    Args:
        model: a path, a serialised model, or a model in memory (left as it is).
        threads: threads within an operator; None takes `set_default_threads`' value.
        optimize: let onnxruntime rewrite the graph at load.
        outputs: names of the outputs to compute; None computes all.
        libraries: libraries of custom operators to load.
        spin: let idle threads wait actively for the next run, as onnxruntime does unless told
            otherwise. Here they would take the cores from whatever comes between two runs: numpy,
            or another session that is timed in turns with this one.
        frugal: whether onnxruntime makes no packed or folded copies of weights; None: where the
            model is large.
        device: what operators of `ai.onnxslim.rx` run on, see `InferenceSession`; the native
            library is loaded where the model has such operators. None: as "auto".

    Attributes:
        inputs: what must be given, by name.
        overridable: weights that may be given, too: initializers that are also graph inputs.
        outputs: what comes back, by name.
        frugal: as given, or found.

    Raises:
        InputError: onnxruntime cannot load the model, an output does not exist, or there is no
            native library or device where one is needed.
    """

    def __init__(
        self,
        model: ir.Model | str | os.PathLike[str] | bytes,
        *,
        threads: int | None = None,
        optimize: bool = True,
        outputs: Sequence[str] | None = None,
        libraries: Sequence[str | os.PathLike[str]] = (),
        spin: bool = False,
        frugal: bool | None = None,
        device: str | None = None,
    ) -> None:
        options = onnxruntime.SessionOptions()
        if not spin:
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = _SILENT
        options.intra_op_num_threads = threads or _default_threads or 0
        if not optimize:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        if isinstance(model, (str, os.PathLike)):
            model = large_model_in(model) or model
        if frugal is None:
            frugal = isinstance(model, ir.Model) and is_large(model)
        self.frugal = frugal
        unwanted = set_frugal(options) if self.frugal else []
        try:
            if uses_domain(model):
                register(options, device)
            for library in libraries:
                options.register_custom_ops_library(os.fspath(library))
            if isinstance(model, ir.Model):
                whole = folded(model, Runner) if self.frugal and optimize else model
                source: str | bytes = self._share_weights(detach(whole), options)
            else:
                source = model if isinstance(model, bytes) else os.fspath(model)
            self._session = onnxruntime.InferenceSession(
                source, options, providers=["CPUExecutionProvider"], disabled_optimizers=unwanted
            )
        except InputError:
            raise
        except Exception as error:  # onnxruntime's exceptions share no other base
            raise explain(error, "load the model") from error
        self._silent = onnxruntime.RunOptions()
        self._silent.log_severity_level = _SILENT
        self.inputs = _specs(self._session.get_inputs())
        self.overridable = _specs(self._session.get_overridable_initializers())
        self.outputs = _selected(_specs(self._session.get_outputs()), outputs)

    def _share_weights(self, model: Detached, options: onnxruntime.SessionOptions) -> bytes:
        if model.folder:
            options.add_session_config_entry(_FOLDER_KEY, model.folder)
        # the session reads these as long as it lives
        self._weights = model.shared
        self._values = {name: share(array) for name, array in model.shared.items()}
        # the first lets the optimizer see them, the second keeps the session from copying them
        options.add_external_initializers(list(self._values), list(self._values.values()))
        for name, value in self._values.items():
            options.add_initializer(name, value)
        return model.content

    def __call__(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """Compute the outputs for `feeds`: arrays by input name, in the model's types.

        Returns:
            Outputs by name: arrays; lists for sequences, dicts for maps, None for an empty
            optional.

        Raises:
            InputError: names, types or shapes do not fit, or onnxruntime fails.
        """
        check_feeds(feeds, self.inputs, self.overridable)
        dtypes = [spec.dtype for spec in self.outputs.values()]
        dtypes += [value.dtype for value in feeds.values() if isinstance(value, np.ndarray)]
        run = self._run_values if any(map(needs_bits, dtypes)) else self._run_arrays
        try:
            return dict(zip(self.outputs, run(feeds), strict=True))
        except Exception as error:  # onnxruntime's exceptions share no other base
            raise explain(error, "run the model") from error

    def _run_arrays(self, feeds: Mapping[str, Any]) -> list[Any]:
        # numpy's scalars are no arrays for onnxruntime
        plain = {
            name: np.asarray(value) if isinstance(value, np.generic) else value
            for name, value in feeds.items()
        }
        return list(self._session.run(list(self.outputs), plain, self._silent))

    def _run_values(self, feeds: Mapping[str, Any]) -> list[Any]:
        arrays = {name: np.ascontiguousarray(value) for name, value in feeds.items()}
        values = {name: share(array) for name, array in arrays.items()}
        found = self._session.run_with_ort_values(list(self.outputs), values, self._silent)
        specs = self.outputs.values()
        return [to_numpy(value, spec.dtype) for value, spec in zip(found, specs, strict=True)]


def evaluate(
    nodes: Sequence[ir.Node], feeds: Mapping[str, Array], opset_imports: Mapping[str, int]
) -> dict[str, Array]:
    """Compute `nodes` on their own; they stay in their graph.

    Args:
        nodes: in topological order.
        feeds: arrays for what enters them, by name of the value; initializers are found without.
        opset_imports: version by domain.

    Returns:
        Every output of every node, by name.

    Raises:
        InputError: something that enters is neither fed nor an initializer, or onnxruntime fails.
    """
    made = [value for node in nodes for value in node.outputs if value.name]
    inputs, weights = _entering(nodes, feeds)
    view = ir.GraphView(
        inputs,
        made,
        nodes=nodes,
        initializers=weights,
        opset_imports=dict(opset_imports),
        name="evaluate",
    )
    graph = view.clone()
    for value in graph.inputs:
        array = feeds[str(value.name)]
        value.type = ir.TensorType(ir.DataType.from_numpy(array.dtype))
        value.shape = ir.Shape(array.shape)
    runner = Runner(ir.Model(graph, ir_version=_IR_VERSION), optimize=False)
    return runner({name: feeds[name] for name in runner.inputs})


def _entering(
    nodes: Sequence[ir.Node], feeds: Mapping[str, Array]
) -> tuple[list[ir.Value], list[ir.Value]]:
    """Values that `nodes` read but do not make: those that are fed, and initializers."""
    made = {value for node in nodes for value in node.outputs}
    inputs: list[ir.Value] = []
    weights: list[ir.Value] = []
    for value in dict.fromkeys(_read(nodes)):
        if value in made:
            continue
        if value.name in feeds:
            inputs.append(value)
        elif value.const_value is not None and value.is_initializer():
            weights.append(value)
        else:
            raise InputError(f"nothing is given for {value.name!r}, which the nodes read")
    return inputs, weights


def _read(nodes: Iterable[ir.Node]) -> Iterator[ir.Value]:
    """What `nodes` read from outside themselves, also deep inside their subgraphs."""
    for node in nodes:
        yield from (value for value in node.inputs if value is not None)
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                graphs = [attribute.as_graph()]
            elif attribute.type == ir.AttributeType.GRAPHS:
                graphs = list(attribute.as_graphs())
            else:
                continue
            for graph in graphs:
                own = {*graph.inputs, *graph.initializers.values()}
                own |= {value for inner in graph for value in inner.outputs}
                outer = [*_read(graph), *graph.outputs]
                yield from (value for value in outer if value not in own)


def _specs(arguments: Iterable[onnxruntime.NodeArg]) -> dict[str, TensorSpec]:
    return {
        argument.name: TensorSpec(
            argument.name, numpy_dtype(argument.type), tuple(argument.shape), argument.type
        )
        for argument in arguments
    }


def _selected(specs: dict[str, TensorSpec], names: Sequence[str] | None) -> dict[str, TensorSpec]:
    for name in names or ():
        if name not in specs:
            raise InputError(
                f"the model has no output {name!r}", expected="one of " + ", ".join(specs)
            )
    return specs if names is None else {name: specs[name] for name in names}
