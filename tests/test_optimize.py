"""The spine: the promise is kept on data that nobody showed, and nothing is made worse."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

import onnxslim_rx as rx
from onnxslim_rx.errors import BudgetError, InputError
from onnxslim_rx.ir import load, size_bytes
from onnxslim_rx.passbase import Stage
from onnxslim_rx.planner import Choice
from onnxslim_rx.preparation import safe_without_data


@pytest.fixture(scope="module")
def digits(root):
    """The project's own model, with its data."""
    models = root / "models"
    test = np.load(models / "digits_test.npz")
    return models / "digits.onnx", models / "digits_calibration.npz", dict(test)


@pytest.fixture(scope="module")
def result(digits):
    """One run under the default budget, shared by tests that only look."""
    model, calibration, _ = digits
    return rx.optimize(model, calibration=calibration, progress=False)


def outputs(source, feeds):
    """Of stock onnxruntime, without any code of ours."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    (name,) = (i.name for i in session.get_inputs())
    return session.run(None, {name: feeds})[0].astype(np.float64)


def cosine(a, b):
    a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    return (a * b).sum(1) / np.sqrt((a * a).sum(1) * (b * b).sum(1))


def test_the_promise_holds_in_stock_onnxruntime_on_test_data(digits, result, tmp_path):
    model, _, test = digits
    result.save(tmp_path / "out.onnx")
    before = outputs(str(model), test["image"])
    after = outputs(str(tmp_path / "out.onnx"), test["image"])
    assert cosine(before, after).mean() >= 0.99
    assert (tmp_path / "out.onnx").stat().st_size < 0.4 * model.stat().st_size
    agree = (before.argmax(1) == after.argmax(1)).mean()
    assert agree >= 0.97


def test_the_report_says_what_is_in_the_file(digits, result, tmp_path):
    model, _, _ = digits
    result.save(tmp_path / "out.onnx")
    report = result.report
    assert report.bytes.before == model.stat().st_size
    assert report.bytes.after == (tmp_path / "out.onnx").stat().st_size
    assert report.quality.cosine.mean is not None
    assert report.quality.cosine.mean >= 0.99
    assert report.quality.split == "confirm"
    assert sum(rung.chosen for rung in report.ladder) == 1
    changed = {row.name for row in report.layers if row.stages}
    assert changed == {layer.name for layer in result.plan.changes}
    assert all(row.why for row in report.layers if not row.skipped)
    assert rx.Plan.from_toml(result.plan.to_toml()) == result.plan


def test_the_interface_of_the_model_survives(digits, result):
    before, after = load(digits[0]), result.model

    def interface(model):
        return [(v.name, v.type, v.shape) for v in (*model.graph.inputs, *model.graph.outputs)]

    assert interface(before) == interface(after)
    assert before.opset_imports[""] == after.opset_imports[""]
    onnx.checker.check_model(ir.to_proto(after), full_check=True)


def test_a_plan_is_replayed_to_the_same_bytes(digits, result, tmp_path):
    model, calibration, _ = digits
    result.plan.save(tmp_path / "plan.toml")
    again = rx.optimize(model, calibration=calibration, plan=tmp_path / "plan.toml", progress=False)
    result.save(tmp_path / "a.onnx")
    again.save(tmp_path / "b.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_a_plan_for_another_model_is_refused(result, rng):
    with pytest.raises(InputError, match="another model"):
        rx.optimize(linear(rng), plan=result.plan, progress=False)


def test_a_plan_for_a_newer_runtime_is_refused(digits):
    path, calibration, _ = digits
    plan = rx.optimize(path, calibration=calibration, preset="safe", progress=False).plan
    newer = dataclasses.replace(plan, min_onnxruntime="99.1")
    with pytest.raises(InputError, match=r"needs onnxruntime 99\.1; .* is installed"):
        rx.optimize(path, calibration=calibration, plan=newer, progress=False)
    for fine in ("", "1.17"):
        older = dataclasses.replace(plan, min_onnxruntime=fine)
        found = rx.optimize(path, calibration=calibration, plan=older, progress=False)
        assert found.plan.changes == plan.changes


@pytest.mark.parametrize("kind", ["proto", "ir"])
def test_models_in_memory_come_back_as_the_same_kind_and_are_not_touched(digits, kind):
    path, calibration, _ = digits
    model = onnx.load(path) if kind == "proto" else load(path)
    before = serialized(model)
    found = rx.optimize(model, calibration=calibration, preset="safe", progress=False)
    assert type(found.model) is type(model)
    assert serialized(model) == before


def serialized(model):
    proto = model if isinstance(model, onnx.ModelProto) else ir.to_proto(model)
    return proto.SerializeToString(deterministic=True)


def test_a_metric_may_drop_no_further_than_allowed(digits):
    model, calibration, _ = digits
    found = rx.optimize(
        model,
        calibration=calibration,
        metric="top1",
        budget=rx.Budget(max_drop=0.01, minimize="bytes"),
        progress=False,
    )
    metric = found.report.quality.metric
    assert metric is not None
    assert metric.before is not None
    assert metric.after is not None
    assert metric.before - metric.after <= 0.01 + 1e-12
    assert size_bytes(found.model) < 0.3 * model.stat().st_size


def test_a_size_is_reached_or_refused(digits):
    model, calibration, _ = digits
    limit = model.stat().st_size // 3
    found = rx.optimize(
        model, calibration=calibration, budget=rx.Budget(max_bytes=limit), progress=False
    )
    assert size_bytes(found.model) <= limit
    with pytest.raises(BudgetError, match="above 1,000") as caught:
        rx.optimize(
            model, calibration=calibration, budget=rx.Budget(max_bytes=1000), progress=False
        )
    assert caught.value.exit_code == 1
    assert caught.value.report.failure


def test_operations_are_limited_at_little_damage(digits):
    model, calibration, _ = digits
    limit = int(0.7 * rx.inspect(model).totals["flops"])
    found = rx.optimize(
        model,
        calibration=calibration,
        budget=rx.Budget(max_flops=limit),
        options={"factorize-gemm": {"method": "svd", "min_elements": 64}},
        progress=False,
    )
    after = found.report.flops.after
    assert after is not None
    assert 0.5 * limit < after <= limit
    methods = {s.options["method"] for layer in found.plan.changes for s in layer.stages[:1]
               if s.pass_name == "factorize-gemm"}  # fmt: skip
    assert methods == {"svd"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"factorize-gemm": {"rank_": 3}}, "has no option 'rank_'"),
        ({"factorise-gemm": {}}, "there is no pass 'factorise-gemm'"),
        ({"fold-constants": {}}, "fold-constants, which is no compression pass"),
    ],
)
def test_options_of_passes_are_checked(digits, options, message):
    with pytest.raises(InputError, match=message):
        rx.optimize(digits[0], options=options, progress=False)


def test_a_cosine_of_one_keeps_every_layer(digits):
    found = rx.optimize(
        digits[0], calibration=digits[1], budget=rx.Budget(min_cosine=1.0), progress=False
    )
    assert found.plan.changes == ()


def test_safe_cleans_and_compresses_nothing(digits):
    found = rx.optimize(digits[0], preset="safe", progress=False)
    assert found.plan.changes == ()
    assert found.report.quality.cosine.mean == pytest.approx(1.0, abs=1e-6)


def test_passes_can_be_left_out(digits):
    model, calibration, _ = digits
    found = rx.optimize(model, calibration=calibration, skip=["quantize-weights"], progress=False)
    used = {stage.pass_name for layer in found.plan.changes for stage in layer.stages}
    assert "quantize-weights" not in used
    with pytest.raises(InputError, match="no pass 'quantise'"):
        rx.optimize(model, skip=["quantise"], progress=False)


def linear(rng, k=64, n=48):
    """One MatMul whose weight has full rank and no structure."""
    model = ir.from_onnx_text(
        f'<ir_version: 8, opset_import: ["": 17]>\n'
        f"g (float[b, {k}] x) => (float[b, {n}] y) {{ y = MatMul(x, w) }}"
    )
    (value,) = {v for node in model.graph for v in node.inputs if v and v.name == "w"}
    weight = rng.standard_normal((k, n)).astype(np.float32)
    value.const_value = ir.tensor(weight, name="w")
    value.type, value.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(weight.shape)
    model.graph.register_initializer(value)
    return model


@pytest.mark.parametrize(
    ("stages", "error", "safe"),
    [
        ([], 0.0, True),
        ([("factorize-gemm", {"rank": 8})], 0.01, True),
        ([("factorize-gemm", {"rank": 8})], 0.03, False),
        ([("tensorize-gemm", {"rank": 8})], float("nan"), False),
        ([("quantize-weights", {"bits": 4})], 0.11, True),
        ([("quantize-weights", {"bits": 2})], 0.4, False),
        ([("factorize-gemm", {"rank": 8}), ("quantize-weights", {"bits": 4})], 0.11, False),
        ([("quantize-dynamic", {"bits": 8})], 0.01, False),
        ([("of-others", {})], 0.5, True),
    ],
)
def test_what_may_be_done_without_data(stages, error, safe):
    choice = Choice(tuple(Stage(*stage) for stage in stages), error, bytes=1, flops=1)
    assert safe_without_data(choice) == safe


def test_without_data_the_report_says_that_it_knows_less(rng):
    found = rx.optimize(linear(rng), progress=False)
    assert found.report.quality.split == "synthetic"
    assert any("No calibration data" in note for note in found.report.notes)


def test_a_metric_without_data_is_refused(rng):
    with pytest.raises(InputError, match="needs data"):
        rx.optimize(linear(rng), metric="top1", progress=False)


def test_a_drop_without_a_metric_is_refused(rng):
    with pytest.raises(InputError, match="no metric"):
        rx.optimize(linear(rng), budget=rx.Budget(max_drop=0.1), progress=False)


def test_the_input_file_is_never_touched_nor_written_over(digits):
    model, calibration, _ = digits
    before = hashlib.sha256(model.read_bytes()).hexdigest()
    found = rx.optimize(model, calibration=calibration, preset="safe", progress=False)
    with pytest.raises(InputError, match="input"):
        found.save(model)
    assert hashlib.sha256(model.read_bytes()).hexdigest() == before


def test_simplify_gives_the_same_kind_and_the_same_outputs(digits):
    model, _, test = digits
    proto = onnx.load(model)
    clean = rx.simplify(proto, progress=False)
    assert isinstance(clean, onnx.ModelProto)
    before = outputs(str(model), test["image"])
    after = outputs(clean.SerializeToString(), test["image"])
    np.testing.assert_allclose(after, before, atol=1e-4)


def test_compare_and_inspect_and_bench(digits, result, tmp_path):
    model, calibration, _ = digits
    result.save(tmp_path / "out.onnx")
    comparison = rx.compare(model, tmp_path / "out.onnx", calibration)
    assert 0.98 < comparison.cosine() < 1.0
    assert rx.compare(model, model, calibration).cosine() == 1.0
    inspection = rx.inspect(model)
    assert inspection.totals["params"] == result.report.params.before
    found = rx.bench([model, tmp_path / "out.onnx"], calibration=calibration, seconds=0.1,
                     metric="top1", progress=False)  # fmt: skip
    assert [row.name for row in found.rows] == [str(model), str(tmp_path / "out.onnx")]
    assert found.rows[1].bytes < found.rows[0].bytes
    assert all(row.latency_ms > 0 and (row.metric or 0) > 0.9 for row in found.rows)
    assert found.pareto()


def test_weights_listed_as_inputs_are_left_alone_until_they_are_frozen(rng):
    model = linear(rng)
    model.graph.inputs.append(model.graph.initializers["w"])
    left = rx.optimize(model, progress=False)
    assert left.plan.changes == ()
    assert any("--freeze-weights" in note for note in left.report.notes)
    frozen = rx.optimize(model, freeze_weights=True, progress=False)
    assert [layer.name for layer in frozen.plan.changes] == ["w"]
    assert [value.name for value in frozen.model.graph.inputs] == ["x"]
    assert [value.name for value in model.graph.inputs] == ["x", "w"]


def test_the_error_names_the_smallest_plan_that_was_found(digits):
    model, calibration, _ = digits
    with pytest.raises(BudgetError) as caught:
        rx.optimize(
            model, calibration=calibration, budget=rx.Budget(max_bytes=3000), progress=False
        )
    smallest = min(r.bytes for r in caught.value.report.ladder if r.passed is not None)
    assert f"{smallest:,} bytes" in str(caught.value)


def test_a_prediction_that_is_far_off_bars_the_way_to_nothing(rng, monkeypatch):
    """Ranks of a matrix without structure are said to cost nothing, and INT8 to cost something."""

    def lie(model, units, passes, data, wanted, cache):
        for unit in units:
            for choice in unit.choices[1:]:
                cut = choice.stages[0].pass_name == "factorize-gemm"
                choice.damage = 1e-12 if cut else 1e-5

    monkeypatch.setattr("onnxslim_rx.optimizer.measure_damages", lie)
    data = [{"x": rng.standard_normal((4, 96)).astype(np.float32)} for _ in range(64)]
    found = rx.optimize(
        linear(rng, 96, 96), calibration=data, budget=rx.Budget(min_cosine=0.999), progress=False
    )
    (layer,) = found.plan.changes
    assert [stage.pass_name for stage in layer.stages] == ["quantize-weights"]


def test_latency_and_operations_are_limits_too(digits):
    model, calibration, _ = digits
    before = rx.inspect(model, calibration).totals["macs"] * 2

    def run(**limits):
        budget = rx.Budget(**limits)
        return rx.optimize(model, calibration=calibration, budget=budget, progress=False)

    found = run(max_flops=int(0.8 * before))
    assert found.report.flops.after is not None
    assert found.report.flops.after <= 0.8 * before
    assert run(max_latency=1000.0, min_cosine=0.99).report.quality.cosine.mean >= 0.99
    with pytest.raises(BudgetError, match="ms, above"):
        run(max_latency=1e-6)


def test_a_handful_of_samples_is_not_trusted_to_cut_ranks(rng):
    """Four rows span four directions: everything else would be cut for nothing."""
    data = [{"x": rng.standard_normal((1, 96)).astype(np.float32)} for _ in range(4)]
    model = linear(rng, 96, 96)
    found = rx.optimize(model, calibration=data, progress=False)
    assert any("4 calibration samples" in note for note in found.report.notes)
    fresh = rng.standard_normal((200, 96)).astype(np.float32)
    before = outputs(ir.to_proto(model).SerializeToString(), fresh)
    after = outputs(ir.to_proto(found.model).SerializeToString(), fresh)
    assert cosine(before, after).mean() >= 0.99
    assert size_bytes(found.model) < 0.4 * size_bytes(model)
