"""Statistics of real models, cut into many blocks, against one uncut run."""

from __future__ import annotations

import math

import numpy as np
import pytest

from onnxslim_rx import calibration
from onnxslim_rx.analysis import weight_uses
from onnxslim_rx.calibration import readings
from onnxslim_rx.ir import load
from onnxslim_rx.passbase import Layer
from onnxslim_rx.runtime import Runner
from onnxslim_rx.verify import generate_inputs

KINDS = {"linear": "linear", "linear-left": "linear", "conv": "conv", "embedding": "embedding"}


def layers_of(model):
    return [
        Layer(f"{number}", use.node.op_type, KINDS[use.kind], use.node, use.index, index)
        for number, use in enumerate(weight_uses(model))
        if use.compressible and (index := use.activation_index) is not None and use.kind in KINDS
    ]


def patches(layer, loop_patches, image):
    """What a convolution of one group reads, (N, positions, C * taps)."""
    kernel = layer.weight.const_value.shape.numpy()[2:]
    rank, get = len(kernel), layer.node.attributes.get_ints
    ones = [1] * rank
    assert layer.node.attributes.get_string("auto_pad", "NOTSET") == "NOTSET"
    pads = get("pads", [0] * 2 * rank)
    found = loop_patches(image, kernel, get("strides", ones), get("dilations", ones), pads)
    return found.reshape(len(image), math.prod(found.shape[1 : rank + 1]), -1)


@pytest.mark.parametrize(
    ("file", "memory_bytes"),
    [
        ("minilm.onnx", 20 << 20),
        ("vit_ibp_3_3_8.onnx", 1),
        ("silero_vad_16k_op15.onnx", 1),
        ("cifar10_resnet_4b.onnx", 1),
    ],
)
def test_real_models(monkeypatch, assets, loop_patches, file, memory_bytes):
    monkeypatch.setattr(readings, "_LEAST", 1 << 20)  # all positions
    model = load(assets / "models" / file)
    layers = layers_of(model)
    data = generate_inputs(model, samples=3, seed=1)
    whole = model.clone()
    values = {value.name: value for node in whole.graph for value in node.outputs}
    values |= {value.name: value for value in whole.graph.inputs}
    seen = [layer for layer in layers if layer.node.graph is model.graph]
    assert seen
    names = dict.fromkeys(str(layer.activation.name) for layer in seen)
    whole.graph.outputs[:] = [values[name] for name in names]
    runner = Runner(whole, optimize=False)
    runs = [runner(sample) for sample in data]

    statistics = calibration.collect(model, layers, data, memory_bytes=memory_bytes)

    assert statistics.keys() == {layer.name for layer in seen}
    assert statistics.reasons.keys() == {layer.name for layer in layers} - statistics.keys()
    for layer in seen:
        found = statistics[layer.name]
        activations = [run[layer.activation.name] for run in runs]
        assert found.shape == max((a.shape for a in activations), key=np.prod)
        if found.gram is not None:
            width = len(found.gram)
            if layer.kind == "conv":
                activations = [patches(layer, loop_patches, a) for a in activations]
                assert found.positions == sum(math.prod(a.shape[:2]) for a in activations)
            rows = np.concatenate([np.float64(a).reshape(-1, width) for a in activations])
            error = np.linalg.norm(found.gram - rows.T @ rows)
            # measured 4e-7 at most: fused kernels round activations otherwise, layer by layer
            assert error <= 4e-6 * np.linalg.norm(rows) ** 2
        elif found.counts is not None:
            indices = np.concatenate([a.ravel() for a in activations])
            expected = np.bincount(indices, minlength=len(found.counts))
            np.testing.assert_array_equal(found.counts, expected)
