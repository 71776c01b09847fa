"""The numbers of a comparison, against definitions written out anew."""

from __future__ import annotations

import json
import math

import ml_dtypes
import numpy as np
import onnx.parser
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnxslim_rx.errors import InputError
from onnxslim_rx.ir import load
from onnxslim_rx.runtime import Runner
from onnxslim_rx.verify import Comparison, compare_runs

FINITE = st.floats(-1e6, 1e6, width=64)
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)


def compare(references, candidates, samples=None, **options) -> Comparison:
    """Compare lists of outputs; the samples carry nothing but their number."""
    data = [{**(samples[i] if samples else {}), "i": np.array(i)} for i in range(len(references))]
    return compare_runs(
        lambda sample: references[int(sample["i"])],
        lambda sample: candidates[int(sample["i"])],
        data,
        **options,
    )


def single(reference, candidate, **options) -> Comparison:
    return compare([{"y": reference}], [{"y": candidate}], **options)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_float_outputs_follow_the_definitions(data) -> None:
    shape = data.draw(SHAPES)
    r, c = (data.draw(hnp.arrays(np.float64, shape, elements=FINITE)) for _ in range(2))
    found = single(r, c).outputs[0]
    x, y = r.ravel().tolist(), c.ravel().tolist()
    exact = [
        math.fsum(a * b for a, b in zip(u, v, strict=True)) for u, v in ((x, y), (x, x), (y, y))
    ]
    if x == y:
        assert found.cosine_mean == 1.0
    elif exact[1] > 1e-200 and exact[2] > 1e-200:
        # sums of at most 625 products in float64, relative to |x| |y|: 625 * 2^-53 each
        wanted = exact[0] / math.sqrt(exact[1]) / math.sqrt(exact[2])
        assert found.cosine_mean == pytest.approx(wanted, abs=1e-12)
    noise = math.fsum((a - b) ** 2 for a, b in zip(x, y, strict=True))
    assert found.max_abs == max((abs(a - b) for a, b in zip(x, y, strict=True)), default=0.0)
    if noise > 1e-200 and exact[1] > 1e-200:
        assert found.snr_db == pytest.approx(10 * math.log10(exact[1] / noise), abs=1e-9)
        assert found.max_rel == pytest.approx(found.max_abs / max(map(abs, x)))
    assert -1.0 <= found.cosine_min <= 1.0


@settings(max_examples=100, deadline=None)
@given(st.data(), st.sampled_from([np.float32, np.float16, ml_dtypes.bfloat16]))
def test_equal_outputs_are_perfect_whatever_they_hold(data, dtype) -> None:
    values = data.draw(hnp.arrays(np.float32, data.draw(SHAPES)))  # with NaN and infinities
    with np.errstate(over="ignore"):
        array = values.astype(dtype)
    found = single(array, array.copy())
    assert found.cosine("min") == 1.0
    assert found.snr_db == math.inf
    assert (found.max_abs, found.max_rel, found.failures) == (0.0, 0.0, ())
    assert found.passed(min_cosine=1.0, min_snr_db=200.0)


@given(st.floats(1e-30, 1e30), st.floats(1e-300, 1e300))
@settings(max_examples=60, deadline=None)
def test_cosine_does_not_depend_on_scale(scale, other) -> None:
    a, b = np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 2.0])
    found = single(a * scale, b * other).cosine()
    assert found == pytest.approx(11 / math.sqrt(14 * 9), abs=1e-12)


def test_statistics_over_samples() -> None:
    angles = np.linspace(0.0, 1.0, 21)
    references = [{"y": np.array([1.0, 0.0])}] * 21
    candidates = [{"y": np.array([math.cos(a), math.sin(a)])} for a in angles]
    found = compare(references, candidates)
    wanted = np.cos(angles)
    np.testing.assert_allclose(found.per_sample, wanted, atol=1e-12)
    assert found.cosine() == pytest.approx(wanted.mean())
    assert found.cosine("min") == pytest.approx(math.cos(1.0))
    assert found.cosine("p5") == pytest.approx(np.sort(wanted)[1])  # one of 21 is below
    # noise of sample i: |e - r|^2 = 2 - 2 cos; signal 1 each: pooled, not averaged
    assert found.snr_db == pytest.approx(10 * math.log10(21 / (2 - 2 * wanted).sum()))


def test_the_worst_output_counts_unless_some_are_named() -> None:
    good, bad = np.array([1.0, 0.0]), np.array([1.0, 1.0])
    found = compare(
        [{"a": good, "b": good, "n": np.array([1, 2])}],
        [{"a": good, "b": bad, "n": np.array([1, 3])}],
    )
    assert found.worst().name == "b"
    assert found.cosine() == pytest.approx(math.sqrt(0.5))
    assert found.cosine(outputs=["a"]) == 1.0
    assert found.cosine(outputs=["n"]) == 0.5  # agreement
    assert found.snr(["a"]) == math.inf
    assert found.passed(min_cosine=0.99, outputs=["a"])
    assert not found.passed(min_cosine=0.99)
    assert not found.passed(min_snr_db=20.0)
    with pytest.raises(InputError, match="no output 'c'; expected one of a, b, n"):
        found.cosine(outputs=["c"])
    with pytest.raises(InputError, match="no output 'c'"):
        single(good, good, outputs=["c"])


