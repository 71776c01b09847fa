"""Models with state against a loop of numpy in float64."""

from __future__ import annotations

import tempfile
from typing import Any

import numpy as np
import pytest

from onnxslim_rx import calibration
from onnxslim_rx.calibration import Stateful, load_data, split
from onnxslim_rx.calibration.states import StateStore
from onnxslim_rx.errors import InputError
from onnxslim_rx.passbase import Layer
from onnxslim_rx.runtime import Runner

RNN = "a = MatMul(x, wx) b = MatMul(h0, wh) c = Add(a, b) hn = Tanh(c) y = MatMul(hn, wy)"
CACHED = """
    e = Gather(table, input_ids)
    k = MatMul(e, wk)
    present = Concat<axis=1>(past, k)
    scores = Einsum<equation="bsk,btk->bst">(k, present)
    bias = Cast<to=1>(attention_mask)
    axes = Constant<value = int64[1] {1}>()
    row = Unsqueeze(bias, axes)
    masked = Mul(scores, row)
    p = Softmax(masked)
    o = Einsum<equation="bst,btk->bsk">(p, present)
    pos = Gather(places, position_ids)
    z = Add(o, pos)
    logits = MatMul(z, wy)
"""


@pytest.fixture
def rnn(rng, model_of, noise):
    return model_of(
        "float[batch,6] x, float[batch,4] h0 => float[batch,5] y, float[batch,4] hn",
        RNN,
        wx=noise(rng, 6, 4),
        wh=noise(rng, 4, 4),
        wy=noise(rng, 4, 5),
    )


@pytest.fixture
def decoder(rng, model_of, noise):
    return model_of(
        "int64[b,s] input_ids, int64[b,total] attention_mask, int64[b,s] position_ids,"
        " float[b,p,6] past => float[b,s,9] logits, float[b,q,6] present",
        CACHED,
        table=noise(rng, 9, 8),
        wk=noise(rng, 8, 6),
        places=noise(rng, 40, 6),
        wy=noise(rng, 6, 9),
    )


def linear(model, *names):
    made = {node.outputs[0].name: node for node in model.graph}
    return [Layer(name, "MatMul", "linear", made[name], 1, 0) for name in names]


def weight(model, name):
    return model.graph.initializers[name].const_value.numpy().astype(np.float64)


def unrolled(model, data):
    runner = Runner(model)
    return load_data(data, runner.inputs, runner)


def rnn_states(model, sequence, start=0.0):
    """The state before each step, (steps, batch, 4)."""
    state = np.zeros((sequence.shape[1], 4)) + start
    states = []
    for x in sequence.astype(np.float64):
        states.append(state)
        state = np.tanh(x @ weight(model, "wx") + state @ weight(model, "wh"))
    return np.stack(states)


@pytest.mark.parametrize("memory_bytes", [1, 1 << 30])
def test_statistics_are_of_all_steps(rng, memory_bytes, rnn, collect):
    sequences = [rng.standard_normal((n, b, 6)).astype(np.float32) for n, b in ((7, 2), (1, 3))]
    data = unrolled(rnn, Stateful([{"x": one} for one in sequences]))
    assert len(data) == 8
    assert list(data.groups) == [0] * 7 + [1]
    found = collect(rnn, linear(rnn, "a", "b", "y"), data, memory_bytes=memory_bytes)
    rows = [rnn_states(rnn, one).reshape(-1, 4) for one in sequences]
    before = np.concatenate(rows)
    x = np.concatenate([one.reshape(-1, 6) for one in sequences]).astype(np.float64)
    after = np.tanh(x @ weight(rnn, "wx") + before @ weight(rnn, "wh"))
    assert before.any()
    for name, expected in (("a", x), ("b", before), ("y", after)):
        assert found[name].rows == 17
        np.testing.assert_allclose(found[name].gram, expected.T @ expected, rtol=1e-5, atol=1e-5)


