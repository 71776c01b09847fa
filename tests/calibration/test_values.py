"""What values enter and leave layers, against one uncut run of the model."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from onnxslim_rx import calibration
from onnxslim_rx.calibration import values
from onnxslim_rx.calibration.files import read_checked, write_checked
from onnxslim_rx.calibration.readings import Reading
from onnxslim_rx.calibration.statistics import INDEX
from onnxslim_rx.errors import InputError
from onnxslim_rx.layers import Layer
from onnxslim_rx.quant import Histogram, Tally
from onnxslim_rx.runtime import Runner

Array = npt.NDArray[Any]
Data = list[dict[str, Array]]


def counted(*tensors: Array) -> Histogram:
    tally = Tally()
    for tensor in tensors:
        tally.add(np.asarray(tensor))
    return tally.histogram()


def assert_same(found: Histogram | None, expected: Histogram) -> None:
    assert found is not None
    np.testing.assert_array_equal(found.counts, expected.counts)
    assert (found.reach, found.low, found.high) == (expected.reach, expected.low, expected.high)


def seen(model: ir.Model, name: str, data: Data) -> list[Array]:
    """The tensor `name` on each sample, of one run without cuts."""
    whole = model.clone()
    made = {value.name: value for node in whole.graph for value in node.outputs}
    if name in made and not made[name].is_graph_output():
        whole.graph.outputs.append(made[name])
    runner = Runner(whole, optimize=False)
    return [{**sample, **runner(sample)}[name] for sample in data]


@pytest.fixture
def images(model_of: Any, rng: np.random.Generator) -> ir.Model:
    """Convolutions, one of them depthwise, with and without activations, and a linear layer."""
    return model_of(  # type: ignore[no-any-return]
        "float[N,3,H,W] x => float[N,5] z, float[N,6,H,W] c",
        """a = Conv<pads=[1,1,1,1]>(x, w1) b = Relu(a)
           c = Conv<pads=[1,1,1,1], group=6>(b, w2) d = Clip(c, low, high)
           e = GlobalAveragePool(c) f = Flatten(e) g = MatMul(f, w3) z = Relu(g)""",
        w1=eighths(rng, 6, 3, 3, 3),
        w2=eighths(rng, 6, 1, 3, 3),
        w3=eighths(rng, 6, 5),
        low=np.float32(0),
        high=np.float32(1),
    )


def eighths(rng: np.random.Generator, *shape: int) -> Array:
    """Numbers whose sums of products are exact, in whatever order."""
    return (rng.integers(-9, 10, shape) / 8).astype(np.float32)


def pictures(rng: np.random.Generator, count: int, side: int = 8) -> Data:
    return [{"x": eighths(rng, 1 + n % 2, 3, side, side)} for n in range(count)]


@pytest.mark.parametrize("memory_bytes", [1, 1 << 30])
def test_all_values_are_counted(
    images: ir.Model, layers_of: Any, rng: np.random.Generator, memory_bytes: int
) -> None:
    data, layers = pictures(rng, 5), layers_of(images)
    found = calibration.collect(images, layers, data, memory_bytes=memory_bytes, ranges=True)
    # c is an output of the model and has two readers: what leaves there is no Clip's
    expected = {"w1:a": ("x", "b"), "w2:c": ("b", "c"), "w3:g": ("f", "z")}
    assert list(found) == list(expected)
    assert found["w2:c"].gram is None  # of depthwise convolutions nothing else is measured
    for name, (entering, leaving) in expected.items():
        assert_same(found[name].entering, counted(*seen(images, entering, data)))
        assert_same(found[name].leaving, counted(*seen(images, leaving, data)))


def test_tensors_are_counted_once(
    images: ir.Model, layers_of: Any, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    class Counting(values.Values):
        def __init__(self, reading: Reading, seed: int) -> None:
            made.append(str(reading.value.name))
            super().__init__(reading, seed)

    monkeypatch.setattr("onnxslim_rx.calibration.observers.Values", Counting)
    calibration.collect(images, layers_of(images), pictures(rng, 1), ranges=True)
    assert sorted(made) == ["b", "c", "f", "x", "z"]


def test_without_being_asked_nothing_is_counted(
    images: ir.Model, layers_of: Any, rng: np.random.Generator
) -> None:
    found = calibration.collect(images, layers_of(images), pictures(rng, 1))
    assert all(one.entering is one.leaving is None for one in found.values())


def test_other_kinds_have_none(model_of: Any, noise: Any, rng: np.random.Generator) -> None:
    model = model_of(
        "int64[N] i => float[N,6] z", "e = Gather(t, i) z = MatMul(e, w)",
        t=noise(rng, 9, 4), w=noise(rng, 4, 6),
    )  # fmt: skip
    layers = [
        Layer("t", "Gather", "embedding", model.graph[0], 0, 1),
        Layer("w", "MatMul", "linear", model.graph[1], 1, 0),
    ]
    data = [{"i": np.array([1, 2, 8])}]
    found = calibration.collect(model, layers, data, ranges=True)
    assert found["t"].entering is found["t"].leaving is None
    assert found["t"].counts is not None
    assert_same(found["w"].entering, counted(*seen(model, "e", data)))


def test_of_large_tensors_a_part_is_counted(
    conv: Any, layers_of: Any, noise: Any, rng: np.random.Generator
) -> None:
    model = conv({}, noise(rng, 4, 3, 1, 1), 2)
    data = pictures(rng, 4, side=100)
    data[2]["x"][0, 1, 7, 3] = 31.5  # in a bin of its own
    (found,) = calibration.collect(model, layers_of(model), data, ranges=True).values()
    entering = found.entering
    assert entering is not None
    every = counted(*(sample["x"] for sample in data))
    assert (entering.low, entering.high, entering.reach) == (every.low, 31.5, 32)
    assert entering.counts.sum() == 4 * 16384  # of 30,000 or 60,000 each
    here, there = (np.cumsum(one.counts) / one.counts.sum() for one in (entering, every))
    assert np.abs(here - there).max() < 0.006  # Kolmogorov and Smirnov, 1 in 100
    again = calibration.collect(model, layers_of(model), data, ranges=True)
    assert_same(again["w:y"].entering, entering)
    other = calibration.collect(model, layers_of(model), data, ranges=True, seed=1)["w:y"].entering
    assert other is not None
    assert (other.counts != entering.counts).any()


def test_no_pattern_hides_from_what_is_counted() -> None:
    """Every column of an image is read, whatever its width."""
    for width in (64, 100, 128, 224):
        columns = np.broadcast_to(np.arange(width, dtype=np.float32), (3 * 224, width))
        observer = values.Values(Reading("histogram", ir.Value(name="x"), False, 0), 0)
        for _ in range(8):
            observer.see([columns], [], "a sample")
        counts, _ = observer.arrays().values()
        filled = counts[counts > 0]
        assert len(filled) == width
        assert filled.min() > 0.7 * filled.mean()


def test_padding_is_left_out(model_of: Any, noise: Any, rng: np.random.Generator) -> None:
    model = model_of(
        "float[B,S,4] x, int64[B,S] attention_mask => float[B,S,6] z",
        "h = Sin(x) y = MatMul(h, w) z = Relu(y) m = Cast<to=1>(attention_mask)",
        w=noise(rng, 4, 6),
    )
    mask = np.array([[1, 1, 1, 0], [1, 0, 0, 0]])
    x = rng.standard_normal((2, 4, 4)).astype(np.float32)
    layer = Layer("w", "MatMul", "linear", model.graph[1], 1, 0)
    data = [{"x": x, "attention_mask": mask}]
    found = calibration.collect(model, [layer], data, ranges=True)["w"]
    h, z = (seen(model, name, data)[0] for name in "hz")
    assert_same(found.entering, counted(h[mask == 1]))
    assert_same(found.leaving, counted(z[mask == 1]))


def test_a_mask_says_nothing_about_channels(
    model_of: Any, noise: Any, rng: np.random.Generator
) -> None:
    model = model_of(
        "float[B,4,L] x, int64[B,S] attention_mask => float[B,4,L] y",
        "y = Conv(x, w) m = Cast<to=1>(attention_mask)",
        w=noise(rng, 4, 4, 1),
    )
    x = rng.standard_normal((2, 4, 5)).astype(np.float32)
    data = [{"x": x, "attention_mask": np.array([[1, 1, 1, 0], [1, 0, 0, 0]])}]
    layer = Layer("w", "Conv", "conv", model.graph[0], 1, 0)
    assert_same(calibration.collect(model, [layer], data, ranges=True)["w"].entering, counted(x))


BRANCH = """
h = Sin(x) s = ReduceSum<keepdims=0>(x) c = Greater(s, zero)
y = If(c)<then_branch = t () => (float[N,5] p) { a = MatMul(h, w) p = Relu(a) },
          else_branch = e () => (float[N,5] q) { r = Cos(h) q = MatMul(r, v) }>
