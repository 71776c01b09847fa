"""`quantize` with a cache: a run that was killed goes on, and gives what it would have given."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnxslim_rx as rx
from models import make_gpt2
from onnxslim_rx import datafree
from onnxslim_rx.fragments import Fragment
from onnxslim_rx.shelf import Place, Shelf


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("decoder") / "gpt2.onnx"
    make_gpt2.write(path, *make_gpt2.layout(2, 128, vocabulary=96, positions=16))
    return path


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the weights that are rounded."""
    found: list[str] = []
    plain = datafree._Run.make

    def make(self, layer):
        found.append(layer.name)
        return plain(self, layer)

    monkeypatch.setattr(datafree._Run, "make", make)
    return found


def quantized(decoder: Path, folder: Path, cache: Path | None, **options) -> tuple[bytes, bytes]:
    """The two files that are written."""
    folder.mkdir()
    rx.quantize(decoder, folder / "q.onnx", cache=cache, method="nearest", **options)
    return (folder / "q.onnx").read_bytes(), (folder / "q.onnx.data").read_bytes()


def files(cache: Path) -> list[Path]:
    return sorted((cache / "layers").iterdir())


def test_a_killed_run_goes_on(
    decoder: Path, tmp_path: Path, made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    wanted = quantized(decoder, tmp_path / "a", None)
    count, plain = len(made), Place.keep
    kept: list[Fragment] = []

    def keep(self, fragment):
        if len(kept) == 4:
            raise KeyboardInterrupt
        kept.append(fragment)
        return plain(self, fragment)

    monkeypatch.setattr(Place, "keep", keep)
    with pytest.raises(KeyboardInterrupt):
        quantized(decoder, tmp_path / "b", cache)
    monkeypatch.setattr(Place, "keep", plain)
    assert len(files(cache)) == 4
    made.clear()
    assert quantized(decoder, tmp_path / "c", cache) == wanted
    assert len(made) == count - 4
    made.clear()
    assert quantized(decoder, tmp_path / "d", cache) == wanted
    assert made == []
    assert len(files(cache)) == count


def test_the_report_of_a_resumed_run_is_complete(decoder: Path, tmp_path: Path) -> None:
    first, second = (rx.quantize(decoder, cache=tmp_path).report for _ in range(2))
    assert first.layers == second.layers
    assert first.notes == second.notes


@pytest.mark.parametrize(
    "options",
    [{"bits": 2}, {"group": 64}, {"symmetric": False}, {"target": "portable"}, {"form": None}],
)
def test_what_was_made_otherwise_is_not_taken(
    decoder: Path, tmp_path: Path, made: list[str], options
) -> None:
    rx.quantize(decoder, cache=tmp_path, method="nearest")
    count = len(made)
    made.clear()
    rx.quantize(decoder, cache=tmp_path, method="nearest", **options)
    assert len(made) == (0 if options == {"form": None} else count)


def test_what_was_made_of_another_weight_is_not_taken(
    decoder: Path, tmp_path: Path, made: list[str]
) -> None:
    rx.quantize(decoder, cache=tmp_path / "cache", method="nearest")
    made.clear()
    model = onnx.load(decoder)
    for tensor in model.graph.initializer:
        if tensor.name in ("l1_up_weight", "l0_up_bias"):
            array = numpy_helper.to_array(tensor).copy()
            array.flat[7] += np.float32(0.25)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    rx.quantize(model, cache=tmp_path / "cache", method="nearest")
    assert made == ["l1_up_weight"]


@pytest.mark.parametrize("how", ["flipped", "cut", "text"])
def test_damaged_files_are_made_anew(
    decoder: Path, tmp_path: Path, made: list[str], how: str
) -> None:
    cache = tmp_path / "cache"
    wanted = quantized(decoder, tmp_path / "a", cache)
    path = max(files(cache), key=lambda one: one.stat().st_size)
    content = bytearray(path.read_bytes())
    if how == "flipped":
        content[len(content) // 2] ^= 1
    elif how == "cut":
        del content[len(content) // 2 :]
    else:
        content = bytearray(b"nothing")
    path.write_bytes(content)
    made.clear()
    assert quantized(decoder, tmp_path / "b", cache) == wanted
    assert len(made) == 1
    made.clear()
    assert quantized(decoder, tmp_path / "c", cache) == wanted
    assert made == []


def test_what_was_used_longest_ago_goes_first(decoder: Path, tmp_path: Path) -> None:
    rx.quantize(decoder, cache=tmp_path, method="nearest")
    paths = files(tmp_path)
    for age, path in enumerate(paths):
        os.utime(path, (time.time() - age, time.time() - age))
    room = sum(path.stat().st_size for path in paths[:3])
    Shelf(tmp_path, []).limit(room)
    assert files(tmp_path) == sorted(paths[:3])


def test_what_killed_processes_left_is_deleted(tmp_path: Path) -> None:
    Shelf(tmp_path, [])
    old, new = (tmp_path / "layers" / f".{name}.rx-partial" for name in ("old", "new"))
    for path in (old, new):
        path.write_bytes(b"x")
    os.utime(old, (time.time() - 7200, time.time() - 7200))
    Shelf(tmp_path, [])
    assert files(tmp_path) == [new]
