"""Metrics against scikit-learn, scipy and values computed by hand; how metrics are named."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxslim_rx.errors import InputError
from onnxslim_rx.metrics import Metric, bootstrap, load_metric, metric_names
from onnxslim_rx.metrics.text import edit_distance
from onnxslim_rx.runtime import Runner


def run_by(outputs):
    """A model that gives `outputs[i]` for the sample with number i."""
    return lambda sample: {"y": outputs[int(sample["i"])]}


def samples(**columns):
    count = len(next(iter(columns.values())))
    return [{"i": np.array(i), **{k: v[i] for k, v in columns.items()}} for i in range(count)]


def value(name, outputs, **columns) -> float:
    return load_metric(name)(run_by(outputs), samples(**columns))


@pytest.mark.parametrize("batch", [1, 4])
def test_top_k_is_scikit_learns(batch, rng) -> None:
    scores = rng.standard_normal((12, batch, 9)).astype(np.float32)
    labels = rng.integers(0, 9, (12, batch))
    flat, truth = scores.reshape(-1, 9), labels.reshape(-1)
    for k in (1, 5):
        wanted = sklearn.metrics.top_k_accuracy_score(truth, flat, k=k, labels=range(9))
        assert value(f"top{k}", scores, label=labels) == pytest.approx(wanted)


def test_top1_other_shapes() -> None:
    scores = np.array([[0.1, 0.9], [0.8, 0.2]], np.float32)
    assert value("top1", scores[:, None], y=np.array([1, 1])) == 0.5  # scalars as labels
    segments = np.moveaxis(scores.reshape(1, 2, 1, 2), -1, 1)  # (rows, classes, height, width)
    assert value("top1", [segments], labels=[np.array([[[1], [1]]])]) == 0.5
    classes = [np.array([1, 2, 3])]  # of a model that decides itself
    assert value("top1", classes, label=[np.array([1, 2, 2])]) == pytest.approx(2 / 3)


def test_a_broken_model_is_not_right_by_accident() -> None:
    labels = [np.array([2])]
    assert value("top1", [np.full((1, 4), np.nan, np.float32)], label=labels) == 0.0
    assert value("top5", [np.full((1, 9), np.nan, np.float32)], label=[np.array([0])]) == 0.0
    assert value("top1", [np.zeros((1, 4), np.float32)], label=labels) == 0.0  # first of equals


def test_mean_average_precision_is_scikit_learns(rng) -> None:
    scores = np.round(rng.standard_normal((40, 6)), 1)  # with ties
    truth = rng.integers(0, 2, (40, 6))
    truth[:, 3] = 0  # a class that does not occur
    used = [0, 1, 2, 4, 5]
    wanted = sklearn.metrics.average_precision_score(truth[:, used], scores[:, used])
    assert value("map", scores[:, None], label=truth[:, None]) == pytest.approx(wanted)
    classes = rng.integers(0, 6, 40)
    wanted = sklearn.metrics.average_precision_score(np.eye(6)[classes], scores)
    assert value("map", scores[:, None], label=classes[:, None]) == pytest.approx(wanted)


@pytest.mark.parametrize("form", ["rows", "candidates"])
def test_ndcg_of_scores_is_scikit_learns(form, rng) -> None:
    scores, gains = rng.standard_normal((8, 25)), rng.integers(0, 4, (8, 25))
    wanted = sklearn.metrics.ndcg_score(gains, scores, k=10)
    if form == "rows":
        assert value("ndcg", scores[:, None], label=gains[:, None]) == pytest.approx(wanted)
    else:  # one score a row: a sample is a query, its rows the candidates
        assert value("ndcg", scores[..., None], label=gains) == pytest.approx(wanted)


def test_ndcg_of_embeddings_is_a_search(rng) -> None:
    vectors, classes = rng.standard_normal((30, 8)), rng.integers(0, 3, 30)
    similarity = sklearn.metrics.pairwise.cosine_similarity(vectors)
    wanted = []
    for i in range(30):
        others = np.arange(30) != i
        wanted.append(
            sklearn.metrics.ndcg_score(
                [classes[others] == classes[i]], [similarity[i][others]], k=10
            )
        )
    found = value("ndcg", vectors[:, None].astype(np.float32), label=classes[:, None])
    assert found == pytest.approx(np.mean(wanted), abs=1e-6)
    with pytest.raises(InputError, match="no label is relevant"):
        value("ndcg", vectors[:2, None], label=np.array([[0], [1]]))


def test_embeddings_of_tokens_are_averaged_where_the_mask_says(rng) -> None:
    tokens = rng.standard_normal((6, 1, 5, 8))
    mask = np.array([[[1, 1, 1, 0, 0]]] * 6)
    spoilt = np.where(mask[..., None] == 1, tokens, 1e6)
    classes = np.array([0, 0, 1, 1, 2, 2])[:, None]
    pooled = tokens[:, :, :3].mean(2)
    assert value("ndcg", spoilt, label=classes, attention_mask=mask) == pytest.approx(
        value("ndcg", pooled, label=classes)
    )


def test_spearman_is_scipys(rng) -> None:
    scores, labels = rng.standard_normal((50, 1)), np.round(rng.standard_normal(50))
    wanted = scipy.stats.spearmanr(scores[:, 0], labels).statistic
    assert value("spearman", scores, label=labels) == pytest.approx(wanted)
    assert value("spearman", np.ones((50, 1)), label=labels) == 0.0


@pytest.mark.parametrize("labels", ["pair", "row", "batch"])
def test_spearman_of_pairs_of_sentences(labels, rng) -> None:
    vectors, gold = rng.standard_normal((20, 2, 6)), rng.uniform(0, 5, 20)
    said = [float(sklearn.metrics.pairwise.cosine_similarity(p[:1], p[1:])[0, 0]) for p in vectors]
    wanted = scipy.stats.spearmanr(said, gold).statistic
    if labels == "pair":
        found = value("spearman", vectors, label=gold)
    elif labels == "batch":
        found = value("spearman", vectors.reshape(10, 4, 6), label=gold.reshape(10, 2))
    else:
        found = value(
            "spearman", vectors.reshape(40, 1, 6), label=np.repeat(gold, 2).reshape(40, 1)
        )
    assert found == pytest.approx(wanted)


def test_perplexity_by_hand(rng) -> None:
    logits = rng.standard_normal((3, 2, 5, 7)).astype(np.float32)
    ids = rng.integers(0, 7, (3, 2, 5))
    mask = np.ones_like(ids)
    mask[:, 1, 3:] = 0
    probability = scipy.special.log_softmax(logits.astype(np.float64), -1)
    surprise = [
        -probability[n, b, t - 1, ids[n, b, t]]
        for n in range(3) for b in range(2) for t in range(1, 5) if mask[n, b, t]
    ]  # fmt: skip
    found = value("perplexity", logits, input_ids=ids, attention_mask=mask)
    assert found == pytest.approx(-math.exp(np.mean(surprise)))

    labels = np.where(rng.uniform(size=ids.shape) < 0.5, ids, -100)
    n, b, t = np.nonzero(labels >= 0)
    found = value("perplexity", logits, input_ids=ids, label=labels)
    wanted = -math.exp(-np.mean(probability[n, b, t, labels[n, b, t]]))
    assert found == pytest.approx(wanted)
    with pytest.raises(InputError, match="neither a label nor `input_ids`"):
        value("perplexity", logits, x=ids)


def naive_distance(a: str, b: str) -> int:
    """The recursion as Levenshtein defined it."""
    if not a or not b:
        return len(a) + len(b)
    same = naive_distance(a[1:], b[1:]) + (a[0] != b[0])
    return min(same, naive_distance(a[1:], b) + 1, naive_distance(a, b[1:]) + 1)


@given(st.text("abc", max_size=5), st.text("abc", max_size=5))
@settings(max_examples=80, deadline=None)
def test_edit_distance_is_levenshteins(a, b) -> None:
    assert edit_distance(a, b) == naive_distance(a, b)


def test_error_rates_of_text() -> None:
    said = np.array([["the cat sat"], ["on  a mat"]], object)
    right = np.array(["the cat sat", "on the mat today"])
    assert value("wer", said, label=right) == pytest.approx(-2 / 7)  # one wrong, one missing
    # a -> the: 3; " today": 6
    assert value("cer", said, label=right) == pytest.approx(-9 / 27)


def test_error_rates_of_decoded_scores() -> None:
    path = [0, 3, 3, 0, 3, 1, 2, 2, 0]  # b blank b | a
    scores = np.eye(4, dtype=np.float32)[path][None, None]
    vocabulary = [np.array(["<blank>", "|", "a", "b"])]
    columns = {"label": np.array(["bb a"]), "vocabulary": vocabulary}
    assert value("wer", scores, **columns) == 0.0
    assert value("cer", scores, **columns) == 0.0
    tokens = [np.array([[3, 3, 1, 2, -1]])]
    assert value("cer", scores, label=tokens) == 0.0
    assert value("wer", scores, label=[np.array([[3, 1, 2, 2]])]) == -0.5
    ids = [np.array([[3, 3, 1, 2]])]
    assert value("cer", ids, label=tokens) == 0.0
    last = [np.array(3)]
    assert value("cer", scores, label=[np.array([[0, 0, 1, 2, 0]])], blank=last) == 0.0
    with pytest.raises(InputError, match="add `vocabulary`"):
        value("wer", scores, label=np.array(["bb a"]))


def test_psnr_by_hand(rng) -> None:
    truth = rng.uniform(0, 1, (4, 1, 3, 8, 8))
    noisy = truth + 0.1
    assert value("psnr", noisy, label=truth) == pytest.approx(20.0)
    bytes_ = np.full((2, 1, 3, 4, 4), 200, np.uint8)
    assert value("psnr", bytes_ + np.float32(2.55), label=bytes_) == pytest.approx(40.0, abs=1e-4)
    assert value("psnr", truth, label=truth) == 100.0
    with pytest.raises(InputError, match="the label has shape"):
        value("psnr", noisy, label=truth[:, :, :1])


def test_labels_that_do_not_fit_are_named(rng) -> None:
    scores = rng.standard_normal((3, 1, 4))
    with pytest.raises(InputError, match=r"no label among 'i', 'x'; expected one of label"):
        value("top1", scores, x=scores)
    with pytest.raises(InputError, match=r"labels lie in \[7, 7\]; expected \[0, 3\]"):
        value("top1", scores, label=np.full((3, 1), 7))
    with pytest.raises(InputError, match="labels have shape"):
        value("top1", scores, label=np.zeros((3, 2), int))
    with pytest.raises(InputError, match="labels have type float64"):
        value("top1", scores, label=np.zeros((3, 1)))
    with pytest.raises(InputError, match="no floats among the outputs y"):
        value("spearman", np.ones((3, 1), int), label=np.ones(3))
    with pytest.raises(InputError, match="no sample"):
        load_metric("top1")(run_by([]), [])


def test_the_interval_of_a_mean_is_the_normal_one(rng) -> None:
    correct = rng.uniform(size=400) < 0.8
    scores = np.where(correct[:, None, None], [[0.0, 1.0]], [[1.0, 0.0]])
    data = samples(label=np.ones((400, 1), int))
    metric = load_metric("top1")
    found = metric.score(run_by(scores), data, seed=1)
    p = correct.mean()
    half = 1.96 * math.sqrt(p * (1 - p) / 400)
    assert found.value == pytest.approx(p)
    # 2000 resamples know a quantile of 2.5% to sqrt(0.025 * 0.975 / 2000) / 0.058 = 0.06
    # standard deviations, and hits come in steps of 1 / 400 = 0.13 of them
    assert found.low == pytest.approx(p - half, abs=0.2 * half)
    assert found.high == pytest.approx(p + half, abs=0.2 * half)
    assert metric.score(run_by(scores), data, seed=1) == found
    assert metric.score(run_by(scores), data, seed=2) != found


def test_a_drop_is_paired() -> None:
    rng = np.random.default_rng(0)
    correct = rng.uniform(size=400) < 0.5
    before = np.where(correct[:, None, None], [[0.0, 1.0]], [[1.0, 0.0]])
    after = before.copy()
    spoilt = np.flatnonzero(correct)[:4]
    after[spoilt] = [[1.0, 0.0]]
    data, metric = samples(label=np.ones((400, 1), int)), load_metric("top1")
    old, new = (metric.score(run_by(scores), data) for scores in (before, after))
    drop = metric.drop(old, new)
    assert drop.value == pytest.approx(0.01)
    # 4 of 400 differ; unpaired, both ends would be 0.07 away
    assert 0.0 <= drop.low < 0.01 < drop.high < 0.03


@pytest.mark.parametrize("name", ["map", "ndcg", "spearman"])
def test_every_ready_made_metric_has_an_interval(name, rng) -> None:
    scores = rng.standard_normal((30, 1, 1 if name == "spearman" else 6))
    labels = rng.integers(0, 3, scores.shape)
    found = load_metric(name).score(run_by(scores), samples(label=labels))
    assert found.low < found.value < found.high


def test_a_single_sample_has_no_interval() -> None:
    assert all(map(math.isnan, bootstrap(lambda units: float(units.mean()), [np.ones(1)], 0)))


def test_the_names() -> None:
    assert metric_names() == [
        "top1", "top5", "map", "ndcg", "spearman", "perplexity", "wer", "cer", "psnr",
        "agreement",
    ]  # fmt: skip
    assert all(load_metric(name).name == name for name in metric_names())
    with pytest.raises(InputError, match=r"no metric 'f1'; expected top1, .*FILE.py:FUNCTION"):
        load_metric("f1")


def test_a_users_function() -> None:
    def brightness(run, data):
        return float(np.mean([run(sample)["y"] for sample in data]))

    metric = load_metric(brightness)
    assert metric.name == "brightness"
    assert metric(run_by([1.0, 3.0]), samples(x=[0, 0])) == 2.0
    found = metric.score(run_by([1.0, 3.0]), samples(x=[0, 0]))
    assert math.isnan(found.low)
    assert load_metric(metric) is metric

    each = load_metric(lambda run, data: [run(sample)["y"] for sample in data])
    found = each.score(run_by([1.0, 3.0]), samples(x=[0, 0]))
    assert (found.value, found.low, found.high) == (2.0, 1.0, 3.0)
    assert each.drop(found, found).high == 0.0


def test_a_users_file(tmp_path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "import numpy as np\n"
        "def good(run, data):\n    return np.float32(len(data))\n"
        "def bad(run, data):\n    return 1 / 0\n"
        "def nan(run, data):\n    return float('nan')\n"
        "def text(run, data):\n    return 'high'\n"
        "def pair(run, data):\n    return [1.0, 2.0, 3.0]\n"
        "number = 3\n",
        encoding="utf-8",
    )
    data = samples(x=[0, 0])
    assert load_metric(f"{path}:good")(run_by([1, 1]), data) == 2.0
    for name, words in [
        ("bad", "metric bad raised ZeroDivisionError: division by zero"),
        ("nan", "metric nan returned nan; expected a finite number"),
        ("text", "metric text returned 'high'; expected a finite number"),
        ("pair", r"metric pair returned \[1.0, 2.0, 3.0\]; expected a finite number"),
    ]:
        with pytest.raises(InputError, match=words):
            load_metric(f"{path}:{name}")(run_by([1, 1]), data)
    with pytest.raises(InputError, match="has no function 'number'"):
        load_metric(f"{path}:number")
    with pytest.raises(InputError, match="there is no file"):
        load_metric(f"{tmp_path}/none.py:good")
    path.write_text("def good(:\n", encoding="utf-8")
    with pytest.raises(InputError, match="raised SyntaxError"):
        load_metric(f"{path}:good")


def test_a_runner_gets_its_inputs_only(assets) -> None:
    runner = Runner(assets / "models" / "vit_ibp_3_3_8.onnx", threads=1)
    image = np.zeros((1, 3, 32, 32), np.float32)
    best = int(runner({"input": image})["output"].argmax())
    data = [{"input": image, "label": np.array([best])}]
    assert load_metric("top1")(runner, data) == 1.0


def test_errors_of_the_model_pass_through_a_metric() -> None:
    def broken(sample):
        raise InputError("the model does not run")

    with pytest.raises(InputError, match=r"^the model does not run$"):
        Metric("mine", function=lambda run, data: run(data[0]))(broken, samples(x=[1]))


def agreement(original, model) -> float:
    metric, data = load_metric("agreement"), samples(label=original)
    return metric(run_by(model), metric.against(run_by(original), data))


def test_agreement_needs_no_labels(rng) -> None:
    original = rng.standard_normal((5, 3, 7)).astype(np.float32)
    model = original.copy()
    assert agreement(original, model) == 1.0
    # two of fifteen rows decide otherwise, for the class that the original likes least
    for sample, row in ((0, 1), (4, 2)):
        model[sample, row, original[sample, row].argmin()] = 9.0
    assert agreement(original, model) == pytest.approx(13 / 15)
    assert agreement(original, np.full_like(model, np.nan)) == 0.0
    zeros = np.zeros_like(original)
    assert agreement(zeros, np.full_like(model, np.nan)) == 0.0  # not even by accident
    assert agreement(original, original[..., :5].sum(-1)) == 0.0  # another shape


def test_agreement_of_pixels_and_of_classes(rng) -> None:
    pixels = rng.standard_normal((2, 1, 4, 4, 4)).astype(np.float32)  # classes first of the four
    shifted = pixels.copy()
    shifted[0, 0, :, 0, 0] = np.roll(pixels[0, 0, :, 0, 0], 1)
    assert agreement(pixels, shifted) == pytest.approx(31 / 32)
    classes = np.array([[1], [-1], [3]])
    assert agreement(classes, np.array([[1], [-1], [0]])) == pytest.approx(2 / 3)


def test_the_drop_of_agreement_is_bounded() -> None:
    metric = load_metric("agreement")
    scores = np.eye(4, dtype=np.float32)[:, None]
    data = metric.against(run_by(scores), samples(label=scores))
    assert metric.score(run_by(scores), data).value == 1.0
    other = metric.score(run_by(np.roll(scores, 1, axis=0)), data)
    assert metric.drop(metric.score(run_by(scores), data), other).value == 1.0