def test_single_numbers_are_compared_over_all_samples() -> None:
    said, right = [0.9, 0.1, 0.5], [0.1, 0.9, 0.5]
    shaped = [[{"y": np.array([[v]], np.float32)} for v in values] for values in (right, said)]
    found = compare(*shaped)
    cosine = (0.09 + 0.09 + 0.25) / (0.81 + 0.01 + 0.25)  # each alone would be 1
    np.testing.assert_allclose(found.per_sample, [cosine] * 3, rtol=1e-6)
    assert not found.passed(min_cosine=0.99)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(FINITE, FINITE), min_size=2, max_size=6))
def test_single_numbers_are_one_vector(pairs) -> None:
    r, c = (np.array(column) for column in zip(*pairs, strict=True))
    together = compare([{"y": np.array([v])} for v in r], [{"y": np.array([v])} for v in c])
    wanted = single(r, c).cosine()
    # a mean of equal numbers and a sum in another order: rounding of float64
    assert together.cosine() == pytest.approx(wanted, abs=1e-14)
    assert together.cosine("min") == pytest.approx(wanted, abs=1e-14)


@pytest.mark.parametrize(
    ("reference", "candidate", "kind", "agreement"),
    [
        (np.array([1, 2, 3, 4]), np.array([1, 2, 3, 5]), "integer", 0.75),
        (np.array([True, False]), np.array([True, True]), "integer", 0.5),
        (np.array(["a", "b"], object), np.array(["a", "c"], object), "other", 0.5),
        (np.array([], np.int64), np.array([], np.int64), "integer", 1.0),
    ],
)
def test_other_outputs_are_compared_by_agreement(reference, candidate, kind, agreement) -> None:
    found = single(reference, candidate)
    assert found.outputs[0].kind == kind
    assert found.outputs[0].agreement == agreement
    assert found.cosine() == agreement  # nothing else is there to be compared
    assert found.snr_db == math.inf
    assert math.isnan(found.outputs[0].max_abs)


@pytest.mark.parametrize(
    ("candidate", "words"),
    [
        (np.ones((1, 3), np.float32), "shape [1, 3] instead of [3]"),
        (np.ones(3), "type float64 instead of float32"),
        (np.array([1, np.nan, 1], np.float32), "is NaN or infinite at other places"),
        (np.array([1, np.inf, 1], np.float32), "is NaN or infinite at other places"),
        (None, "is missing"),
    ],
)
def test_what_cannot_be_compared_fails_and_says_why(candidate, words) -> None:
    good = {"y": np.ones(3, np.float32)}
    other = {} if candidate is None else {"y": candidate}
    found = compare([good, good], [good, other])
    assert found.failures == (f"output 'y' of sample 1 {found.failures[0].partition('1 ')[2]}",)
    assert words in found.failures[0]
    assert found.per_sample.tolist() == [1.0, 0.0]
    assert found.snr_db == -math.inf
    assert not found.passed()
    json.dumps(found.to_dict(), allow_nan=False)


def test_nan_and_infinity_at_equal_places_are_left_out() -> None:
    r = np.array([np.nan, np.inf, -np.inf, 3.0, 4.0])
    c = np.array([np.nan, np.inf, -np.inf, 4.0, 3.0])
    found = single(r, c)
    assert found.cosine() == pytest.approx(24 / 25)
    assert found.max_abs == 1.0
    assert single(r, -c).failures  # the infinities changed their sign


def test_zero_outputs() -> None:
    zero, one = np.zeros(3), np.ones(3)
    assert single(zero, zero).cosine() == 1.0
    assert single(zero, one).cosine() == 0.0
    assert single(one, zero).cosine() == 0.0
    assert single(zero, one).snr_db == -math.inf
    assert single(one, zero).snr_db == 0.0


