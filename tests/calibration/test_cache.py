"""Statistics that were measured before are used again, if they are still true and whole."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from onnxslim_rx.calibration import collect, journal
from onnxslim_rx.passbase import Layer


def model_of(weight):
    model = ir.from_onnx_text(
        '<ir_version: 8, opset_import: ["": 17]> g (float[N,6] x, int64[M] i, float[6,5] w,'
        " float[9,5] e) => (float[N,5] y, float[M,5] z)"
        " { h = Sin(x) y = MatMul(h, w) z = Gather(e, i) }"
    )
    for value, array in (
        (model.graph.inputs[2], weight),
        (model.graph.inputs[3], np.ones((9, 5), np.float32)),
    ):
        value.const_value = ir.tensor(array, name=value.name)
        model.graph.register_initializer(value)
    del model.graph.inputs[2:]
    return model


def layers_of(model):
    return [
        Layer("w", "MatMul", "linear", model.graph[1], 1, 0),
        Layer("e", "Gather", "embedding", model.graph[2], 0, 1),
    ]


@pytest.fixture
def weight(rng):
    return rng.standard_normal((6, 5)).astype(np.float32)


@pytest.fixture
def data(rng):
    return [
        {"x": rng.standard_normal((4, 6)).astype(np.float32), "i": rng.integers(0, 9, 3)}
        for _ in range(3)
    ]


@pytest.fixture
def measured(monkeypatch):
    """Counts measurements."""
    counts = []
    finish = journal.Journal.finish

    def counting(self, *args):
        counts.append(1)
        finish(self, *args)

    monkeypatch.setattr(journal.Journal, "finish", counting)
    return counts


def assert_same(first, second):
    assert list(first) == list(second)
    assert first.reasons == second.reasons
    for name in first:
        one, other = first[name], second[name]
        assert (one.rows, one.shape) == (other.rows, other.shape)
        for field in ("gram", "counts", "sample"):
            np.testing.assert_array_equal(getattr(one, field), getattr(other, field))


def test_the_same_again_is_not_measured_again(tmp_path, weight, data, measured):
    model = model_of(weight)
    first = collect(model, layers_of(model), data, cache=tmp_path / "cache")
    again = model_of(weight.copy())
    copies = [{name: array.copy() for name, array in sample.items()} for sample in data]
    second = collect(again, layers_of(again), copies, cache=tmp_path / "cache")
    assert len(measured) == 1
    assert_same(first, second)
    assert_same(second, collect(model, layers_of(model), data))
    assert len(list((tmp_path / "cache").iterdir())) == 1  # nothing unfinished is left


@pytest.mark.parametrize("change", ["weight", "data", "order", "layers", "seed", "version"])
def test_what_differs_is_measured_again(tmp_path, monkeypatch, weight, data, measured, change):
    model = model_of(weight)
    layers, seed = layers_of(model), 0
    collect(model, layers, data, cache=tmp_path)
    if change == "weight":
        weight[3, 2] += 1
        model = model_of(weight)
        layers = layers_of(model)
    elif change == "data":
        data[1]["i"][0] = (data[1]["i"][0] + 1) % 9
    elif change == "order":
        data.reverse()
    elif change == "layers":
        layers.pop()
    elif change == "seed":
        seed = 1
    else:
        monkeypatch.setattr("onnxslim_rx.calibration.identity.version", lambda: (1, 0, 0))
    collect(model, layers, data, cache=tmp_path, seed=seed)
    assert len(measured) == 2


@pytest.mark.parametrize("number", range(12))
def test_damaged_entries_are_measured_again(tmp_path, weight, data, measured, rng, number):
    model = model_of(weight)
    first = collect(model, layers_of(model), data, cache=tmp_path)
    (folder,) = tmp_path.iterdir()
    victim = sorted(folder.iterdir())[number % 4]
    if number < 4:
        victim.unlink()
    elif number < 8:
        victim.write_bytes(victim.read_bytes()[: number * 9])
    else:
        damaged = bytearray(victim.read_bytes())
        damaged[int(rng.integers(len(damaged)))] ^= 0x55
        victim.write_bytes(damaged)
    second = collect(model, layers_of(model), data, cache=tmp_path)
    assert len(measured) == 2
    assert_same(second, collect(model, layers_of(model), data))
    assert list(first) == list(second)
    collect(model, layers_of(model), data, cache=tmp_path)
    assert len(measured) == 3  # the call without a cache is one of them


def test_an_index_that_was_changed_is_damaged(tmp_path, weight, data, measured):
    model = model_of(weight)
    collect(model, layers_of(model), data, cache=tmp_path)
    (index,) = tmp_path.glob("*/index")
    index.write_text(index.read_text().replace('"rows": 12', '"rows": 13'))
    assert collect(model, layers_of(model), data, cache=tmp_path)["w"].rows == 12
    assert len(measured) == 2
