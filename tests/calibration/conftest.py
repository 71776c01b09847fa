"""Small models in ONNX's text syntax, and what their layers must have measured."""

from __future__ import annotations

import importlib

import numpy as np
import onnx_ir as ir
import pytest

from onnxslim_rx import calibration
from onnxslim_rx.passbase import Layer
from onnxslim_rx.runtime import Runner


def collect(*args, **options):
    return calibration.collect(*args, **options)


def model_of(signature, body, functions="", **weights):
    """A model in ONNX's text syntax whose weights are the given arrays."""
    shapes = ", ".join(
        f"{ir.DataType.from_numpy(w.dtype).name.lower().replace('float64', 'double')}"
        f"[{','.join(map(str, w.shape))}] {name}"
        for name, w in weights.items()
    )
    inputs, outputs = signature.split("=>")
    declared = f"{inputs}{', ' if inputs.strip() and shapes else ''}{shapes}"
    model = ir.from_onnx_text(
        '<ir_version: 8, opset_import: ["": 17, "f": 1, "com.microsoft": 1]>'
        f"g ({declared}) => ({outputs}) {{ {body} }} {functions}"
    )
    for value in list(model.graph.inputs):
        if value.name in weights:
            model.graph.inputs.remove(value)
            value.const_value = ir.tensor(weights[value.name], name=value.name)
            model.graph.register_initializer(value)
    return model


def conv(attributes, kernels, rank, *, operator="Conv", channels=None):
    """One convolution of any image."""
    sizes = ",".join("HWD"[:rank])
    names = ", ".join(f"{key}={value}" for key, value in attributes.items())
    names = f"<{names}>" if names else ""
    channels = kernels.shape[1] if channels is None else channels
    return model_of(
        f"float[N,{channels},{sizes}] x => float y", f"y = {operator}{names}(x, w)", w=kernels
    )


def layers_of(model):
    """Every node with an initializer as a weight."""
    found = []
    for node in model.graph:
        kinds = {"MatMul": "linear", "Gemm": "linear", "Conv": "conv", "Gather": "embedding"}
        if node.op_type not in kinds:
            continue
        weight = next(i for i, value in enumerate(node.inputs[:2]) if value.is_initializer())
        name = f"{node.inputs[weight].name}:{node.outputs[0].name}"
        found.append(Layer(name, node.op_type, kinds[node.op_type], node, weight, 1 - weight))
    return found


def activations(model, layers, data):
    """The tensor that enters each layer, by layer name, one a sample, from one uncut run."""
    whole = model.clone()
    values = {value.name: value for node in whole.graph for value in node.outputs}
    wanted = {layer.activation.name for layer in layers}
    for name in sorted(wanted & values.keys()):
        if not values[name].is_graph_output():
            whole.graph.outputs.append(values[name])
    runner = Runner(whole, optimize=False)
    runs = [{**sample, **runner(sample)} for sample in data]
    return {layer.name: [run[layer.activation.name] for run in runs] for layer in layers}


