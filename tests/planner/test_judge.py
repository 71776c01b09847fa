"""Judging models against a budget, with outputs whose differences are known exactly."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest

from onnxslim_rx.metrics import Metric
from onnxslim_rx.planner import Judge
from onnxslim_rx.planner.recorded import Recorded
from onnxslim_rx.plans import Budget
from onnxslim_rx.runtime import Runner, TensorSpec


class Fake:
    """A model whose output is the sample turned by an angle: the cosine is known."""

    def __init__(self, angles):
        self.inputs = {"x": TensorSpec("x", np.dtype(np.float64), (2,), "tensor(double)")}
        self._angles = angles

    def __call__(self, feeds):
        angle = self._angles[int(feeds["x"][0])]
        return {"y": np.array([np.cos(angle), np.sin(angle)])}


def fake(angles) -> Runner:
    return cast(Runner, Fake(angles))


N = 40
DATA: list[dict[str, Any]] = [{"x": np.array([float(i), 0.0]), "label": i} for i in range(N)]
SAME = fake([0.0] * N)


def judge(budget, *, metric=None, careful=False):
    return Judge(SAME, budget, DATA, metric, careful=careful)


def turned_to(cosine):
    return fake([np.arccos(cosine)] * N)


@pytest.mark.parametrize(("cosine", "passed"), [(0.9901, True), (0.9899, False), (1.0, True)])
def test_the_mean_cosine_decides(cosine, passed):
    verdict = judge(Budget(min_cosine=0.99))(turned_to(cosine))
    assert verdict.passed is passed
    assert verdict.damage == pytest.approx(1 - cosine, abs=1e-12)
    assert ("cosine" in verdict.why) is not passed


def test_min_and_p5_look_at_the_worst_samples():
    one_bad = fake([1.0] + [0.0] * (N - 1))
    assert judge(Budget(min_cosine=0.98))(one_bad).passed
    assert not judge(Budget(min_cosine=0.98, cosine_stat="min"))(one_bad).passed
    assert judge(Budget(min_cosine=0.98, cosine_stat="p5"))(one_bad).passed


def test_care_asks_for_two_standard_errors_and_leaves_a_tenth():
    # cosines 1 and 0.982 in turns: mean 0.991, standard deviation 0.009
    model = fake([0.0, np.arccos(0.982)] * (N // 2))
    assert judge(Budget(min_cosine=0.99))(model).passed
    assert not judge(Budget(min_cosine=0.99), careful=True)(model).passed
    limit = (0.009 + 2 * 0.009 / np.sqrt(N)) / 0.9
    assert judge(Budget(min_cosine=1 - 1.001 * limit), careful=True)(model).passed
    assert not judge(Budget(min_cosine=1 - 0.999 * limit), careful=True)(model).passed


def test_equal_outputs_pass_the_hardest_budget():
    assert judge(Budget(min_cosine=1.0), careful=True)(SAME).passed


def test_signal_to_noise_ratio():
    angle = 0.01  # the difference has norm 2 sin(angle / 2), that is 40 dB
    assert judge(Budget(min_snr_db=39.9))(fake([angle] * N)).passed
    verdict = judge(Budget(min_snr_db=40.1))(fake([angle] * N))
    assert not verdict.passed
    assert "40.0 dB" in verdict.why


def below(limit):
    """The share of samples whose output lies below an angle."""

    def score(run, data):
        return float(np.mean([np.arctan2(*run(s)["y"][::-1]) < limit for s in data]))

    return Metric("below", function=score)


@pytest.mark.parametrize(("wrong", "passed"), [(0, True), (2, True), (3, False)])
def test_the_drop_of_a_metric_decides(wrong, passed):
    model = fake([1.0] * wrong + [0.0] * (N - wrong))
    verdict = judge(Budget(max_drop=0.05), metric=below(0.5))(model)
    assert verdict.passed is passed
    assert verdict.metric is not None
    assert verdict.metric[0].value == pytest.approx(1 - wrong / N)
    assert verdict.metric[1].value == 1.0


def test_outputs_that_are_not_finite_never_pass():
    verdict = judge(Budget(min_cosine=0.01))(fake([0.0] * (N - 1) + [np.nan]))
    assert not verdict.passed
    assert "NaN" in verdict.why


def test_the_original_runs_once_on_each_sample() -> None:
    seen: list[int] = []

    class Counting(Fake):
        def __call__(self, feeds):
            assert set(feeds) == {"x", "label"}
            seen.append(int(feeds["x"][0]))
            return super().__call__(feeds)

    one = Judge(cast(Runner, Counting([0.1] * N)), Budget(), DATA, None, careful=False)
    first, second = one(fake([0.1] * N)), one(fake([0.2] * N))
    assert seen == list(range(N))
    assert first.damage == pytest.approx(0.0, abs=1e-12)
    assert second.damage == pytest.approx(1.0 - np.cos(0.1), rel=1e-6)


def test_large_outputs_wait_in_files(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr("onnxslim_rx.planner.recorded._MEMORY_BYTES", 16 * 3)
    monkeypatch.setattr("onnxslim_rx.ir.spool.SPOOLED_BYTES", 1)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    one = Recorded(fake(np.linspace(0, 1, N)), DATA)
    for _ in range(2):
        found = [one(sample)["y"] for sample in one.data]
        np.testing.assert_allclose(found, [[np.cos(a), np.sin(a)] for a in np.linspace(0, 1, N)])
    assert [y.flags.writeable for y in found] == [True] * 3 + [False] * (N - 3)
    assert [int(sample["rx.index"]) for sample in one.data[2:4]] == [2, 3]
    assert list(tmp_path.iterdir())
