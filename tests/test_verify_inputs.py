"""Generated inputs: legal, seeded, typical; found by looking at the graph and by trying."""

from __future__ import annotations

import itertools

import numpy as np
import onnx.parser
import onnx_ir as ir
import pytest

from onnxslim_rx.errors import InputError
from onnxslim_rx.ir import load
from onnxslim_rx.runtime import Runner, TensorSpec, check_state, guess_state
from onnxslim_rx.verify import compare_runs, generate_inputs

REAL = [
    "cifar10_resnet_1m", "cifar10_resnet_4b", "magika_fast_v2_1", "minilm", "mobilenetv2-12-qdq",
    "mobilenetv2_fp32", "silero_vad_16k_op15", "sklearn_randomforest", "super_resolution",
    "ultraface_RFB_320", "vit_ibp_3_3_8",
]  # fmt: skip


def parse(text: str, opset: str = '"" : 17') -> ir.Model:
    return load(onnx.parser.parse_model(f"<ir_version: 8, opset_import: [{opset}]> g {text}"))


def stacked(data, name):
    return np.concatenate([sample[name].ravel() for sample in data])


@pytest.mark.parametrize("name", REAL)
def test_real_models_run_on_what_is_generated(name, assets) -> None:
    path = assets / "models" / f"{name}.onnx"
    runner = Runner(path, threads=1)
    data = generate_inputs(path, samples=2, runner=runner)
    assert len(data) == 2
    for sample in data:
        assert set(sample) == set(runner.inputs)
        assert all(array.dtype == runner.inputs[key].dtype for key, array in sample.items())
    assert compare_runs(runner, runner, data).passed(min_cosine=1.0)


def test_what_is_generated_for_a_sentence_encoder(assets) -> None:
    data = generate_inputs(assets / "models" / "minilm.onnx", samples=6)
    tokens = stacked(data, "input_ids")
    assert tokens.min() >= 0
    assert 20_000 < tokens.max() < 30_522  # the vocabulary
    lengths = {sample["input_ids"].shape for sample in data}
    assert len(lengths) > 1
    assert all(8 <= steps <= 64 for _, steps in lengths)
    for sample in data:
        assert sample["attention_mask"].shape == sample["input_ids"].shape
    assert set(stacked(data, "attention_mask")) == {1}
    assert set(stacked(data, "token_type_ids")) == {0}


def test_state_is_carried_from_sample_to_sample(assets) -> None:
    path = assets / "models" / "silero_vad_16k_op15.onnx"
    runner = Runner(path, threads=1)
    data = generate_inputs(path, samples=9, runner=runner)
    assert not data[0]["state"].any()
    for before, after in itertools.pairwise(data[:8]):
        np.testing.assert_array_equal(after["state"], runner(before)["stateN"])
    assert not data[8]["state"].any()  # starts afresh
    assert {int(sample["sr"]) for sample in data} == {16000}


def test_the_same_seed_gives_the_same_inputs() -> None:
    model = parse("(float[n, 3, h, w] x, int64[n, t] i) => (float[n, 3, h, w] y, int64[n, t] j)"
                  "{ y = Relu(x) j = Identity(i) }")  # fmt: skip
    first, again, other = (generate_inputs(model, samples=3, seed=seed) for seed in (5, 5, 6))
    for a, b in zip(first, again, strict=True):
        assert all(np.array_equal(a[name], b[name]) for name in a)
    assert not all(np.array_equal(a[n], b[n]) for a, b in zip(first, other, strict=True) for n in a)
    longer = generate_inputs(model, samples=5, seed=5)  # more samples do not change the first
    assert all(np.array_equal(a[n], b[n]) for a, b in zip(first, longer, strict=False) for n in a)