def loop_patches(image, kernel, strides, dilations, pads):
    """(N, *outputs, C, *kernel) in float64, entry by entry."""
    rank = len(kernel)
    around = [(0, 0), (0, 0), *zip(pads[:rank], pads[rank:], strict=True)]
    padded = np.pad(np.asarray(image, np.float64), around)
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    sizes = zip(padded.shape[2:], spans, strides, strict=True)
    outputs = [(size - span) // stride + 1 for size, span, stride in sizes]
    found = np.zeros((len(image), *outputs, image.shape[1], *kernel))
    for place in np.ndindex(*outputs):
        for tap in np.ndindex(*kernel):
            steps = zip(place, strides, tap, dilations, strict=True)
            here = (slice(None), slice(None), *(p * s + t * d for p, s, t, d in steps))
            into = (slice(None), *place, slice(None), *tap)
            found[into] = padded[here]
    return found


def as_rows(layer, found):
    """X of `Y = X W` in float64, written down anew for every case."""
    found = np.asarray(found, dtype=np.float64)
    flag = {name: bool(a.as_int()) for name, a in layer.node.attributes.items() if "trans" in name}
    if found.ndim == 1:
        return found[None]
    if layer.activation_index == 0:
        found = found.T if flag.get("transA") else found
    elif not flag.get("transB"):
        found = np.moveaxis(found, -1, -2)
    return found.reshape(-1, found.shape[-1])


def assert_gram(gram, rows):
    """Rounding of 512 products summed in float32, and of activations a few layers deep."""
    assert gram.dtype == np.float64
    bound = 2048 * 2.0**-24 * (np.abs(rows).T @ np.abs(rows)) + 1e-30
    assert (np.abs(gram - rows.T @ rows) <= bound).all()
    np.testing.assert_array_equal(gram, gram.T)


def assert_statistics(model, data, memory_bytes):
    """Linear layers only."""
    layers = layers_of(model)
    assert layers
    seen = activations(model, layers, data)
    statistics = collect(model, layers, data, memory_bytes=memory_bytes)
    assert list(statistics) == [layer.name for layer in layers]
    assert statistics.reasons == {}
    for layer in layers:
        found = statistics[layer.name]
        rows = np.concatenate([as_rows(layer, one) for one in seen[layer.name]])
        assert found.rows == len(rows)
        assert_gram(found.gram, rows)
        assert found.shape == max((one.shape for one in seen[layer.name]), key=np.prod)
        assert found.counts is None
        assert found.sample.shape == (min(len(rows), 256), rows.shape[1])
        # each sampled row is one of the rows, and none is drawn twice
        distance = np.abs(found.sample[:, None, :] - rows[None]).max(axis=2)
        nearest = distance.argmin(axis=1)
        assert len(set(nearest)) == len(nearest)
        assert (distance.min(axis=1) <= 1e-4 * np.abs(rows).max()).all()
    return statistics


def noise(rng, *shape, dtype=np.float32):
    return (rng.standard_normal(shape) / np.sqrt(shape[-1])).astype(dtype)


def producer(model, name):
    return next(node for node in model.graph if node.outputs[0].name == name)


def chain(rng, depth, width):
    body = " ".join(f"m{i} = MatMul(h{i}, w{i}) h{i + 1} = Tanh(m{i})" for i in range(depth))
    weights = {f"w{i}": noise(rng, width, width) for i in range(depth)}
    return model_of(
        f"float[N,{width}] x => float[N,{width}] y",
        f"h0 = Sin(x) {body} y = Identity(h{depth})",
        **weights,
    )


@pytest.fixture
def steps_run(monkeypatch):
    """Counts the steps of each call."""
    module = importlib.import_module("onnxslim_rx.calibration.collect")
    plan, counts = module.plan_steps, []

    def counting(*args):
        steps = plan(*args)
        counts.append(len(steps))
        return steps

    monkeypatch.setattr(module, "plan_steps", counting)
    return counts


# tests find these as fixtures: test modules cannot import each other


@pytest.fixture(scope="session", name="collect")
def _collect():
    return collect


@pytest.fixture(scope="session", name="model_of")
def _model_of():
    return model_of


@pytest.fixture(scope="session", name="conv")
def _conv():
    return conv


@pytest.fixture(scope="session", name="layers_of")
def _layers_of():
    return layers_of


@pytest.fixture(scope="session", name="activations")
def _activations():
    return activations


@pytest.fixture(scope="session", name="loop_patches")
def _loop_patches():
    return loop_patches


@pytest.fixture(scope="session", name="assert_gram")
def _assert_gram():
    return assert_gram


@pytest.fixture(scope="session", name="assert_statistics")
def _assert_statistics():
    return assert_statistics


@pytest.fixture(scope="session", name="noise")
def _noise():
    return noise


@pytest.fixture(scope="session", name="producer")
def _producer():
    return producer


@pytest.fixture(scope="session", name="chain")
def _chain():
    return chain
