"""Spectra of whole models, through `rx.inspect`."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import onnxslim_rx as rx
from onnxslim_rx import spectra as module
from onnxslim_rx.errors import InputError
from onnxslim_rx.ir import load
from onnxslim_rx.passbase import Layer, LayerStatistics, weight_layers
from onnxslim_rx.runtime import Runner
from onnxslim_rx.spectra import unit_spectrum


def build(inputs, body, outputs="float[?,?] y", **weights):
    """A model with these weights."""
    text = f"""<ir_version: 8, opset_import: ["": 17]> g ({inputs}) => ({outputs}) {{ {body} }}"""
    proto = onnx.parser.parse_model(text)
    for name, weight in weights.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, name))
    return proto


@pytest.fixture
def digits(root):
    return root / "models" / "digits.onnx"


@pytest.fixture
def data(root):
    with np.load(root / "models" / "digits_calibration.npz") as file:
        return [{"image": file["image"][i : i + 1]} for i in range(48)]


def test_spectra_of_the_demo_model(digits, data):
    found = {s.name: s for s in rx.inspect(digits, data, spectra=True).spectra}

    assert list(found) == ["conv2_weight", "fc1_weight", "fc2_weight", "fc3_weight"]
    tensors = {v.name: v.const_value for v in load(digits).graph.initializers.values()}
    for name, spectrum in found.items():
        tensor = tensors[name]
        assert tensor is not None
        array = tensor.numpy()
        weight = array.reshape(len(array), -1).astype(float)
        energies = np.linalg.svd(weight, compute_uv=False) ** 2
        wanted = np.append(0.0, np.cumsum(energies)) / energies.sum()
        assert spectrum.plain is not None
        np.testing.assert_allclose(spectrum.plain, wanted, atol=1e-10)
    assert found["conv2_weight"].whitened is not None
    assert found["conv2_weight"].note == ""
    # digits lie near few directions: the outputs need fewer ranks than the weights
    whitened, plain = (found["fc1_weight"].rank(0.99, whitened=flag) for flag in (True, False))
    assert whitened is not None
    assert plain is not None
    assert whitened < plain // 3
    assert found["fc1_weight"].note == ""


def test_whitened_shares_are_those_of_what_the_runtime_computes(rng):
    weight = rng.standard_normal((40, 30)).astype(np.float32)
    model = build("float[?,40] x", "y = MatMul(x, w)", w=weight)
    samples = [{"x": rng.standard_normal((200, 40)).astype(np.float32)} for _ in range(20)]
    (spectrum,) = rx.inspect(model, samples, spectra=True).spectra

    runner = Runner(load(model))
    outputs = np.concatenate([runner(sample)["y"] for sample in samples]).astype(float)
    energies = np.linalg.svd(outputs, compute_uv=False) ** 2
    wanted = np.append(0.0, np.cumsum(energies)) / energies.sum()
    assert spectrum.whitened is not None
    np.testing.assert_allclose(spectrum.whitened, wanted, atol=2e-3)


def test_embeddings_are_whitened_by_what_was_read(rng):
    table = rng.standard_normal((60, 20)).astype(np.float32)
    model = build("int64[n] i", "y = Gather(t, i)", t=table)
    indices = rng.integers(0, 9, 300)
    (spectrum,) = rx.inspect(model, [{"i": indices}], spectra=True).spectra
    energies = np.linalg.svd(table[indices].astype(float), compute_uv=False) ** 2
    assert spectrum.whitened is not None
    np.testing.assert_allclose(
        spectrum.whitened[1:], np.cumsum(energies) / energies.sum(), atol=1e-9
    )


def test_spectra_are_only_there_when_asked_for(digits):
    assert rx.inspect(digits).spectra == ()
    plain = rx.inspect(digits, spectra=True).spectra
    assert all(spectrum.whitened is None and spectrum.note == "" for spectrum in plain)


def test_what_is_too_large_or_broken_is_said(rng, monkeypatch):
    monkeypatch.setattr(module, "_GRAM_SIDE", 39)
    weights = {"w": rng.standard_normal((40, 40)), "v": np.full((40, 40), np.inf)}
    weights = {name: array.astype(np.float32) for name, array in weights.items()}
    model = build(
        "float[?,40] x",
        "y = MatMul(x, w) z = MatMul(x, v)",
        "float[?,?] y, float[?,?] z",
        **weights,
    )
    samples = [{"x": np.ones((3, 40), np.float32)}]
    wide, broken = rx.inspect(model, samples, spectra=True).spectra
    assert wide.whitened is None
    assert "more than 39 inputs" in wide.note
    assert broken.plain is None
    assert broken.note == "the weight has NaN or infinity"


def test_memory_of_calibration_is_checked(digits, data):
    with pytest.raises(InputError, match="memory_bytes is 0"):
        rx.optimize(digits, calibration=data, memory_bytes=0, progress=False)
    (small, *_) = rx.inspect(digits, data, spectra=True, memory_bytes=1).spectra
    assert small.plain is not None


def test_siblings_have_one_spectrum_and_other_units_none(rng):
    w, v = (rng.standard_normal((20, n)).astype(np.float32) for n in (30, 8))
    both = "float[?,?] y, float[?,?] z"
    model = load(build("float[?,20] x", "y = MatMul(x, w) z = MatMul(x, v)", both, w=w, v=v))
    first, second = (
        layer
        for layer in weight_layers(model, {"linear": "linear"}, min_elements=1)
        if isinstance(layer, Layer)
    )
    weights = (first.weight, second.weight)
    joint = dataclasses.replace(first, name="both", constants=weights, members=(first, second))
    found = unit_spectrum(joint, None)
    assert found is not None
    assert found.plain is not None
    energies = np.linalg.svd(np.hstack([w, v]).astype(float), compute_uv=False) ** 2
    np.testing.assert_allclose(found.plain[1:], np.cumsum(energies) / energies.sum())
    gram = np.eye(20) * 7.0
    whitened = unit_spectrum(joint, statistics(gram, members=(statistics(gram),) * 2))
    assert whitened is not None
    assert whitened.whitened is not None
    np.testing.assert_allclose(whitened.whitened, found.plain, atol=1e-9)

    elsewhere = ir.Node("", "MatMul", [ir.Value(name="other"), second.weight])
    other = dataclasses.replace(second, node=elsewhere)
    assert unit_spectrum(dataclasses.replace(joint, members=(first, other)), None) is None
    assert unit_spectrum(dataclasses.replace(joint, members=()), None) is None  # two constants


def statistics(gram, **more):
    return LayerStatistics(gram, None, rows=10**6, sample=None, shape=(1, 20), **more)


def test_very_large_units_are_left_to_inspect(rng, monkeypatch):
    monkeypatch.setattr(module, "EXACT_SIDE", 10)
    model = load(build("float[?,20] x", "y = MatMul(x, w)", w=np.ones((20, 30), np.float32)))
    (layer,) = weight_layers(model, {"linear": "linear"}, min_elements=1)
    assert isinstance(layer, Layer)
    assert unit_spectrum(layer, None) is None