@pytest.mark.parametrize(
    ("body", "low", "high"),
    [
        ("y = Gather(table, i)", 0, 9),
        ("k = Cast<to = 6>(i) r = Reshape(k, flat) y = Gather(table, r)", 0, 9),
        ("k = Add(i, two) y = Gather(table, k)", 0, 7),  # positions after the padding's
        ("k = Sub(i, two) y = Gather(table, k)", 2, 11),
        ("t = Transpose<perm = [1, 0]>(table) y = Gather<axis = 1>(t, i)", 0, 9),
        ("t = Cast<to = 10>(table) y = Gather(t, i)", 0, 9),
        ("y = Gather(table, i) z = Gather(small, i)", 0, 4),
        ("y = OneHot<axis = -1>(i, depth, values)", 0, 6),
        ("u = Unsqueeze(i, last) y = GatherND(table, u)", 0, 9),
        ("u = Unsqueeze(i, last) e = Equal(u, codes) y = Cast<to = 1>(e)", 0, 3),
        (
            "k = If(on) <then_branch = a () => (int64[n, t] p) { p = Add(i, two) },"
            " else_branch = b () => (int64[n, t] q) { q = Identity(i) }> y = Gather(table, k)",
            0,
            7,
        ),
    ],
)
def test_indexes_stay_inside_their_tables(body, low, high) -> None:
    model = parse(
        "(int64[n, t] i) => (float[a, b, c] y) <"
        f"float[10, 2] table = {{{', '.join(['1'] * 20)}}}, "
        "float[5, 1] small = {1, 1, 1, 1, 1}, int64 two = {2}, int64[1] flat = {-1}, "
        "int64[1] last = {-1}, bool on = {1}, int64[4] codes = {0, 1, 2, 3}, int64 depth = {7},"
        " float[2] values = {0, 1}> "
        f"{{ {body} }}"
    )
    model.graph.outputs[0].type = model.graph.outputs[0].shape = None
    found = stacked(generate_inputs(model, samples=8), "i")
    assert found.min() == low
    assert found.max() == high


def test_indexes_into_another_input_follow_its_size() -> None:
    model = parse("(float[n, t] x, int64[n, k] i) => (float[n, k] y)"
                  "{ y = GatherElements<axis = 1>(x, i) }")  # fmt: skip
    for sample in generate_inputs(model, samples=6):
        assert sample["i"].max() < sample["x"].shape[1]


def test_a_function_is_followed_into() -> None:
    model = parse(
        "(int64[n] i) => (float[n, 1] y) <float[3, 1] table = {1, 2, 3}>"
        '{ y = my.look(table, i) } <opset_import: ["" : 17], domain: "my">'
        " look (t, k) => (r) { r = Gather(t, k) }",
        opset='"" : 17, "my" : 1',
    )
    assert set(stacked(generate_inputs(model, samples=40), "i")) == {0, 1, 2}


def test_a_switch_takes_a_value_that_the_graph_knows() -> None:
    model = parse(
        "(float[1, 64] x, int64 sr) => (float[1, n] y) <int64 rate = {16000}, int64[2] s = {1, -1}>"
        "{ fast = Equal(sr, rate) y = If(fast) <then_branch = a () => (float[1, n] p)"
        "{ p = Relu(x) }, else_branch = b () => (float[1, n] q) { q = Reshape(x, s) }> }"
    )
    assert {int(sample["sr"]) for sample in generate_inputs(model)} == {16000}


def test_a_growing_cache() -> None:
    model = parse(
        "(int64[batch, sequence] input_ids, int64[batch, total_sequence_length] attention_mask,"
        " int64[batch, sequence] position_ids,"
        " float[batch, 2, past_sequence_length, 4] past_key_values_0_key)"
        " => (float[batch, 2, m, t] logits, float[batch, 2, t, 4] present_0_key)"
        "<float[50, 8] table = {" + ", ".join(map(str, range(400))) + "},"
        " float[64, 8] places = {" + ", ".join(["1"] * 512) + "},"
        " int64[4] split = {0, 0, 2, 4}, int64[2] dims = {1, 2}>"
        "{ e = Gather(table, input_ids) p = Gather(places, position_ids) x = Add(e, p)"
        " r = Reshape(x, split) new = Transpose<perm = [0, 2, 1, 3]>(r)"
        " present_0_key = Concat<axis = 2>(past_key_values_0_key, new)"
        " k = Transpose<perm = [0, 1, 3, 2]>(present_0_key) s = MatMul(new, k)"
        " f = Cast<to = 1>(attention_mask) u = Unsqueeze(f, dims) logits = Mul(s, u) }"
    )
    runner = Runner(model, threads=1)
    data = generate_inputs(model, samples=4, runner=runner)
    first = data[0]["input_ids"].shape[1]
    assert first > 1
    for step, sample in enumerate(data):
        past = sample["past_key_values_0_key"].shape[2]
        assert past == (first + step - 1 if step else 0)
        assert sample["attention_mask"].shape == (1, first + step)
        assert sample["position_ids"].ravel().tolist() == list(
            range(past, past + sample["input_ids"].shape[1])
        )
    np.testing.assert_array_equal(
        data[1]["past_key_values_0_key"], runner(data[0])["present_0_key"]
    )


