"""Channels behind a Clip are raised by what calibration measured: exactly, up to a margin."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from onnxslim_rx.aids import informed, rewritten
from onnxslim_rx.calibration import Samples
from onnxslim_rx.errors import InputError
from onnxslim_rx.ir import clone, digest
from onnxslim_rx.passbase import PassContext, PassResult
from onnxslim_rx.runtime import Runner
from onnxslim_rx.targets import load_target
from onnxslim_rx_passes.equalize import Equalize
from tests.passes.conftest import build

Array = npt.NDArray[Any]

TARGET = load_target("ort-cpu")
CTX = PassContext(evaluate=lambda _nodes, _feeds: {}, target=TARGET)
DEPTHWISE = """g (float[N,3,7,6] x) => (float[N,4,M,K] y) {
    a = Conv(x, w0, b0)
    c = Clip(a, low, high)
    d = Conv<group = 8>(c, w1, b1)
    e = Clip(d, low, high)
    y = Conv(e, w2)
}"""
SHAPES = {"w0": (8, 3, 1, 1), "b0": (8,), "w1": (8, 1, 3, 3), "b1": (8,), "w2": (4, 8, 1, 1)}
BOUNDS = {"low": np.float32(0), "high": np.float32(6)}
SIZES = np.array([0.01, 0.1, 0.3, 0.5, 1, 2, 8, 0], np.float32)  # of the first channels


def weights(rng: np.random.Generator) -> dict[str, Array]:
    found = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}
    found["w0"] *= SIZES[:, None, None, None]
    found["b0"] *= SIZES
    found["w1"] *= 0.5
    return {**found, **BOUNDS}


def drawn(rng: np.random.Generator, count: int = 16) -> list[dict[str, Array]]:
    return [{"x": rng.standard_normal((2, 3, 7, 6)).astype(np.float32)} for _ in range(count)]


def samples(data: list[dict[str, Array]]) -> Samples:
    return Samples(data.__getitem__, range(len(data)))


def run(model: ir.Model, data: list[dict[str, Array]], output: str = "y") -> Array:
    runner = Runner(model)
    return np.stack([runner(sample)[output] for sample in data])


def settled(model: ir.Model, data: list[dict[str, Array]]) -> Equalize:
    one = informed("equalize", model, samples(data), TARGET)
    assert isinstance(one, Equalize)
    return one


def inner(model: ir.Model, name: str) -> ir.Model:
    copy = clone(model)
    copy.graph.outputs.extend(v for n in copy.graph for v in n.outputs if v.name == name)
    return copy


def test_exact_on_what_was_measured_and_with_a_margin(rng) -> None:
    model, data = build(DEPTHWISE, weights(rng)), drawn(rng)
    before = digest(model)
    one = settled(model, data)
    made = rewritten(one, model, TARGET)
    assert digest(model) == before
    # powers of two, summed in the same order: nothing is rounded otherwise
    assert np.array_equal(run(made, data), run(model, data))
    for name in ("c", "e"):
        low, high = (run(inner(m, name), data, name).max(axis=(0, 1, 3, 4)) for m in (model, made))
        raised = np.exp2(np.array(list(one.raises[name]), np.float32))
        assert np.array_equal(high, low * raised)
        assert np.all(high[raised > 1] <= 6 / 1.25)
        room = np.where(low > 0, 6 / 1.25 / np.maximum(low, 1e-30), 1)
        most = np.log2(room) * (1 if name == "c" else 0.5)
        assert one.raises[name] == "".join(str(int(np.clip(np.floor(m), 0, 3))) for m in most)
    # inputs that make every channel an eighth larger still change nothing
    larger = [{"x": 1.1 * sample["x"]} for sample in data]
    assert np.array_equal(run(made, larger), run(model, larger))


def test_what_was_never_seen_is_cut_off_at_a_bound(rng) -> None:
    model, data = build(DEPTHWISE, weights(rng)), drawn(rng)
    made = rewritten(settled(model, data), model, TARGET)
    far = [{"x": 100 * sample["x"]} for sample in data[:2]]
    found, right = run(inner(made, "c"), far, "c"), run(inner(model, "c"), far, "c")
    assert not np.array_equal(run(made, far), run(model, far))
    assert found.max() == right.max() == 6  # a raised channel stands for 6 / 2**e and more at most


def test_again_changes_nothing(rng) -> None:
    model, data = build(DEPTHWISE, weights(rng)), drawn(rng)
    one = settled(model, data)
    made = rewritten(one, model, TARGET)
    assert informed("equalize", made, samples(data), TARGET) is None
    again: PassResult = one(made, CTX)
    assert not again.modified
    assert {skipped.where for skipped in again.skipped} == {"c", "e"}


def test_nothing_to_raise(rng) -> None:
    arrays = weights(rng)
    arrays["w0"][:] = 50
    arrays["w1"][:] = 50
    arrays["b1"][:] = 50
    assert informed("equalize", build(DEPTHWISE, arrays), samples(drawn(rng)), TARGET) is None
    plain = build("g (float[2,3,7,6] x) => (float[N,C,H,W] y) { y = Conv(x, w) }",
                  {"w": arrays["w0"]})  # fmt: skip
    assert informed("equalize", plain, samples(drawn(rng)), TARGET) is None


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("y = Conv(e, w2)", "y = Conv(e, w2)\n z = Relu(c)"),  # another reader
        ("c = Clip(a, low, high)", "c = Clip(a, one, high)"),  # the lower end would have to move
        ("c = Clip(a, low, high)", "c = Clip(a, low)"),  # no upper end to use
        ("c = Clip(a, low, high)", "m = ReduceMax<keepdims = 0>(x)\n c = Clip(a, low, m)"),
        ("d = Conv<group = 8>(c, w1, b1)", "k = Relu(w1)\n d = Conv<group = 8>(c, k, b1)"),
        ("d = Conv<group = 8>(c, w1, b1)", "d = Relu(c)"),
    ],
)
def test_refused(rng, old, new) -> None:
    arrays = {**weights(rng), "one": np.float32(1)}
    text = DEPTHWISE.replace(old, new)
    text = text.replace("y) {", "y, float[N,8,P,Q] z) {") if "z = " in new else text
    used = {name: array for name, array in arrays.items() if name in text.split("{")[1]}
    assert "c" not in Equalize().measures(build(text, used), CTX)


def test_other_models_and_bad_options(rng) -> None:
    model = build(DEPTHWISE, weights(rng))
    before = digest(model)
    for raises in ({"nothing": "1"}, {"c": "11"}):
        found = Equalize(raises=raises)(model, CTX)
        assert not found.modified
        assert "no Clip of so many channels" in found.skipped[0].why
    assert digest(model) == before
    bad: list[Any] = [{"c": "1x"}, {"c": "\u0661"}, ["c"]]
    for one in bad:
        with pytest.raises(InputError, match="raises"):
            Equalize(raises=one)


def test_peaks_that_are_not_finite_raise_nothing(rng) -> None:
    model = build(DEPTHWISE, weights(rng))
    peaks = np.array([np.nan, np.inf, -1, 0, 1, 6, 4.9, 0.1])
    one = Equalize().measured(model, CTX, {"c": peaks})
    assert one is not None
    assert one.raises == {"c": "00002003"}
