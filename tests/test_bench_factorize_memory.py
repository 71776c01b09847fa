"""tools/bench_factorize_memory.py measures what a run takes beside the mapped weights."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tools import bench_factorize, bench_factorize_memory
from tools.bench_factorize_memory import measure_memory, missed_memory
from tools.bench_peak import Peak

MB = 1 << 20

linux = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="tells memory of maps apart on Linux only"
)


@linux
def test_a_tiny_decoder_is_measured_by_phase(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = {"factorize-gemm": 0.9}
    (found,) = measure_memory(tmp_path, 1, 64, runs=runs)
    assert found["kept"] <= 0.9
    assert {"load", "clean", "calibrate", "search and verify", "save"} <= set(found["phases"])
    assert max(found["phases"].values()) <= found["peak_bytes"] < 200e6
    assert missed_memory([found]) == []
    shown = capsys.readouterr().out
    assert "factorize-gemm to 90%" in shown
    assert "calibrate" in shown
    # what is left is the decoder, to be used again
    names = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert names == {"gpt2.onnx", "gpt2.onnx.data"}


HELD = """
import json, time
import numpy as np
from tools.bench_peak import Peak, anonymous

peak = Peak()
with peak.phase("large"):
    held = np.ones(8 << 20)
    time.sleep(0.05)
    del held
deadline = time.monotonic() + 5.0  # a busy kernel may count freed pages for a while
while anonymous() > peak.start + (30 << 20) and time.monotonic() < deadline:
    time.sleep(0.01)
with peak.phase("small"):
    pass
print(json.dumps({"start": peak.start, "peak": peak.peak, **peak.phases}))
"""


@linux
def test_what_is_allocated_counts_where_it_is_held(root: Path) -> None:
    # in a process of its own: what other tests leave to be freed would count here
    run = subprocess.run(
        [sys.executable, "-c", HELD], cwd=root, check=True, capture_output=True, text=True
    )
    found = json.loads(run.stdout)
    large = found["large"] - found["start"]
    assert 60 * MB < large < 80 * MB
    assert found["small"] - found["start"] < 30 * MB
    assert found["peak"] >= found["large"]


@linux
def test_pages_of_files_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    np.ones(8 * MB).tofile(path)
    mapped = np.memmap(path, np.float64, "r")
    peak = Peak()
    with peak.phase("read"):
        assert mapped.sum() == 8 * MB
        time.sleep(0.02)
    assert peak.phases["read"] - peak.start < 10 * MB


def test_the_suite_needs_no_assets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[object, ...]] = []

    def measured(*args: object) -> list[dict[str, object]]:
        asked.append(args)
        return [{"pass": "quantize-weights", "peak_bytes": 1.6e9}]

    monkeypatch.setattr(bench_factorize, "measure_memory", measured)
    monkeypatch.setattr(bench_factorize, "ASSETS", tmp_path / "none")
    told = tmp_path / "found.json"
    options = ["--layers", "2", "--width", "128", "--work", str(tmp_path), "--json", str(told)]
    assert bench_factorize.main(["memory", *options]) == 1
    assert asked == [(tmp_path, 2, 128)]
    line = "memory of quantize-weights: 1.60 GB, bar 1.5"
    assert line in capsys.readouterr().out
    assert json.loads(told.read_text(encoding="utf-8"))["missed"] == [line]
    assert bench_factorize.main(["layers"]) == 2


def test_both_passes_are_run_by_default() -> None:
    assert list(bench_factorize_memory.RUNS) == ["factorize-gemm", "quantize-weights"]