def test_images_are_smooth_and_normalised() -> None:
    model = parse("(float[n, 3, 64, 64] x) => (float[n, 3, 64, 64] y) { y = Relu(x) }")
    (image,) = (sample["x"][0] for sample in generate_inputs(model, samples=1))
    assert image.mean() == pytest.approx(0, abs=0.01)
    assert image.std() == pytest.approx(1, abs=0.01)
    neighbours = np.corrcoef(image[:, :, 1:].ravel(), image[:, :, :-1].ravel())[0, 1]
    assert neighbours > 0.6  # white noise has 0


def test_sound_is_found_in_length_and_loudness() -> None:
    model = parse(
        "(float[batch, 1, samples] x) => (float[batch, 1] y) <float[1, 1, 256] w = {"
        + ", ".join(["0.01"] * 256)
        + "}, int64[2] s = {0, 1}>"  # one step of convolution is left only for some lengths
        "{ c = Conv<strides = [128]>(x, w) y = Reshape(c, s) }"
    )
    for sample in generate_inputs(model, samples=3):
        assert 256 <= sample["x"].shape[2] < 384
        assert sample["x"].std() == pytest.approx(0.1)


@pytest.mark.parametrize("dtype", ["uint8", "float"])
@pytest.mark.parametrize("shape", ["n, h, w, 3", "n, 3"])
def test_values_suit_the_models_own_normalisation(dtype, shape) -> None:
    model = parse(
        f"({dtype}[{shape}] x) => (float[{shape}] y)"
        "<float[3] mean = {120, 125, 130}, float[3] scale = {60, 60, 60}>"
        "{ f = Cast<to = 1>(x) c = Sub(f, mean) y = Div(c, scale) }"
    )
    data = generate_inputs(model, samples=20)
    seen = np.concatenate([Runner(model)(sample)["y"].ravel() for sample in data])
    assert seen.mean() == pytest.approx(0, abs=0.5)
    assert 0.5 < seen.std() < 1.3


def test_sizes_that_the_graph_needs_are_found() -> None:
    branchy = parse(  # two paths agree only where the height and width are even
        "(float[n, 3, h, w] x) => (float[n, 3, p, q] y) <float[4] up = {1, 1, 2, 2}>"
        "{ d = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(x)"
        " u = Resize<mode = \"nearest\">(d, , up) y = Add(x, u) }"
    )  # fmt: skip
    shape = generate_inputs(branchy, samples=1)[0]["x"].shape
    assert shape[2] % 2 == shape[3] % 2 == 0

    heads = parse("(float[n, t] x) => (float[a, b, c] y) <int64[3] s = {-1, 25, 4}>"
                  "{ y = Reshape(x, s) }")  # fmt: skip
    assert generate_inputs(heads, samples=1)[0]["x"].size % 100 == 0

    dense = parse(
        "(float[?, ?] x) => (float[n, 1] y) <float[37, 1] w = {" + ", ".join(["1"] * 37) + "}>"
        "{ a = Relu(x) b = Mul(x, x) y = MatMul(b, w) }"
    )
    assert generate_inputs(dense, samples=1)[0]["x"].shape == (1, 37)


def test_lengths_positions_flags_and_text() -> None:
    weights = ", ".join(["0.1"] * 12)
    model = parse(
        "(float[t, batch, 3] x, int32[batch] n) => (float[t, 1, batch, 1] y)"
        f"<float[1, 4, 3] w = {{{weights}}}, float[1, 4, 1] r = {{1, 1, 1, 1}}>"
        "{ y = LSTM<hidden_size = 1>(x, w, r, , n) }"
    )
    for sample in generate_inputs(model, samples=4):
        assert sample["n"].tolist() == [sample["x"].shape[0]]

    model = parse(
        "(bool[8] flag, string[2, t] text, float threshold)"
        " => (bool[8] a, string[2, t] b, float c)"
        "{ a = Not(flag) b = Identity(text) c = Identity(threshold) }"
    )
    data = generate_inputs(model, samples=4)
    assert set(stacked(data, "flag")) == {True, False}
    assert all(isinstance(word, str) and word for word in stacked(data, "text"))
    assert float(data[0]["threshold"]) == 0.5