"""


def test_branches(model_of: Any, noise: Any, rng: np.random.Generator) -> None:
    model = model_of(
        "float[N,4] x => float[N,5] y", BRANCH,
        w=noise(rng, 4, 5), v=noise(rng, 4, 5), zero=np.float32(0),
    )  # fmt: skip
    branches = [
        model.graph[3].attributes[name].as_graph() for name in ("then_branch", "else_branch")
    ]
    layers = [
        Layer("w", "MatMul", "linear", branches[0][0], 1, 0),
        Layer("v", "MatMul", "linear", branches[1][1], 1, 0),
    ]
    x = np.abs(rng.standard_normal((3, 4))).astype(np.float32)
    data = [{"x": x}, {"x": -2 * x}]
    found = calibration.collect(model, layers, data, ranges=True)
    assert found["w"].leaving is None  # nobody sees it
    assert_same(found["w"].entering, counted(np.sin(x)))
    assert list(found) == ["w"]
    assert "so does what it reads" in found.reasons["v"]
    never = calibration.collect(model, layers, data[1:], ranges=True)["w"]
    assert never.entering is None  # the branch is not taken


def test_half_precision(model_of: Any, noise: Any, rng: np.random.Generator) -> None:
    model = model_of(
        "float16[N,4] x => float16[N,5] y", "y = MatMul(x, w)", w=noise(rng, 4, 5, dtype=np.float16)
    )
    layer = Layer("w", "MatMul", "linear", model.graph[0], 1, 0)
    data = [{"x": rng.standard_normal((7, 4)).astype(np.float16)}]
    found = calibration.collect(model, [layer], data, ranges=True)["w"]
    assert_same(found.entering, counted(data[0]["x"]))
    assert_same(found.leaving, counted(*seen(model, "y", data)))


@pytest.mark.parametrize("value", [0.0, 3.5, -1e30])
def test_constant_activations(
    conv: Any, layers_of: Any, noise: Any, rng: np.random.Generator, value: float
) -> None:
    model = conv({}, noise(rng, 4, 3, 1, 1), 2)
    data = [{"x": np.full((1, 3, 4, 4), value, np.float32)} for _ in range(3)]
    (found,) = calibration.collect(model, layers_of(model), data, ranges=True).values()
    assert found.entering is not None
    assert found.entering.low == found.entering.high == np.float32(value)
    assert found.entering.counts.sum() == 144


def test_infinity_that_the_model_makes_is_named_with_the_sample(
    conv: Any, layers_of: Any, noise: Any, rng: np.random.Generator
) -> None:
    model = conv({}, noise(rng, 4, 3, 1, 1), 2)
    data = pictures(rng, 3)
    data[1]["x"] = np.full_like(data[1]["x"], 3e38)
    with pytest.raises(
        InputError, match=r"NaN or infinity at 'y' on calibration sample 1; expected finite"
    ):
        calibration.collect(model, layers_of(model), data, ranges=True)


class KilledError(BaseException):
    """Ends a run as a signal would."""


def test_the_cache_tells_ranges_from_none_and_a_killed_run_goes_on(
    images: ir.Model,
    layers_of: Any,
    rng: np.random.Generator,
    tmp_path: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layers, data = layers_of(images), pictures(rng, 3)

    def measured(ranges: bool, cache: Any = tmp_path) -> calibration.Statistics:
        return calibration.collect(images, layers, data, memory_bytes=1, cache=cache, ranges=ranges)

    expected = measured(True, None)
    measured(False)
    assert len(list(tmp_path.glob("*[0-9a-f]"))) == 1
    ran: list[str] = []
    see = values.Values.see

    def dying(self: Any, *args: Any) -> None:
        name = str(self._reading.value.name)
        if name == "f" and "f" not in ran:
            ran.append("f")
            raise KilledError
        ran.append(name)
        see(self, *args)

    monkeypatch.setattr(values.Values, "see", dying)
    with pytest.raises(KilledError):
        measured(True)
    before = set(ran[:-1])
    assert before
    ran.clear()
    ran.append("f")
    found = measured(True)
    assert not before & set(ran[1:])  # what was finished is not seen again
    for name in expected:
        assert_same(found[name].entering, expected[name].entering)  # type: ignore[arg-type]
        assert_same(found[name].leaving, expected[name].leaving)  # type: ignore[arg-type]
    ran.clear()
    measured(True)
    assert not ran
    assert measured(False)["w1:a"].entering is None
    assert len(list(tmp_path.glob("*[0-9a-f]"))) == 2


def test_an_index_from_before_ranges_is_read(
    images: ir.Model, layers_of: Any, rng: np.random.Generator, tmp_path: Any
) -> None:
    layers, data = layers_of(images), pictures(rng, 1)
    calibration.collect(images, layers, data, cache=tmp_path)
    (folder,) = tmp_path.glob("*[0-9a-f]")
    index = read_checked(folder / INDEX)
    assert index.pop("ranges") == {}
    write_checked(folder / INDEX, json.loads(json.dumps(index)))
    found = calibration.Statistics(folder)
    found.check()
    assert found["w1:a"].gram is not None
    assert found["w1:a"].entering is None


def test_memory_does_not_grow_with_samples(rng: np.random.Generator) -> None:
    observer = values.Values(Reading("histogram", ir.Value(name="x"), False, 0), 0)
    tensor = rng.standard_normal((1, 32, 112, 112)).astype(np.float32)
    observer.see([tensor], [], "a sample")
    tracemalloc.start()
    try:
        for _ in range(50):
            observer.see([tensor], [], "a sample")
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 50_000
    assert peak < 1 << 20  # the tensor takes 1.6 MB
