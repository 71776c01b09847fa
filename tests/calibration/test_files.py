"""Damaged and hostile files of calibration data."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest

from onnxslim_rx.calibration import arrays, load_data
from onnxslim_rx.errors import InputError
from onnxslim_rx.runtime import TensorSpec

IMAGE = {"x": TensorSpec("x", np.dtype("float32"), ("N", 3, 4, 5), "tensor(float)")}


@pytest.fixture
def images(rng):
    return rng.standard_normal((7, 3, 4, 5)).astype(np.float32)


def test_pickled_objects_are_never_read(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("it was unpickled",))

    np.save(tmp_path / "a.npy", np.array([Bomb()], object), allow_pickle=True)
    np.savez(tmp_path / "a.npz", x=np.array([Bomb()], object))
    for path in (tmp_path / "a.npy", tmp_path / "a.npz", tmp_path):
        with pytest.raises(InputError, match="holds pickled objects, which are never read"):
            load_data(path, IMAGE)


def test_a_header_may_promise_no_more_than_there_is(tmp_path):
    with (tmp_path / "a.npy").open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (2**40, 3, 4, 5)}
        np.lib.format.write_array_header_1_0(file, header)
        file.write(bytes(240))
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.write(tmp_path / "a.npy", "x.npy")
    for name in ("a.npy", "a.npz"):
        with pytest.raises(InputError, match="holds 240 bytes where its header says 2638827906"):
            load_data(tmp_path / name, IMAGE)


@pytest.mark.parametrize("limit", [1 << 24, 8])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_checksums_are_checked(tmp_path, monkeypatch, rng, save, limit):
    monkeypatch.setattr(arrays, "_IN_MEMORY", limit)
    path = tmp_path / "a.npz"
    save(path, x=rng.integers(0, 99, (9000, 3, 4, 5)).astype(np.float32))
    damaged = bytearray(path.read_bytes())
    damaged[-len(damaged) // 8] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(InputError, match=r"a.npz is damaged or no .npz file: .*; write it again"):
        load_data(path, IMAGE)


@pytest.mark.parametrize("limit", [1 << 24, 8])
@pytest.mark.parametrize("kind", ["npy", "stored", "deflated"])
def test_damaged_files_give_clean_errors(tmp_path, monkeypatch, images, rng, kind, limit):
    monkeypatch.setattr(arrays, "_IN_MEMORY", limit)
    path = tmp_path / ("a.npy" if kind == "npy" else "a.npz")
    if kind == "npy":
        np.save(path, images)
    else:
        (np.savez if kind == "stored" else np.savez_compressed)(path, x=images)
    whole = path.read_bytes()
    refused = 0
    for number in range(120):
        damaged = bytearray(whole)
        if number % 4 == 0:
            del damaged[rng.integers(len(whole)) :]
        else:
            # half of the flips hit the headers
            reach = len(whole) if number % 2 else 160
            damaged[rng.integers(reach)] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
            load_data(path, IMAGE)
        except InputError as error:
            refused += "\n" not in str(error)
    # every truncated file and, where there are checksums, almost every flip of data
    assert refused >= (30 if kind == "npy" else 75)
