"""Sessions: what goes in, what comes out, and what is said when something does not fit."""

from __future__ import annotations

import gc

import ml_dtypes
import numpy as np
import onnx.parser
import onnx_ir as ir
import pytest

import onnxslim_rx as rx
from onnxslim_rx import runtime
from onnxslim_rx.errors import InputError
from onnxslim_rx.ir import MappedTensor, load
from onnxslim_rx.runtime import Runner, evaluate


def parse(text: str, ir_version: int = 8, opset: str = '"" : 17') -> ir.Model:
    header = f"<ir_version: {ir_version}, opset_import: [{opset}]>"
    return ir.from_proto(onnx.parser.parse_model(f"{header} g {text}"))


RELU = "(float[n, 3] x) => (float[n, 3] y) { y = Relu(x) }"


def matmul_model(weight: np.ndarray, *, overridable: bool = False) -> ir.Model:
    model = parse(
        f"(float[n, {weight.shape[0]}] x, float[{weight.shape[0]}, {weight.shape[1]}] w)"
        " => (float[n, m] y) { y = MatMul(x, w) }"
    )
    value = model.graph.inputs[1]
    value.const_value = ir.tensor(weight, name="w")
    model.graph.register_initializer(value)
    if not overridable:
        model.graph.inputs.pop()
    return model


@pytest.mark.parametrize("form", ["path", "bytes", "model"])
def test_a_model_runs_from_any_form(form, tmp_path, rng) -> None:
    model = matmul_model(rng.standard_normal((200, 300)).astype(np.float32))  # large: shared
    content = ir.to_proto(model).SerializeToString()
    (tmp_path / "m.onnx").write_bytes(content)
    source = {"path": tmp_path / "m.onnx", "bytes": content, "model": model}[form]
    x = rng.standard_normal((4, 200)).astype(np.float32)

    found = Runner(source)({"x": x})

    weight = model.graph.initializers["w"].const_value
    assert weight is not None
    wanted = x.astype(np.float64) @ weight.numpy().astype(np.float64)
    # float32 sums of 200 products of standard normal numbers: 200 * 2^-24 * about 200
    np.testing.assert_allclose(found["y"], wanted, atol=3e-3)


def test_a_large_weight_that_nobody_reads_does_no_harm() -> None:
    model = parse(RELU)
    spare = ir.Value(name="spare", const_value=ir.tensor(np.zeros((200, 200), np.float32)))
    model.graph.register_initializer(spare)
    assert Runner(model)({"x": np.ones((1, 3), np.float32)})["y"].all()


def test_the_model_in_memory_stays_as_it_is(rng) -> None:
    model = matmul_model(rng.standard_normal((200, 300)).astype(np.float32))
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    Runner(model)
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_shared_weights_live_as_long_as_the_session(dtype, rng) -> None:
    weight = rng.standard_normal((200, 300)).astype(dtype)
    model = parse("(float[n, 200] x) => (float[n, m] y) { f = Cast <to = 1> (w) y = MatMul(x, f) }")
    value = ir.Value(name="w", const_value=ir.tensor(np.asfortranarray(weight), name="w"))
    model.graph.register_initializer(value)
    model.graph[0].replace_input_with(0, value)
    runner = Runner(model, optimize=False)  # a cast of a weight would be folded
    del model, value
    gc.collect()
    taken = [np.full((200, 300), np.nan, dtype) for _ in range(20)]  # what was freed
    found = runner({"x": np.eye(200, dtype=np.float32)})["y"]
    np.testing.assert_array_equal(found, weight.astype(np.float32))
    assert len(taken) == 20


@pytest.mark.parametrize("size", [(3, 3), (200, 300)])
def test_an_overridable_weight_is_optional(size, rng) -> None:
    weight = rng.standard_normal(size).astype(np.float32)
    runner = Runner(matmul_model(weight, overridable=True))
    x = np.eye(size[0], dtype=np.float32)

    assert list(runner.inputs) == ["x"]
    np.testing.assert_allclose(runner({"x": x})["y"], weight, rtol=1e-6)
    np.testing.assert_allclose(runner({"x": x, "w": -weight})["y"], -weight, rtol=1e-6)
    np.testing.assert_allclose(runner({"x": x})["y"], weight, rtol=1e-6)
    with pytest.raises(InputError, match=r"input 'w' has shape \[1, 1\]; expected float32"):
        runner({"x": x, "w": np.ones((1, 1), np.float32)})


