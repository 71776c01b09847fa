"""Calibration data: what is read, how it is cut into samples, what is refused and how."""

from __future__ import annotations

import collections

import numpy as np
import onnx_ir as ir
import pytest

from onnxslim_rx.calibration import (
    arrays,
    fed,
    from_callable,
    from_dir,
    from_npz,
    load_data,
)
from onnxslim_rx.errors import InputError
from onnxslim_rx.runtime import TensorSpec

TYPES = {"float32": "float", "int64": "int64", "int32": "int32", "bool": "bool", "object": "string"}


def spec(name, dtype, *shape):
    return TensorSpec(name, np.dtype(dtype), shape, f"tensor({TYPES[dtype]})")


def specs(*found):
    return {one.name: one for one in found}


IMAGE = specs(spec("x", "float32", "N", 3, 4, 5))
TEXT = specs(spec("ids", "int64", "B", "S"), spec("mask", "int64", "B", "S"))


def assert_same(data, expected):
    assert len(data) == len(expected)
    for sample, wanted in zip(data, expected, strict=True):
        assert sample.keys() == wanted.keys()
        for name, array in wanted.items():
            assert sample[name].dtype == array.dtype
            np.testing.assert_array_equal(sample[name], array)


@pytest.fixture
def images(rng):
    return rng.standard_normal((7, 3, 4, 5)).astype(np.float32)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("limit", [1 << 24, 8])
def test_stacked_npz(tmp_path, monkeypatch, images, save, limit):
    monkeypatch.setattr(arrays, "_IN_MEMORY", limit)  # 8 bytes: everything is mapped
    save(tmp_path / "a.npz", x=images, y=np.arange(7), classes=np.arange(9))

    data = load_data(tmp_path / "a.npz", IMAGE)

    expected = [
        {"x": images[i : i + 1], "y": np.array([i]), "classes": np.arange(9)} for i in range(7)
    ]
    assert_same(data, expected)
    assert fed(data[0], IMAGE).keys() == {"x"}
    assert isinstance(arrays.read_arrays(tmp_path / "a.npz")["x"], np.memmap) == (limit == 8)


def test_fortran_order_survives(tmp_path, monkeypatch, images):
    monkeypatch.setattr(arrays, "_IN_MEMORY", 8)
    np.save(tmp_path / "a.npy", np.asfortranarray(images))
    assert_same(load_data(tmp_path / "a.npy", IMAGE), [{"x": x[None]} for x in images])


def test_one_array_for_one_input(tmp_path, images):
    np.save(tmp_path / "a.npy", images)
    expected = [{"x": x[None]} for x in images]
    assert_same(load_data(str(tmp_path / "a.npy"), IMAGE), expected)
    assert_same(load_data(images, IMAGE), expected)
    assert_same(load_data({"x": images}, IMAGE), expected)
    assert_same(load_data(list(images[:, None]), IMAGE), expected)
    with pytest.raises(InputError, match=r"is one array; expected 'ids' as int64\[B, S\], 'mask'"):
        load_data(tmp_path / "a.npy", TEXT)


def test_an_axis_more_than_the_input_is_the_axis_of_samples(rng):
    stack = rng.standard_normal((5, 2, 3, 4, 5)).astype(np.float32)
    data = load_data({"x": stack, "y": np.arange(5)}, IMAGE)
    assert_same(data, [{"x": stack[i], "y": np.array([i])} for i in range(5)])


def test_a_fixed_batch_groups_samples(images):
    inputs = specs(spec("x", "float32", 3, 3, 4, 5), spec("sr", "int64"))
    shared = {"sr": np.array(8000)}
    data = load_data({"x": images, "y": np.arange(7), **shared}, inputs)
    expected = [{"x": images[i : i + 3], "y": np.arange(i, i + 3), **shared} for i in (0, 3)]
    assert_same(data, expected)
    with pytest.raises(InputError, match=r"shape \[2, 3, 4, 5\], not even one sample"):
        load_data({"x": images[:2], **shared}, inputs)


def test_scalars_and_single_states_are_shared(rng):
    inputs = specs(
        spec("wave", "float32", "N", 16), spec("state", "float32", 2, 1, 8), spec("sr", "int64")
    )
    wave = rng.standard_normal((4, 16)).astype(np.float32)
    state = np.zeros((2, 1, 8), np.float32)
    shared = {"state": state, "sr": np.array(16000)}
    data = load_data({"wave": wave, **shared}, inputs)
    assert_same(data, [{"wave": wave[i : i + 1], **shared} for i in range(4)])

    states = rng.standard_normal((4, 2, 1, 8)).astype(np.float32)
    data = load_data({"wave": wave, "state": states, "sr": np.full(4, 8000)}, inputs)
    expected = [
        {"wave": wave[i : i + 1], "state": states[i], "sr": np.array(8000)} for i in range(4)
    ]
    assert_same(data, expected)


def test_a_folder_holds_a_sample_a_file(tmp_path, images):
    for number in (2, 0, 1):
        np.savez(tmp_path / f"{number}.npz", x=images[number : number + 2], y=np.array(number))
    (tmp_path / "notes.txt").write_text("not a sample")
    expected = [{"x": images[i : i + 2], "y": np.array(i)} for i in range(3)]
    assert_same(load_data(tmp_path, IMAGE), expected)
    assert_same(load_data(from_dir(tmp_path), IMAGE), expected)


