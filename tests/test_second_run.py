"""What was factorized before is planned anew: smaller, and within the budget."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

import onnxslim_rx as rx
from onnxslim_rx.ir import load, save
from onnxslim_rx.passbase import CompressionPass, Layer
from onnxslim_rx.pipeline import clean
from onnxslim_rx.stages import apply_treatments
from onnxslim_rx.targets import load_target
from onnxslim_rx_passes.factorize_chains import FactorizeChains
from onnxslim_rx_passes.factorize_conv import FactorizeConv
from onnxslim_rx_passes.factorize_gemm import FactorizeGemm
from tests.passes.conftest import build

BUDGET = rx.Budget(min_cosine=0.99, minimize="bytes")
CHAINS = "factorize-chains"


@pytest.fixture(scope="module")
def factorized(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's own model as another tool may leave it: mild factors, nothing marked."""
    model = clean(load(root / "models" / "digits.onnx"), verify=None).model
    # the Gram matrix is not known to such a tool
    passes: list[CompressionPass] = [
        FactorizeGemm(rank=64, method="svd"),
        FactorizeConv(method="tucker", rank_in=12, rank_out=24, weighting="none"),
    ]
    for one in passes:
        layers = [layer for layer in one.layers(model) if isinstance(layer, Layer)]
        found = [next(iter(one.candidates(x, None, load_target("ort-cpu"))), None) for x in layers]
        treatments = [
            (x, c.stages, None) for x, c in zip(layers, found, strict=True) if c is not None
        ]
        assert apply_treatments(model, treatments, {one.name: one}) == []
    for node in model.graph:
        node.metadata_props.clear()
    place = tmp_path_factory.mktemp("second") / "factorized.onnx"
    save(model, place)
    return place


def images(root: Path) -> dict[str, Any]:
    """Some to calibrate on."""
    found: dict[str, Any] = dict(np.load(root / "models" / "digits_calibration.npz"))
    return {name: array[:256] for name, array in found.items()}


def optimized(model: Path, root: Path, *only: str, **options: Any) -> rx.Result:
    """The model compressed again, by some passes only."""
    return rx.optimize(
        model,
        budget=BUDGET,
        calibration=images(root),
        only=only,
        progress=False,
        options={CHAINS: {"min_elements": 1024}} | options,
    )


def share(result: rx.Result) -> float:
    """Of the bytes that is left."""
    found = result.report.bytes
    assert found.before is not None
    assert found.after is not None
    return found.after / found.before


def weights(model: ir.Model) -> dict[str, tuple[int, ...]]:
    """Shapes of all constants with more than one axis, by name."""
    found = {name: value.const_value for name, value in model.graph.initializers.items()}
    return {
        n: tuple(t.shape.numpy()) for n, t in found.items() if t is not None and len(t.shape) > 1
    }


def test_factors_get_lower_ranks_within_the_budget(
    factorized: Path, root: Path, tmp_path: Path
) -> None:
    result = optimized(factorized, root, CHAINS)
    plans = {plan.name: plan.stages for plan in result.plan.changes}
    assert {stage.pass_name for stages in plans.values() for stage in stages} == {CHAINS}
    assert "fc1_weight.p * fc1_weight.q" in plans
    assert share(result) < 0.5
    assert len(plans) == 3  # the convolution, too
    before, after = weights(load(factorized)), weights(result.model)
    assert before.keys() == after.keys()
    assert after["fc1_weight.p"][1] == after["fc1_weight.q"][0] < before["fc1_weight.p"][1]
    result.save(tmp_path / "again.onnx")
    shown = np.load(root / "models" / "digits_test.npz")["image"]
    outputs = [
        onnxruntime.InferenceSession(str(path)).run(None, {"image": shown})[0].astype(np.float64)
        for path in (factorized, tmp_path / "again.onnx")
    ]
    one, other = (array / np.linalg.norm(array, axis=1, keepdims=True) for array in outputs)
    assert (one * other).sum(axis=1).mean() >= 0.99


def test_factors_are_cut_and_rounded_in_one_plan(factorized: Path, root: Path) -> None:
    both = optimized(factorized, root, CHAINS, "quantize-weights")
    used = {stage.pass_name for plan in both.plan.changes for stage in plan.stages}
    assert used == {CHAINS, "quantize-weights"}
    assert share(both) < 0.2
    again = rx.optimize(
        factorized,
        plan=both.plan,
        calibration=images(root),
        progress=False,
        options={CHAINS: {"min_elements": 1024}},
    )
    assert weights(again.model) == weights(both.model)


# as torch exports modules in a row, each with a bias; the biases that the clean-up leaves
OTHERS: dict[str, tuple[Any, ...]] = {
    "linear": (
        "float[2, 5, 24] x",
        "m = MatMul(x, w0)  n = Add(m, b0)  o = MatMul(n, w1)  y = Add(o, b1)",
        {"w0": (24, 9), "b0": (9,), "w1": (9, 20), "b1": (20,)},
        ["MatMul", "MatMul", "Add"],
        False,
    ),
    "tucker": (
        "float[2, 24, 8, 8] x",
        "m = Conv(x, w0, b0)  n = Conv<pads = [1, 1, 1, 1]>(m, w1, b1)  y = Conv(n, w2, b2)",
        {"w0": (9, 24, 1, 1), "b0": (9,), "w1": (8, 9, 3, 3), "b1": (8,)}
        | {"w2": (20, 8, 1, 1), "b2": (20,)},
        ["Conv", "Conv", "Conv"],
        True,  # it lies in front of padding
    ),
    "dearer than what it stands for": (
        "float[2, 6, 8, 8] x",
        "m = Conv(x, w0)  n = Conv<pads = [1, 1, 1, 1], group = 40>(m, w1, b1)"
        "  y = Conv(n, w2, b2)",
        {"w0": (40, 6, 1, 1), "w1": (40, 1, 3, 3), "b1": (40,), "w2": (8, 40, 1, 1), "b2": (8,)},
        ["Conv"],
        None,
    ),
}


@pytest.mark.parametrize("case", OTHERS)
def test_rows_of_modules_are_chains(case: str, rng: np.random.Generator) -> None:
    entering, nodes, shapes, ops, biased = OTHERS[case]
    weights = {name: rng.standard_normal(shape).astype("f") for name, shape in shapes.items()}
    unknown = ", ".join(["?"] * (entering.count(",") + 1))
    model = build(f"g ({entering}) => (float[{unknown}] y) {{ {nodes} }}", weights)
    cleaned = clean(model).model  # compared with the model as it was
    assert [node.op_type for node in cleaned.graph] == ops
    found = list(FactorizeChains(min_elements=1).layers(cleaned))
    assert [getattr(chain, "biased", None) for chain in found] == (
        [] if biased is None else [biased]
    )
