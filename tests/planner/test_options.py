"""Choices of units: which ways of storing a weight follow what others make of it."""

from __future__ import annotations

import numpy as np

from onnxslim_rx.planner.options import find_units
from onnxslim_rx.targets import load_target
from onnxslim_rx_passes.factorize_gemm import FactorizeGemm
from onnxslim_rx_passes.quantize_weights import QuantizeWeights
from onnxslim_rx_passes.tensorize_gemm import TensorizeGemm
from tests.passes.conftest import build

TEXT = "g (float[5, 256] x) => (float[5, 256] y) { y = MatMul(x, w) }"


def test_two_ways_follow_a_factorization_and_none_follows_another(rng):
    model = build(TEXT, {"w": rng.standard_normal((256, 256)).astype(np.float32)})
    passes = {one.name: one for one in (FactorizeGemm(), QuantizeWeights(), TensorizeGemm())}
    (unit,), _ = find_units(model, passes, {}, load_target("ort-cpu"))
    chains = [choice.stages for choice in unit.choices if len(choice.stages) > 1]
    assert chains
    assert {len(stages) for stages in chains} == {2}
    assert {second.pass_name for _, second in chains} == {"quantize-weights"}
    followers = {str(second) for _, second in chains}
    assert len(followers) == 2
    assert any("bits=8, form=cast-mul" in text for text in followers)
    assert any("bits=4, group=32" in text and "rank=0" in text for text in followers)
    stored = [c for c in unit.choices if len(c.stages) == 1 and c.follows]
    assert len(stored) == 2
