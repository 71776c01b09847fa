"""tools/bench_factorize.py judges what it measured."""

from __future__ import annotations

import pytest

from tools import bench_factorize
from tools.bench_factorize_curve import Row


def row(share, cosine, ratio, predicted=None, predicted_ms=None, allocation="program"):
    return Row(share, share, allocation, cosine, cosine, ratio, predicted, predicted_ms, 1.0)


def test_missed_bars_are_named():
    layers = {"methods": {"whitened-svd": [0.99, 0.96], "numpy svd": [0.9, 0.8]}}
    curve = [row(0.6, 0.92, 0.8).to_dict(), row(0.6, 0.5, 0.8, allocation="uniform").to_dict()]
    missed = bench_factorize.judge(
        {"layers": layers, "curve": curve, "correlation": {"quality": 0.95, "latency": 0.8}}
    )
    assert len(missed) == 4
    assert sum("FFN" in line for line in missed) == 2
    assert any("keep 0.6: 0.9200" in line for line in missed)
    assert any("latency: 0.800" in line for line in missed)


def test_met_bars_are_silent():
    curve = [row(0.8, 0.97, 0.9).to_dict(), row(0.4, 0.87, 0.5).to_dict()]
    assert bench_factorize.judge({"curve": curve}) == []


def test_rank_correlation_counts_plans_with_predictions(capsys):
    rows = [row(0.9 - i / 10, 0.9 - i / 10, 1 - i / 10, 0.8 - i / 10, 5 - i) for i in range(6)]
    found = bench_factorize.correlations([*rows, row(0.5, 0.1, 0.1, allocation="plain SVD")])
    assert found["plans"] == 6
    assert found["quality"] == found["latency"] == pytest.approx(1.0)
    assert bench_factorize.correlations(rows[:5]) == {}


def test_the_picture_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    rows = [row(0.8, 0.97, 0.9, 0.96, 3.0), row(0.8, 0.9, 1.0, allocation="plain SVD")]
    target = tmp_path / "found.svg"
    bench_factorize.draw(rows, target)
    assert "<svg" in target.read_text(encoding="utf-8")