def test_a_leading_axis_is_added_where_it_is_all_that_lacks(tmp_path, images):
    np.save(tmp_path / "0.npy", images[0])
    assert_same(load_data(tmp_path, IMAGE), [{"x": images[:1]}])
    with pytest.raises(InputError, match=r"shape \[3, 4, 5\]; expected float32\[2, 3, 4, 5\]"):
        load_data(tmp_path, specs(spec("x", "float32", 2, 3, 4, 5)))


def test_functions_iterables_and_sequences(images):
    expected = [{"x": x[None]} for x in images]
    waiting = collections.deque(expected)
    assert_same(load_data(lambda: waiting.popleft() if waiting else None, IMAGE), expected)
    assert_same(load_data(from_callable(lambda: expected[0], 3), IMAGE), expected[:1] * 3)
    assert len(load_data(lambda: expected[0], IMAGE)) == 1024  # an endless one ends
    assert_same(load_data(iter(expected), IMAGE), expected)
    assert_same(load_data(expected, IMAGE), expected)
    assert_same(load_data([{"x": images[:1].tolist()}], IMAGE), expected[:1])
    assert load_data(None, IMAGE) == []
    with pytest.raises(InputError, match="'x' of calibration sample 1 has shape"):
        load_data(iter([*expected[:1], {"x": images[0, 0]}]), IMAGE)


def test_a_sequence_is_read_only_when_asked(images):
    class Lazy:
        asked = 0

        def __len__(self):
            return 4

        def __getitem__(self, number):
            self.asked += 1
            return {"x": images[number : number + 1]}

    lazy = Lazy()
    data = load_data(lazy, IMAGE)
    assert lazy.asked == 4  # each is checked once
    assert_same(data[1:3], [{"x": images[1:2]}, {"x": images[2:3]}])
    assert lazy.asked == 6


def test_data_bound_to_a_model(tmp_path, images):
    model = ir.from_onnx_text(
        '<ir_version: 8, opset_import: ["": 17]> g (float[N,3,4,5] x) => (float[N,3,4,5] y)'
        "{ y = Relu(x) }"
    )
    np.savez(tmp_path / "a.npz", x=images)
    assert_same(from_npz(tmp_path / "a.npz", model), [{"x": x[None]} for x in images])


@pytest.mark.parametrize(
    ("dtype", "value", "converted"),
    [
        ("int64", np.array([[1, 2]], np.int32), True),
        ("int64", np.array([[1, 2]], np.uint8), True),
        ("int32", np.array([[1, 2]], np.int64), True),
        ("int32", np.array([[1, 2**31]], np.int64), False),
        ("float32", np.array([[1, 2]], np.float64), True),
        ("float32", np.array([[1, 2]], np.float16), True),
        ("float32", np.array([[1, 1e39]], np.float64), False),
        ("float32", np.array([[1, 2]], np.uint8), False),
        ("int64", np.array([[1, 2]], np.float32), False),
        ("bool", np.array([[1, 0]], np.int64), False),
        ("object", np.array([["a", "b"]]), True),
        ("object", np.array([[1, 2]]), False),
        ("float32", np.array([[None, 2]], object), False),
    ],
)
def test_types_are_converted_where_the_meaning_stays(dtype, value, converted):
    inputs = specs(spec("x", dtype, "N", 2))
    if converted:
        (sample,) = load_data([{"x": value}], inputs)
        assert sample["x"].dtype == np.dtype(dtype)
        assert sample["x"].tolist() == value.tolist()
    else:
        with pytest.raises(InputError, match="input 'x' of calibration sample 0"):
            load_data([{"x": value}], inputs)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "the calibration data is empty"),
        ({"ids": np.zeros((0, 4), int), "mask": np.zeros((0, 4), int)}, "not even one sample"),
        (
            {"ids": np.ones((4, 4), int), "mask": np.ones((3, 4), int)},
            "the calibration data has 4 of 'ids', 3 of 'mask'; expected the same number",
        ),
        (
            [{"idx": np.ones((1, 4), int), "mask": np.ones((1, 4), int)}],
            r"has no array for 'ids'; its arrays are 'idx', 'mask'; expected .*; rename 'idx' to",
        ),
        ([{"ids": np.ones((1, 4), int)}], "calibration sample 0 has no array for 'mask'"),
        ([(1, 2)], "calibration sample 0 is a tuple; expected a dict"),
        (
            [{"ids": np.ones(4, int), "mask": np.ones((1, 4, 1), int)}],
            r"input 'mask' of calibration sample 0 has shape \[1, 4, 1\]; expected int64\[B, S\]",
        ),
        ([{"ids": [[1], [2, 3]], "mask": [[1]]}], "input 'ids' .* cannot become an array"),
        (3, "the calibration data is a int; expected a path"),
        (lambda: 1 / 0, "raised ZeroDivisionError at sample 0"),
        ("nowhere.npz", "there is no calibration file or folder nowhere.npz"),
        (__file__, "data.py is of an unknown kind; expected a file that ends in .npz"),
        (from_npz("nowhere.npz"), "cannot read the calibration file nowhere.npz: No such file"),
        (from_dir("nowhere"), "cannot read the calibration folder nowhere: No such file"),
    ],
)
def test_what_does_not_fit_is_one_clear_line(data, message):
    with pytest.raises(InputError, match=message) as caught:
        load_data(data, TEXT)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused(tmp_path, images, bad):
    images[3, 1, 2, 3] = bad
    np.savez(tmp_path / "a.npz", x=images)
    with pytest.raises(InputError, match=r"'x' of sample 3 of .*a.npz holds NaN or infinity"):
        load_data(tmp_path / "a.npz", IMAGE)
