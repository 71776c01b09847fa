"""The benchmark of calibration runs, and memory is what its docstring promises."""

from __future__ import annotations

import json
import sys

import pytest

from tools import bench_calibration


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")
def test_memory_is_bounded_and_does_not_grow_with_samples(tmp_path, capfd):
    path = tmp_path / "rows.json"
    options = ["--width", "2048", "--depth", "4", "--memory", "64", "--samples", "6", "24"]
    assert bench_calibration.main([*options, "--json", str(path)]) == 0
    few, many = json.loads(path.read_text())
    assert few["layers"] == 8
    # four Gram matrices of 32 MiB would be 128
    assert many["peak_mib"] < 120
    assert max(few["error"], many["error"]) < 1e-14
    assert capfd.readouterr().out.count("error") == 2


def test_a_broken_promise_is_told():
    row = {"memory": 64, "rows": 64, "width": 2048, "peak_mib": 150.0}
    assert bench_calibration.within(row)
    assert not bench_calibration.within(row | {"peak_mib": 250.0})