def test_values_outside_a_functions_domain_are_avoided() -> None:
    model = parse("(float[n, 8] x) => (float[n, 8] y) { y = Log(x) }")
    data = generate_inputs(model, samples=4)
    assert np.isfinite(Runner(model)(data[0])["y"]).all()


def test_a_batch_of_none_is_legal() -> None:
    model = parse("(float[0, 4] x) => (float[0, 4] y) { y = Relu(x) }")
    data = generate_inputs(model, samples=2)
    assert data[0]["x"].shape == (0, 4)
    assert compare_runs(Runner(model), Runner(model), data).passed(min_cosine=1.0)


def test_a_model_without_inputs() -> None:
    model = parse("() => (float[2] y) { y = Constant<value_floats = [1.0, 2.0]>() }")
    assert generate_inputs(model, samples=2) == [{}, {}]


def test_what_cannot_be_generated_is_refused_by_name() -> None:
    impossible = parse(
        "(float[n, t] left, float[n] right) => (float[n, m] y) <int64[2] s = {-1, 9973}>"
        "{ a = Reshape(left, s) y = Add(a, right) }"
    )
    with pytest.raises(InputError, match=r"'left'.*Reshape.*give samples of your own") as caught:
        generate_inputs(impossible)
    assert "\n" not in str(caught.value)

    sequence = parse("(seq(float[n]) x) => (float[m] y) { y = ConcatFromSequence<axis = 0>(x) }")
    with pytest.raises(InputError, match=r"input 'x' \(seq\(tensor\(float\)\)\)"):
        generate_inputs(sequence)


def specs(*names: str, shape: tuple[int | str | None, ...] = ("b", 4)) -> dict[str, TensorSpec]:
    return {n: TensorSpec(n, np.dtype("f4"), shape, "tensor(float)") for n in names}


@pytest.mark.parametrize(
    ("inputs", "outputs", "wanted"),
    [
        ("x state", "y stateN", "state:stateN"),
        ("x h c", "y hn cn", "h:hn c:cn"),
        ("x h0 c0", "y hn cn", "h0:hn c0:cn"),
        ("x h_0", "y h_n", "h_0:h_n"),
        ("src r1i r2i", "fgr r1o r2o", "r1i:r1o r2i:r2o"),
        ("x cache_in", "y cache_out", "cache_in:cache_out"),
        ("x cache_0 mem", "y mem_out new_cache_0", "cache_0:new_cache_0 mem:mem_out"),
        ("input_ids past", "logits present", "past:present"),
        (
            "input_ids past_key_values.0.key past_key_values.10.key",
            "logits present.10.key present.0.key",
            "past_key_values.0.key:present.0.key past_key_values.10.key:present.10.key",
        ),
        ("input", "output", ""),  # an autoencoder keeps no state
        ("image_in sigma", "image_out", ""),
        ("state", "state_out", ""),  # nothing would be left to drive the model
        ("x hidden_state", "last_hidden_state y", ""),
    ],
)  # fmt: skip
def test_state_is_told_by_names(inputs, outputs, wanted) -> None:
    expected = dict(pair.split(":") for pair in wanted.split())
    assert guess_state(specs(*inputs.split()), specs(*outputs.split())) == expected


def test_state_must_fit() -> None:
    inputs, outputs = specs("x", "h"), specs("y", "hn", shape=("b", 5))
    assert guess_state(inputs, outputs) == {}
    with pytest.raises(InputError, match="output 'hn' is float32\\[b, 5\\]"):
        check_state({"h": "hn"}, inputs, outputs)
    with pytest.raises(InputError, match="no input 'z'"):
        check_state({"z": "hn"}, inputs, outputs)
    with pytest.raises(InputError, match="no output 'z'"):
        check_state({"h": "z"}, inputs, outputs)


def test_state_can_be_given() -> None:
    model = parse("(float[1, 3] x, float[1, 3] before) => (float[1, 3] y) { y = Sub(x, before) }")
    assert all(sample["before"].any() for sample in generate_inputs(model, samples=3))
    data = generate_inputs(model, samples=3, state={"before": "y"})
    assert not data[0]["before"].any()
    np.testing.assert_array_equal(data[1]["before"], data[0]["x"])
    np.testing.assert_array_equal(data[2]["before"], data[1]["x"] - data[0]["x"])