def test_every_form_gives_the_same_steps(rng, tmp_path, rnn):
    stack = rng.standard_normal((3, 5, 2, 6)).astype(np.float32)  # sequences, steps, batch
    labels = np.arange(15).reshape(3, 5)
    for number, sequence in enumerate(stack):
        inner = tmp_path / "folders" / f"s{number}"
        inner.mkdir(parents=True)
        for step, x in enumerate(sequence):
            np.savez(inner / f"{step}.npz", x=x, label=labels[number, step])
        (tmp_path / "files").mkdir(exist_ok=True)
        np.savez(tmp_path / "files" / f"s{number}.npz", x=sequence, label=labels[number])
    np.savez(tmp_path / "all.npz", x=stack, label=labels)
    np.save(tmp_path / "all.npy", stack)
    steps = [
        [{"x": x, "label": label} for x, label in zip(*pair, strict=True)]
        for pair in zip(stack, labels, strict=True)
    ]
    forms = [
        Stateful(steps),
        Stateful(iter(map(iter, steps)), state={"h0": "hn"}),
        Stateful({"x": stack, "label": labels}),
        {"x": stack, "label": labels},
        Stateful([{"x": x, "label": label} for x, label in zip(stack, labels, strict=True)]),
        tmp_path / "folders",
        str(tmp_path / "files"),
        Stateful(tmp_path / "files"),
        tmp_path / "all.npz",
        calibration.from_npz(tmp_path / "all.npz"),
        calibration.from_dir(tmp_path / "folders"),
        tmp_path / "all.npy",
    ]
    states = np.stack([rnn_states(rnn, sequence) for sequence in stack]).reshape(15, 2, 4)
    for form in forms:
        data = unrolled(rnn, form)
        assert list(data.groups) == [n for n in range(3) for _ in range(5)]
        for number in (14, 3, 4, 0, 9, *range(15)):  # in any order
            sample = data[number]
            np.testing.assert_array_equal(sample["x"], stack.reshape(15, 2, 6)[number])
            np.testing.assert_allclose(sample["h0"], states[number], atol=1e-6)
            if "label" in sample:
                assert np.ravel(sample["label"]).tolist() == [labels.ravel()[number]]
    one = unrolled(rnn, {"x": stack[1]})
    assert list(one.groups) == [0] * 5


def test_a_state_that_is_given_is_taken(rng, rnn):
    sequence = rng.standard_normal((4, 1, 6)).astype(np.float32)
    start = rng.standard_normal((1, 4)).astype(np.float32)
    expected = rnn_states(rnn, sequence, start)
    steps = [{"x": x} for x in sequence]
    for form in (
        {"x": sequence, "h0": start},
        [{**steps[0], "h0": start}, *steps[1:]],
    ):
        data = unrolled(rnn, Stateful([form]))
        np.testing.assert_allclose(data[3]["h0"], expected[3], atol=1e-6)
    again = [*steps[:2], {**steps[2], "h0": start}, steps[3]]
    np.testing.assert_array_equal(unrolled(rnn, Stateful([again]))[2]["h0"], start)
    # plain samples that give the state stay plain samples
    plain = unrolled(rnn, {"x": sequence, "h0": np.stack([start] * 4)})
    assert plain.groups is None
    np.testing.assert_array_equal(plain[3]["h0"], start)


@pytest.mark.parametrize("memory_bytes", [1, 1 << 30])
def test_a_cache_of_keys_grows(rng, memory_bytes, decoder, collect):
    prompts = [rng.integers(0, 9, (2, 5)), rng.integers(0, 9, (1, 3))]
    sequences = [
        [
            {"input_ids": prompt},
            *({"input_ids": rng.integers(0, 9, (len(prompt), 1))} for _ in "abc"),
        ]
        for prompt in prompts
    ]
    data = unrolled(decoder, Stateful(sequences))
    assert [sample["past"].shape for sample in data] == [
        (2, 0, 6), (2, 5, 6), (2, 6, 6), (2, 7, 6), (1, 0, 6), (1, 3, 6), (1, 4, 6), (1, 5, 6),
    ]  # fmt: skip
    assert data[2]["attention_mask"].tolist() == [[1] * 7] * 2
    assert data[2]["position_ids"].tolist() == [[6]] * 2
    found = collect(decoder, linear(decoder, "k", "logits"), data, memory_bytes=memory_bytes)
    # step by step is the same as at once, for keys
    ids = [np.concatenate([s["input_ids"] for s in steps], axis=1) for steps in sequences]
    rows = np.concatenate([weight(decoder, "table")[one].reshape(-1, 8) for one in ids])
    np.testing.assert_allclose(found["k"].gram, rows.T @ rows, rtol=1e-5, atol=1e-5)
    keys = weight(decoder, "table")[ids[0]] @ weight(decoder, "wk")
    np.testing.assert_allclose(data[3]["past"], keys[:, :7], atol=1e-6)
    assert found["logits"].rows == 2 * 8 + 6


def test_what_grows_is_stored_once(rng):
    store = StateStore()
    keys = rng.standard_normal((2, 300, 8)).astype(np.float32)
    other = rng.standard_normal((300, 4)).astype(np.float16)
    for step in range(1, 300):
        store.append({"k": keys[:, :step], "h": other[step : step + 1]}, first=step == 1)
    size = store._file.seek(0, 2)
    assert size < 1.1 * (keys.nbytes + other.nbytes)
    for step in (298, 0, 17, 18, 19, 5, 150):
        found = store.read(step)
        np.testing.assert_array_equal(found["k"], keys[:, : step + 1])
        np.testing.assert_array_equal(found["h"], other[step + 1 : step + 2])


