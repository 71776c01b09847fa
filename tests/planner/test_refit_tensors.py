"""Layers that are tensors fitted to the original's outputs, measured in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from onnxslim_rx.ir import clone
from onnxslim_rx.passbase import Layer, Stage
from onnxslim_rx.planner.fit.refit import refit
from onnxslim_rx.runtime import Runner
from onnxslim_rx.stages import apply_treatments
from onnxslim_rx_passes.tensorize_gemm import TensorizeGemm
from tests.passes.conftest import build

K, N = 14, 12
STAGES: dict[str, dict[str, Any]] = {
    "tucker": {"method": "tucker", "rank_in": 5, "rank_out": 4},
    "tt": {"method": "tt", "rank_in": 5, "rank_out": 3, "split": 3},
    "cp": {"method": "cp", "rank": 6, "split": 3},
}
NODES = {
    "gemm": "Gemm(x, w, b)",
    "gemm-transB": "Gemm<transB = 1>(x, w, b)",
    "gemm-transA": "Gemm<transA = 1>(x, w, b)",
    "matmul": "MatMul(x, w)",
}


def networks(case: str, method: str, rng: np.random.Generator) -> tuple[ir.Model, ir.Model]:
    """One layer, and the same in three products."""
    weight = rng.standard_normal((N, K) if case == "gemm-transB" else (K, N)).astype(np.float32)
    shape = f"{K}, a" if case == "gemm-transA" else f"a, {K}"
    bias = {"b": rng.standard_normal(N).astype(np.float32)} if case != "matmul" else {}
    text = f"g (float[{shape}] x) => (float y) {{ y = {NODES[case]} }}"
    original = build(text, {"w": weight, **bias})
    compressed = clone(original)
    one = TensorizeGemm(min_elements=1)
    (layer,) = one.layers(compressed)
    assert isinstance(layer, Layer)
    stage = Stage(one.name, STAGES[method])
    assert apply_treatments(compressed, [(layer, (stage,), None)], {one.name: one}) == []
    return original, compressed


def samples(case: str, rng: np.random.Generator, count: int = 8) -> list[dict[str, Any]]:
    """Inputs that are not centred and of different sizes, which factors of the weight ignore."""
    found = []
    for _ in range(count):
        x = (2.0 + rng.standard_normal((40, K)) * np.logspace(0, -1, K)).astype(np.float32)
        found.append({"x": np.ascontiguousarray(x.T) if case == "gemm-transA" else x})
    return found


def lost(original: ir.Model, compressed: ir.Model, data: list[dict[str, Any]]) -> float:
    wanted, now = (
        np.concatenate([run(sample)["y"] for sample in data]).astype(np.float64)
        for run in (Runner(original), Runner(compressed))
    )
    return float(np.linalg.norm(now - wanted) / np.linalg.norm(wanted))


@pytest.mark.parametrize("method", STAGES)
@pytest.mark.parametrize("case", NODES)
def test_all_three_factors_and_the_bias_are_fitted(case, method, rng):
    original, compressed = networks(case, method, rng)
    data = samples(case, rng)
    before = lost(original, compressed, data)
    (found,) = refit(original, compressed, data)
    assert (found.name, found.why_not) == ("w", "")
    after = lost(original, compressed, data)
    assert found.before == pytest.approx(before, rel=1e-4)
    assert found.after == pytest.approx(after, rel=1e-3)
    assert after < 0.5 * before
    assert after >= rank_bound(original, data, case) * (1.0 - 1e-6)


def rank_bound(original: ir.Model, data: list[dict[str, Any]], case: str) -> float:
    """Error of the best outputs of six dimensions and a constant: nothing here is below."""
    run = Runner(original)
    outputs = np.concatenate([run(sample)["y"] for sample in data]).astype(np.float64)
    values = np.linalg.svd(outputs - outputs.mean(axis=0), compute_uv=False)
    return float(np.sqrt(np.sum(values[6:] ** 2)) / np.linalg.norm(outputs))


def test_a_train_fitted_anew_is_as_good_as_one_made_for_the_inputs(rng):
    original, compressed = networks("matmul", "tt", rng)
    data = samples("matmul", rng)
    refit(original, compressed, data)
    x = np.concatenate([sample["x"] for sample in data]).astype(np.float64)
    weight = original.graph.initializers["w"].const_value
    assert weight is not None
    outputs = (x @ weight.numpy()).reshape(len(x), 3, -1)
    u = np.linalg.svd(outputs.reshape(len(x), -1), full_matrices=False)[0][:, :5]
    side = np.moveaxis(outputs, 2, 0).reshape(4, -1)
    v = np.linalg.svd(side, full_matrices=False)[0][:, :3]
    near = np.einsum("ma,na,nij,jb,lb->mil", u, u, outputs, v, v, optimize=True)
    hosvd = np.linalg.norm(outputs - near) / np.linalg.norm(outputs)
    # the ridge of 0.5 K / rows is large for 320 rows
    assert lost(original, compressed, data) <= 1.15 * hosvd


def edited(method: str, rng: np.random.Generator, change: Mapping[str, Any]) -> list[str]:
    """Why a layer is not fitted after something was done to its nodes."""
    original, compressed = networks("gemm", method, rng)
    nodes = {node.op_type: node for node in compressed.graph}
    for kind, act in change.items():
        act(nodes[kind], compressed)
    return [found.why_not for found in refit(original, compressed, samples("gemm", rng))]


def test_what_is_no_longer_three_products_keeps_its_factors(rng):
    def read(node: ir.Node, model: ir.Model) -> None:
        more = ir.node("Relu", [node.outputs[0]])
        more.outputs[0].name = "more"
        model.graph.append(more)
        model.graph.outputs.append(more.outputs[0])

    assert edited("tt", rng, {"Reshape": lambda n, m: read(m.graph.node(0), m)}) == [
        "its parts are not three plain products"
    ]
    scale = ir.AttrFloat32("alpha", 2.0)
    change = {"Gemm": lambda node, _: node.attributes.add(scale)}
    assert edited("tucker", rng, change) == ["its parts are not three plain products"]