@given(st.integers(1, 3), st.integers(1, 6), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_padding_does_not_count(batch, steps, seed) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.integers(0, 2, (batch, steps))
    mask[0, 0] = 1
    r, c = (rng.standard_normal((batch, steps, 3)) for _ in range(2))
    spoilt = np.where(mask[..., None] == 1, c, 1e9)
    sample = {"attention_mask": mask}
    clean = compare([{"y": r}], [{"y": c}], [sample])
    masked = compare([{"y": r}], [{"y": spoilt}], [sample])
    kept = single(r[mask == 1], c[mask == 1])
    assert masked.to_dict() == clean.to_dict() == kept.to_dict()
    flat = compare([{"y": r.reshape(-1, 3)}], [{"y": spoilt.reshape(-1, 3)}], [sample])
    assert flat.to_dict() == clean.to_dict()


@pytest.mark.parametrize(
    ("name", "mask"),
    [
        ("mask", np.array([[1, 1, 0, 0, 0]])),  # of another length
        ("key_padding_mask", np.array([[1, 0, 0]])),  # may mean the opposite
        ("attention_mask", np.array([[1.0, -1e9, -1e9]])),  # is added to scores
        ("attention_mask", np.array([[0, 0, 0]])),  # leaves nothing
        ("input_ids", np.array([[1, 0, 0]])),
    ],
)
def test_not_every_mask_means_padding(name, mask) -> None:
    r, c = np.ones((1, 3, 2)), np.ones((1, 3, 2))
    c[0, 2] = -1
    assert compare([{"y": r}], [{"y": c}], [{name: mask}]).cosine() == pytest.approx(1 / 3)


def test_masks_that_differ_decide_nothing() -> None:
    r, c = np.ones((1, 3, 2)), np.ones((1, 3, 2))
    c[0, 2] = -1
    masks = {"a_mask": np.array([[1, 1, 0]]), "b_mask": np.array([[1, 0, 1]])}
    assert compare([{"y": r}], [{"y": c}], [masks]).cosine() == pytest.approx(1 / 3)


def test_sequences_and_maps_are_compared_part_by_part() -> None:
    rows = [{"cat": 0.1, "dog": 0.9}, {"cat": 0.8, "dog": 0.2}]
    other = [{"cat": 0.1, "dog": 0.9}, {"cat": 0.8, "dog": 0.4}]
    found = compare(
        [{"probability": rows, "parts": [np.ones(2), np.ones(3)], "nothing": None}],
        [{"probability": other, "parts": [np.ones(2), -np.ones(3)], "nothing": None}],
    )
    assert [o.name for o in found.outputs] == [
        "probability[cat]", "probability[dog]", "parts[0]", "parts[1]"
    ]  # fmt: skip
    assert found.cosine(outputs=["probability[cat]"]) == 1.0
    dog = (0.9 * 0.9 + 0.2 * 0.4) / math.hypot(0.9, 0.2) / math.hypot(0.9, 0.4)
    assert found.cosine(outputs=["probability"]) == pytest.approx(dog)
    assert found.worst().name == "parts[1]"


def test_sequences_may_differ_in_length_between_samples_but_not_between_models() -> None:
    short, long = {"y": [np.ones(2)]}, {"y": [np.ones(2), np.ones(2)]}
    found = compare([short, long], [short, long])
    assert found.passed(min_cosine=1.0)
    assert [len(o.per_sample) for o in found.outputs] == [2, 2]
    assert (
        "y[1]' of sample 0 does not exist in the original" in compare([short], [long]).failures[0]
    )
    assert "y[1]' of sample 0 is missing" in compare([long], [short]).failures[0]


def test_labels_beside_the_inputs_do_not_disturb(assets) -> None:
    runner = Runner(assets / "models" / "vit_ibp_3_3_8.onnx", threads=1)
    data = [{"input": np.zeros((1, 3, 32, 32), np.float32), "label": np.array([3])}]
    assert compare_runs(runner, runner, data).cosine() == 1.0


def test_weights_that_may_be_given_are_given() -> None:
    model = load(
        onnx.parser.parse_model(
            '<ir_version: 8, opset_import: ["" : 17]> g (float[2] x, float[2] w)'
            " => (float[2] y) <float[2] w = {1, 1}> { y = Mul(x, w) }"
        )
    )
    runner = Runner(model)
    x, w = np.array([1, 2], np.float32), np.array([3, -1], np.float32)
    right = {"y": np.array([3, -2], np.float32)}
    assert compare_runs(lambda _: right, runner, [{"x": x, "w": w}]).passed(min_cosine=1.0)


def test_something_must_be_compared() -> None:
    with pytest.raises(InputError, match="no sample"):
        compare([], [])
    with pytest.raises(InputError, match="no output"):
        compare([{"y": None}], [{"y": None}])


def test_the_dictionary_is_plain_json() -> None:
    found = compare(
        [{"y": np.ones(2, np.float32), "n": np.array([1])}],
        [{"y": np.ones(2, np.float32), "n": np.array([1])}],
    )
    content = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert content["cosine"] == {"mean": 1.0, "p5": 1.0, "min": 1.0}
    assert content["snr_db"] is None  # infinite
    assert content["outputs"][0]["cosine_mean"] == 1.0
    assert content["outputs"][1]["cosine_mean"] is None
    assert content["outputs"][1]["agreement"] == 1.0