@pytest.mark.parametrize("size", [(3, 4), (200, 300)])
@pytest.mark.parametrize("old", [False, True])  # the way for onnxruntime 1.20 works in all
def test_weights_in_external_data_run_from_memory(size, old, tmp_path, monkeypatch, rng) -> None:
    if old:
        monkeypatch.setattr("onnxslim_rx.runtime.weights.version", lambda: (1, 20))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deep").mkdir()
    path = tmp_path / "deep" / "m.onnx"
    weight = rng.standard_normal(size).astype(np.float32)
    ir.save(matmul_model(weight), path, external_data="m.data", size_threshold_bytes=0)
    for loaded in (ir.load(path), load(path)):
        found = Runner(loaded)({"x": np.eye(len(weight), dtype=np.float32)})
        np.testing.assert_allclose(found["y"], weight, rtol=1e-6)


def test_large_weights_in_files_are_not_read(tmp_path, monkeypatch, rng) -> None:
    if runtime.version() < (1, 21):
        pytest.skip("onnxruntime finds external data of models from memory since 1.21")
    path = tmp_path / "m.onnx"
    weight = rng.standard_normal((200, 300)).astype(np.float32)
    ir.save(matmul_model(weight), path, external_data="m.data")
    model = load(path)
    monkeypatch.setattr(MappedTensor, "numpy", lambda self: pytest.fail("a weight was read"))
    found = Runner(model)({"x": np.eye(200, dtype=np.float32)})
    np.testing.assert_allclose(found["y"], weight, rtol=1e-6)


def test_more_than_two_gigabytes_are_not_serialised(monkeypatch, rng) -> None:
    weight = rng.standard_normal((200, 300)).astype(np.float32)
    model = matmul_model(weight)
    model.graph.initializers["w"].const_value = ir.LazyTensor(
        lambda: ir.tensor(weight), ir.DataType.FLOAT, ir.Shape([200, 300]), name="w"
    )
    monkeypatch.setattr(
        ir.LazyTensor, "tobytes", lambda self: pytest.fail("a shared weight was copied")
    )
    Runner(model)


def test_weights_in_subgraphs_have_a_limit(monkeypatch) -> None:
    monkeypatch.setattr("onnxslim_rx.runtime.weights._PROTOBUF_BYTES", 10)
    model = matmul_model(np.ones((3, 4), np.float32))
    with pytest.raises(InputError, match="expected less than 2 GB of such"):
        Runner(model)


def test_outputs_can_be_chosen() -> None:
    model = parse("(float[3] x) => (float[3] a, float[3] b) { a = Relu(x) b = Neg(x) }")
    x = np.ones(3, np.float32)
    runner = Runner(model, outputs=["b"])
    assert list(runner.outputs) == list(runner({"x": x})) == ["b"]
    with pytest.raises(InputError, match="no output 'c'; expected one of a, b"):
        Runner(model, outputs=["c"])


def test_specs_say_what_goes_in_and_out() -> None:
    model = parse(
        "(float16[n, 3, ?] x, bool m, string[2] s) => (float16[n, 3, ?] y, bool k, string[2] t)"
        "{ y = Identity(x) k = Identity(m) t = Identity(s) }"
    )
    runner = Runner(model)
    assert [str(spec) for spec in runner.inputs.values()] == [
        "float16[n, 3, ?]", "bool[]", "object[2]"
    ]  # fmt: skip
    assert runner.inputs["x"].shape[:2] == ("n", 3)
    found = runner({
        "x": np.ones((2, 3, 1), np.float16), "m": np.True_, "s": np.array(["a", "b"], object)
    })  # fmt: skip
    assert found["y"].dtype == np.float16
    assert found["t"].tolist() == ["a", "b"]
    assert bool(found["k"])


