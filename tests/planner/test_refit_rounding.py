"""Weights fitted before they are rounded, against least squares on the rows of uncut runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from onnxslim_rx.ir import clone, constant
from onnxslim_rx.passbase import (
    CompressionPass,
    Factors,
    Layer,
    LayerStatistics,
    Skipped,
    Stage,
    weight_layers,
)
from onnxslim_rx.planner import apply_plan, refit
from onnxslim_rx.planner.fit.rounding import Rounding
from onnxslim_rx.plans import LayerPlan
from tests.planner.test_refit import (
    model_of,
    noise,
    regression,
    relative,
    residual,
    samples,
    seen,
    weight,
)

Array = npt.NDArray[Any]
STEPS = 2.0  # of the grid on each side of 0
WIDTH = 16


def coarse(array: Array) -> Array:
    """Each column on a grid of a few points; of a second rounding nothing is left to do."""
    scale = np.abs(array).max(axis=-2, keepdims=True) / STEPS
    found: Array = np.rint(array / scale) * scale
    return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class Coarse(CompressionPass):
    """Stores a weight on a coarse grid, and notes what it was told."""

    name: ClassVar[str] = "coarse"
    replaces: ClassVar[Literal["output", "weight"]] = "weight"
    told: dict[str, LayerStatistics | None] = dataclasses.field(default_factory=dict)

    def layers(self, model: ir.Model) -> Iterable[Layer | Skipped]:
        return weight_layers(
            model, {"linear": "linear", "embedding": "embedding"}, min_elements=100
        )

    def follows_data(self, stage: Stage) -> bool:
        return bool(stage.options["fitted"])

    def transform(
        self, layer: Layer, stage: Stage, factors: Factors, stats: LayerStatistics | None
    ) -> Factors:
        return tuple(map(coarse, factors))

    def apply(
        self, layer: Layer, stage: Stage, stats: LayerStatistics | None, tape: ir.tape.Tape
    ) -> ir.Value:
        self.told[layer.name] = stats
        tensor = constant(layer.weight)
        assert tensor is not None
        stored = coarse(tensor.numpy()).astype(np.float32)
        return tape.initializer(ir.tensor(stored, name=f"{layer.name}.coarse"))


def carried_out(
    model: ir.Model, data: Any, fitted: Callable[[str], bool], *, fit: bool = True
) -> tuple[ir.Model, Coarse, list[Any]]:
    one, reports = Coarse(), []
    names = [layer.name for layer in one.layers(model) if isinstance(layer, Layer)]
    plans = [LayerPlan(name, (Stage("coarse", {"fitted": fitted(name)}),)) for name in names]

    def fits(copy: ir.Model, roundings: Any) -> dict[str, LayerStatistics]:
        reports.extend(refit(model, copy, data, roundings=roundings))
        return {name: stats for report in reports for name, stats in report.stats.items()}

    found, skipped = apply_plan(model, plans, {"coarse": one}, {}, refit=fits if fit else None)
    assert not skipped
    return found, one, reports


def test_each_weight_is_fitted_behind_rounded_ones(rng: np.random.Generator) -> None:
    model, data = residual(rng, 2), samples(rng, 40)
    plain, _, _ = carried_out(model, data, lambda name: True, fit=False)
    found, one, reports = carried_out(model, data, lambda name: True)
    assert [report.name for report in reports] == ["v0", "w0", "v1", "w1"]
    # up to each layer as in the result, from there on as the original
    reference = clone(model)
    for report in reports:
        name, block = report.name, report.name[1]
        first = name[0] == "v"
        entering, output = (f"h{block}", f"f{block}") if first else (f"a{block}", f"o{block}")
        target = f"g{block}" if first else f"s{block}"
        x, now = seen(reference, entering, data), weight(model, name).astype(np.float64)
        y = seen(reference, output, data) + seen(model, target, data)
        best = regression(x, y - seen(reference, target, data), now, WIDTH)
        rounded = weight(found, name)
        candidates = [relative_with(model, reference, name, coarse(w), target, data)
                      for w in (now, best)]  # fmt: skip
        assert report.before == pytest.approx(candidates[0], rel=1e-3)
        assert report.after == pytest.approx(min(candidates), rel=1e-2)
        if report.stats:
            assert candidates[1] < candidates[0]
            told = one.told[name]
            assert told is not None
            assert told.gram is not None
            np.testing.assert_allclose(told.gram, x.T @ x, rtol=1e-3, atol=1e-3 * len(x))
            assert told.rows == len(x)
        else:
            assert report.why_not
            np.testing.assert_array_equal(rounded, coarse(weight(model, name)))
        reference.graph.initializers[name].const_value = ir.tensor(rounded, name=name)
    fresh = samples(rng, 30)
    assert relative(model, found, "y", fresh) < 0.9 * relative(model, plain, "y", fresh)


def relative_with(
    model: ir.Model, reference: ir.Model, name: str, array: Array, target: str, data: Any
) -> float:
    """The error of `target` where one weight of `reference` is another."""
    other = clone(reference)
    stored = array.astype(np.float32)
    other.graph.initializers[name].const_value = ir.tensor(stored, name=name)
    return float(relative(model, other, target, data))


def test_what_is_not_fitted_is_rounded_on_the_way(rng: np.random.Generator) -> None:
    model, data = residual(rng, 1), samples(rng, 40)
    found, one, reports = carried_out(model, data, lambda name: name == "w0")
    (report,) = reports
    assert report.name == "w0"
    assert one.told["v0"] is None
    np.testing.assert_array_equal(weight(found, "v0"), coarse(weight(model, "v0")))
    reference = clone(model)
    reference.graph.initializers["v0"].const_value = ir.tensor(weight(found, "v0"), name="v0")
    x = seen(reference, "a0", data)
    told = one.told["w0"]
    assert told is not None
    assert told.gram is not None
    np.testing.assert_allclose(told.gram, x.T @ x, rtol=1e-3, atol=1e-3 * len(x))


def test_the_model_is_as_it_was_where_nothing_can_be_fitted(rng: np.random.Generator) -> None:
    """Two products read one weight."""
    table = noise(rng, WIDTH, WIDTH)
    model = model_of(
        f"float[{WIDTH},{WIDTH}] x => float[{WIDTH},{WIDTH}] y",
        "a = MatMul(x, w) b = Tanh(a) y = MatMul(b, w)",
        w=table,
    )
    data = [{"x": noise(rng, WIDTH, WIDTH)} for _ in range(8)]
    copy, one = clone(model), Coarse()
    (layer,) = one.layers(copy)
    assert isinstance(layer, Layer)
    rounding = Rounding(layer, Stage("coarse", {"fitted": True}), one, None)
    for report in refit(model, copy, data, roundings=[rounding]):
        assert "share" in report.why_not
        assert not report.stats
    np.testing.assert_array_equal(weight(copy, "w"), table)