@pytest.mark.parametrize(
    "change", ["number", "sign", "type", "two axes", "shorter", "new sequence"]
)
def test_what_does_not_only_grow_is_stored_in_whole(rng, change):
    first = rng.standard_normal((2, 3, 4)).astype(np.float32)
    first[0, 0, 0] = 0.0
    second = np.concatenate([first, first[:, :2]], axis=1)
    if change == "number":
        second[1, 2, 3] += 1
    elif change == "sign":
        second[0, 0, 0] = -0.0
    elif change == "type":
        second = second.astype(np.float64)
    elif change == "two axes":
        second = np.concatenate([second, second], axis=2)
    elif change == "shorter":
        second = first[:, :1]
    store = StateStore()
    store.append({"k": first}, first=True)
    store.append({"k": second}, first=change == "new sequence")
    assert store._steps[1]["k"].axis is None
    for step, expected in ((1, second), (0, first), (1, second)):
        found = store.read(step)["k"]
        assert found.dtype == expected.dtype
        assert found.tobytes() == expected.tobytes()


def test_sequences_are_not_torn_apart(rng, rnn):
    lengths = [3, 1, 4, 2, 5, 9]
    data = unrolled(rnn, Stateful([{"x": rng.standard_normal((n, 1, 6))} for n in lengths]))
    parts = split(data, seed=2)
    assert not parts.weak
    three: Any = (parts.calibrate, parts.select, parts.confirm)
    owners = [set(part.groups) for part in three]
    assert sorted(n for one in owners for n in one) == list(range(6))
    assert [len(one) for one in owners] == [4, 1, 1]
    sizes = [len(part) for part in three]
    assert sizes == [sum(lengths[n] for n in one) for one in owners]
    few = split(unrolled(rnn, Stateful([{"x": rng.standard_normal((20, 1, 6))}] * 3)), seed=2)
    assert few.weak
    assert "with 3 calibration sequences nothing can be held back" in few.reason


def test_refusals(rng, tmp_path, rnn, model_of, noise):
    x = rng.standard_normal((3, 1, 6)).astype(np.float32)
    plain = model_of("float[N,6] x => float[N,5] y", "y = MatMul(x, w)", w=noise(rng, 6, 5))
    for model, data, message in (
        (plain, Stateful([{"x": x}]), "no output of the model is recognised as the next state"),
        (rnn, Stateful([{"x": x}], {"h0": "y"}), r"output 'y' is float32\[batch, 5\]"),
        (rnn, Stateful([{"x": x}], {"h": "hn"}), "no input 'h'"),
        (rnn, Stateful([7]), "calibration sequence 0 is a int"),
        (rnn, Stateful([[x]]), "step 0 of calibration sequence 0 is a ndarray"),
        (rnn, Stateful([[{"x": x[0]}, {"z": x[1]}]]), "step 1 of .* no array for 'x'"),
        (rnn, Stateful([[{"x": x[0]}, {"x": x[1, :, :5]}]]), r"step 1 of .* has shape \[1, 5\]"),
        (rnn, Stateful([[{"x": x[0]}, {"x": x[[1, 1]]}]]), "step 1 of"),
        (rnn, Stateful([]), "the calibration data is empty"),
        (rnn, Stateful(tmp_path / "nowhere"), "there is no calibration file or folder"),
    ):
        with pytest.raises(InputError, match=message):
            unrolled(model, data)
    with pytest.raises(InputError, match="without the model"):
        load_data(Stateful([{"x": x}]), Runner(rnn).inputs)


def test_the_file_goes_with_the_samples(rng, rnn, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    data = unrolled(rnn, Stateful([{"x": rng.standard_normal((3, 1, 6))}]))
    assert data[2]["h0"].any()
    del data
    assert not list(tmp_path.iterdir())


def test_a_voice_detector(assets, rng, collect):
    """`state` and `stateN`; every layer lies in a branch of an If."""
    runner = Runner(assets / "models" / "silero_vad_16k_op15.onnx")
    x = rng.standard_normal((6, 1, 576)).astype(np.float32)
    data = load_data({"input": x, "sr": np.array(16000)}, runner.inputs, runner)
    state = np.zeros((2, 1, 128), np.float32)
    for step in range(6):
        np.testing.assert_array_equal(data[step]["state"], state)
        state = runner({"input": x[step], "state": state, "sr": np.array(16000)})["stateN"]
