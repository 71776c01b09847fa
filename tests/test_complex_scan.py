"""The model with complex values is what its script says, and computes what the formula says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx.reference import ReferenceEvaluator

from models import make_complex_scan as made

Array = npt.NDArray[Any]


def recurrence(weights: dict[str, Array], x: Array, state: Array) -> tuple[Array, Array]:
    """Outputs and last state in complex128, from weights as the model holds them."""
    poles, b, h = (
        one[..., 0] + 1j * one[..., 1] for one in (weights["lambda"], weights["B"], state)
    )
    pairs = weights["C"].reshape(made.STATES, 2, made.OUTPUTS)
    c = pairs[:, 0] - 1j * pairs[:, 1]
    outputs = []
    for x_t in np.moveaxis(x, 1, 0):
        h = poles * h + x_t @ b.T
        outputs.append((h @ c).real + x_t @ weights["D"])
    return np.stack(outputs, axis=1), np.stack([h.real, h.imag], axis=-1)


def weights_of(model: onnx.ModelProto) -> dict[str, Array]:
    arrays = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    return {name: array for name, array in arrays.items() if array.dtype == np.float32}


def test_the_files_are_those_that_the_script_writes(root: Path, tmp_path: Path) -> None:
    assert made.main([str(tmp_path)]) == 0
    for name in ("complex_scan.onnx", "complex_scan_calibration.npz"):
        assert (tmp_path / name).is_file()
    assert onnx.load(tmp_path / "complex_scan.onnx") == onnx.load(root / "models/complex_scan.onnx")
    kept = np.load(root / "models/complex_scan_calibration.npz")
    for name, array in made.samples().items():
        np.testing.assert_array_equal(kept[name], array)
    assert (root / "models/complex_scan.onnx").stat().st_size < 40_000


@pytest.mark.parametrize("batch", [1, 3])
def test_it_computes_the_recurrence(root: Path, batch: int) -> None:
    model = onnx.load(root / "models/complex_scan.onnx")
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, 9, made.INPUTS)).astype(np.float32)
    state = rng.standard_normal((batch, made.STATES, 2)).astype(np.float32)
    expected = recurrence(weights_of(model), x, state)
    feeds = {"x": x, "state": state}
    runtime = onnxruntime.InferenceSession(model.SerializeToString())
    for found in (runtime.run(None, feeds), ReferenceEvaluator(model).run(None, feeds)):
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(np.asarray(one), other, rtol=1e-4, atol=1e-4)


def test_step_by_step_it_is_the_same(root: Path) -> None:
    session = onnxruntime.InferenceSession(root / "models/complex_scan.onnx")
    x = made.samples()["x"][:2]
    state = start = np.zeros((2, made.STATES, 2), np.float32)
    outputs = []
    for step in range(x.shape[1]):
        y, state = session.run(None, {"x": x[:, step : step + 1], "state": state})
        outputs.append(y)
    whole, last = session.run(None, {"x": x, "state": start})
    np.testing.assert_allclose(np.concatenate(outputs, axis=1), whole, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(state, last, rtol=1e-5, atol=1e-6)


def test_parts_are_far_apart_and_count_as_much(root: Path) -> None:
    weights = weights_of(onnx.load(root / "models/complex_scan.onnx"))
    assert (np.hypot(*weights["lambda"].T) < 1).all()
    sizes = np.sqrt(np.mean(np.square(weights["B"]), axis=(0, 1)))
    assert sizes[0] / sizes[1] == pytest.approx(made.RATIO, rel=0.1)
    x = np.random.default_rng(0).standard_normal((4, 200, made.INPUTS))
    y, h = recurrence(weights, x, np.zeros((4, made.STATES, 2)))
    # of the output, as much comes from either part
    pairs = weights["C"].reshape(made.STATES, 2, made.OUTPUTS)
    shares = [np.linalg.norm(h[..., part] @ pairs[:, part]) for part in (0, 1)]
    assert shares[0] / shares[1] == pytest.approx(1, abs=0.5)
    assert np.isfinite(y).all()