@pytest.mark.parametrize(
    ("feeds", "words"),
    [
        ({}, "no value is given for the input 'x'; expected 'x' as float32[n, 3]"),
        ({"x": np.ones((1, 3), np.float32), "z": 1}, "no input 'z'; expected 'x'"),
        ({"x": np.ones((1, 3))}, "input 'x' has type float64; expected float32[n, 3]"),
        ({"x": np.ones((1, 4), np.float32)}, "input 'x' has shape [1, 4]; expected float32[n, 3]"),
        ({"x": np.ones(3, np.float32)}, "input 'x' has shape [3]; expected float32[n, 3]"),
        ({"x": [[1.0, 2.0, 3.0]]}, "input 'x' is a list; expected an array float32[n, 3]"),
    ],
)
def test_feeds_that_do_not_fit_are_named(feeds, words) -> None:
    with pytest.raises(InputError) as caught:  # noqa: PT011  the whole text is compared below
        Runner(parse(RELU))(feeds)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        (RELU, {"opset": '"" : 99'}, "opset 99 of ai.onnx; expected at most"),
        (RELU, {"ir_version": 99}, "IR version 99; expected at most"),
        (
            "(float[3] x) => (float[3] y) { y = my.own.Thing(x) }",
            {"opset": '"" : 17, "my.own" : 1'},
            "operator Thing of the domain my.own, which onnxruntime does not know; load the",
        ),
        (
            "(float[3] x) => (float[3] y) { y = Thing(x) }",
            {},
            "operator Thing, which does not exist",
        ),
        (
            "(bfloat16[3] x) => (bfloat16[3] y) { y = Erf(x) }",
            {},
            "no CPU kernel for Erf (opset 13)",
        ),
        (
            "(float[3] x, int64[3] z) => (float[3] y) { y = Add(x, z) }",
            {},
            "bound to different types",
        ),
    ],
)
def test_models_that_do_not_load_are_explained(text, options, words) -> None:
    with pytest.raises(InputError) as caught:  # noqa: PT011  the whole text is compared below
        Runner(parse(text, **options))
    check_line(caught.value, words)


def test_other_sources_that_do_not_load_are_explained(tmp_path) -> None:
    with pytest.raises(InputError, match="there is no file") as caught:
        Runner(tmp_path / "none.onnx")
    check_line(caught.value, "none.onnx")
    with pytest.raises(InputError, match="onnxruntime") as caught:
        Runner(b"\x08no model")
    check_line(caught.value, "truncated or damaged")
    with pytest.raises(InputError, match="onnxruntime failed to load the model"):
        Runner(parse(RELU), libraries=[tmp_path / "none.so"])


def test_what_fails_while_running_is_one_line(capfd) -> None:
    runner = Runner(parse("(float[n] x, int64[2] s) => (float[a, b] y) { y = Reshape(x, s) }"))
    with pytest.raises(InputError, match="failed to run") as caught:
        runner({"x": np.ones(5, np.float32), "s": np.array([2, 2])})
    check_line(caught.value, "Reshape")
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")  # onnxruntime itself logs nothing


def check_line(error: InputError, words: str) -> None:
    text = str(error)
    assert words in text
    assert "\n" not in text
    assert "ONNXRuntimeError" not in text
    assert "onnxruntime_src" not in text


def test_sequences_maps_and_text_come_through(assets) -> None:
    runner = Runner(assets / "models" / "sklearn_randomforest.onnx")
    found = runner({"X": np.ones((2, 4), np.float32)})
    assert [sorted(row) for row in found["output_probability"]] == [[0, 1, 2]] * 2
    assert not runner.outputs["output_probability"].is_tensor

    sequence = Runner(parse("(float[3] x) => (seq(float[3]) y) { y = SequenceConstruct(x, x) }"))
    assert [part.shape for part in sequence({"x": np.ones(3, np.float32)})["y"]] == [(3,), (3,)]


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn])
def test_types_unknown_to_numpy_go_in_and_out(dtype) -> None:
    name = ir.DataType.from_numpy(np.dtype(dtype)).name.lower()
    runner = Runner(
        parse(f"({name}[2, 2] x) => ({name}[2, 2] y, float[2, 2] z) "
              "{ y = Identity(x) z = Cast<to = 1>(x) }", ir_version=10, opset='"" : 21')
    )  # fmt: skip
    x = np.array([[1, -2], [0.5, 4]], dtype)
    found = runner({"x": x.T})
    assert found["y"].dtype == x.dtype
    np.testing.assert_array_equal(found["y"].astype(np.float32), x.T.astype(np.float32))
    np.testing.assert_array_equal(found["z"], x.T.astype(np.float32))


def test_evaluate_runs_nodes_of_a_graph_and_leaves_them_there() -> None:
    model = parse("(float[n, 3] x) => (float[n, 3] y) { a = Relu(x) b = Neg(a) y = Exp(b) }")
    nodes = list(model.graph)
    x = np.array([[-1.0, 2.0, 3.0]], np.float32)

    found = evaluate(nodes[:2], {"x": x}, model.opset_imports)

    assert list(found) == ["a", "b"]
    np.testing.assert_array_equal(found["b"], [[0.0, -2.0, -3.0]])
    assert [node.op_type for node in model.graph] == ["Relu", "Neg", "Exp"]
    assert all(node.graph is model.graph for node in nodes)
    ir.to_proto(model)


