"""tools/bench_quantize_memory.py measures what quantizing a decoder takes, and that it runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from models import make_gpt2
from tools import bench_quantize_memory
from tools.bench_quantize_memory import LAYERS, WIDTH, main, measure_memory, missed_memory

linux = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="tells memory of maps apart on Linux only"
)
GOOD = {"peak_bytes": 2.4e9, "loaded": {"finite": True}}


def test_the_decoder_has_1_3_billion_parameters() -> None:
    _, shapes = make_gpt2.layout(LAYERS, WIDTH)
    count = 0
    for shape in shapes.values():
        size = 1
        for side in shape:
            size *= side
        count += size
    assert 1.3e9 < count < 1.32e9


@linux
def test_a_tiny_decoder_is_measured_by_phase(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = measure_memory(tmp_path, 1, 64, method="nearest")
    assert set(found["phases"]) == {"load", "clean", "quantize", "save"}
    assert max(found["phases"].values()) <= found["peak_bytes"] < 200e6
    before, after = found["bytes"]
    assert after < before / 2
    assert found["left"] == []
    assert 0.05 < found["worst_error"] < 0.12
    assert found["loaded"]["finite"]
    assert found["loaded"]["shape"][:2] == [1, 16]
    assert missed_memory(found) == []
    assert "onnxruntime: loaded in" in capsys.readouterr().out
    # what is left is the decoder, to be used again
    names = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert names == {"gpt2.onnx", "gpt2.onnx.data"}


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({}, ""),
        ({"peak_bytes": 2.6e9}, "memory: 2.60 GB, bar 2.5"),
        ({"loaded": {"finite": False}}, "logits are not finite"),
    ],
)
def test_bars_that_are_missed_are_named(
    change: dict[str, Any],
    line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked: list[tuple[object, ...]] = []

    def measured(*args: object, **options: object) -> dict[str, Any]:
        asked.append((*args, *options.values()))
        return {**GOOD, **change}

    monkeypatch.setattr(bench_quantize_memory, "measure_memory", measured)
    told = tmp_path / "found.json"
    assert main(["--work", str(tmp_path), "--json", str(told)]) == (1 if line else 0)
    assert asked == [(tmp_path, LAYERS, WIDTH, "clip")]
    assert (f"missed: {line}" in capsys.readouterr().out) == bool(line)
    assert json.loads(told.read_text(encoding="utf-8"))["missed"] == ([line] if line else [])