def test_evaluate_finds_initializers_and_looks_into_branches() -> None:
    model = parse(
        "(bool c, float[3] x) => (float[3] y) <float[3] w = {1, 2, 3}> {"
        " y = If(c) <then_branch = t () => (float[3] p) { p = Add(x, w) },"
        " else_branch = e () => (float[3] q) { q = Identity(x) }> }"
    )
    x = np.ones(3, np.float32)
    found = evaluate(list(model.graph), {"x": x, "c": np.array(True)}, model.opset_imports)
    np.testing.assert_array_equal(found["y"], [2, 3, 4])
    with pytest.raises(InputError, match="nothing is given for 'x'"):
        evaluate(list(model.graph), {"c": np.array(True)}, model.opset_imports)


def test_evaluate_takes_the_feeds_shapes_and_not_the_models() -> None:
    model = parse("(float[2, 3] x) => (float[2, 3] y) { y = Relu(x) }")
    found = evaluate(list(model.graph), {"x": np.ones((5, 4), np.float32)}, model.opset_imports)
    assert found["y"].shape == (5, 4)


def test_threads_can_be_set_for_the_process() -> None:
    runtime.set_default_threads(1)
    try:
        runner = Runner(parse(RELU))
        assert runner._session.get_session_options().intra_op_num_threads == 1
        runner = Runner(parse(RELU), threads=2)
        assert runner._session.get_session_options().intra_op_num_threads == 2
    finally:
        runtime.set_default_threads(None)


def test_interleaved_times_are_fair(monkeypatch) -> None:
    now = [0]
    monkeypatch.setattr("time.perf_counter_ns", lambda: now[0])
    monkeypatch.setattr("time.perf_counter", lambda: now[0] / 1e9)
    calls: list[str] = []

    def work(name: str, ms: float):  # a machine that gets slower and slower
        def call() -> None:
            calls.append(name)
            now[0] += int(ms * 1e6 * (1 + len(calls) / 100))

        return call

    first, second = runtime.time_interleaved(
        [work("a", 2.0), work("b", 3.0)], min_seconds=0.2, max_seconds=1.0
    )

    assert first.ratio == 1.0
    assert second.ratio == pytest.approx(1.5, rel=0.02)
    assert first.runs == second.runs == len(calls) // 2 - 1  # one call each is warm-up
    assert calls[:6] == ["a", "b", "a", "b", "b", "a"]  # the order changes
    assert first.p10 <= first.median_ms <= first.p90
    assert second.median_ms > 3.0
    assert runtime.time_interleaved([]) == []


def test_timing_ends(monkeypatch, rng) -> None:
    now = [0]
    monkeypatch.setattr("time.perf_counter_ns", lambda: now[0])
    monkeypatch.setattr("time.perf_counter", lambda: now[0] / 1e9)

    def noisy() -> None:
        now[0] += int(1e6 * rng.uniform(1, 100))

    (timing, _) = runtime.time_interleaved([noisy, noisy], min_seconds=0.1, max_seconds=2.0)
    assert now[0] / 1e9 >= 2.0
    assert timing.runs >= 10

    def forever() -> None:
        now[0] += int(60e9)

    (timing,) = runtime.time_interleaved([forever], max_seconds=1.0)
    assert timing.runs == 1


def test_the_environment_is_text_that_fits_the_installation() -> None:
    found = runtime.environment()
    assert found["onnxruntime"].startswith(".".join(map(str, runtime.version()[:2])))
    assert int(found["cores"]) >= 1
    assert {"python", "onnx", "onnx-ir", "numpy", "cpu", "system"} <= set(found)
    assert all(found.values())


def test_the_public_session_is_onnxruntimes(tmp_path) -> None:
    (tmp_path / "m.onnx").write_bytes(ir.to_proto(parse(RELU)).SerializeToString())
    session = rx.InferenceSession(tmp_path / "m.onnx")
    x = np.array([[-1, 0, 2]], np.float32)
    np.testing.assert_array_equal(session.run(None, {"x": x})[0], [[0, 0, 2]])
    assert [argument.name for argument in session.get_inputs()] == ["x"]
    with pytest.raises(InputError, match="device 'tpu'; expected auto, cpu, opencl or opencl:P:D"):
        rx.InferenceSession(tmp_path / "m.onnx", device="tpu")


def test_the_processor_is_a_device() -> None:
    first = rx.devices()[0]
    assert first.kind == "cpu"
    assert first.units >= 1
