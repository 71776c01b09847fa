"""Which rows count, and which are kept: padding, embeddings, samples."""

from __future__ import annotations

import numpy as np
import pytest

TEXT = """
    h = Gather(words, ids)
    n = Constant<value = int64[1] {-1}>()
    m = MatMul(h, w1)
    width = Constant<value = int64[2] {-1, 6}>()
    flat = Reshape(m, width)
    y = Gemm(flat, w2)
"""


@pytest.fixture
def text_model(rng, model_of, noise):
    def make(mask="attention_mask"):
        return model_of(
            f"int64[N,S] ids, int64[N,S] {mask} => float[M,5] y",
            TEXT,
            words=noise(rng, 11, 4),
            w1=noise(rng, 4, 6),
            w2=noise(rng, 6, 5),
        )

    return make


@pytest.mark.parametrize("memory_bytes", [1, 1 << 30])
def test_padding_does_not_count(
    rng, memory_bytes, collect, layers_of, activations, assert_gram, text_model
):
    model = text_model()
    ids = rng.integers(-11, 11, (4, 3, 7))
    masks = (rng.random((4, 3, 7)) < 0.6).astype(np.int64)
    data = [{"ids": i, "attention_mask": m} for i, m in zip(ids, masks, strict=True)]
    layers = layers_of(model)
    statistics = collect(model, layers, data, memory_bytes=memory_bytes)
    seen = activations(model, layers, data)
    real = masks.astype(bool)

    kept = ids[real] % 11
    assert statistics["words:h"].counts.tolist() == np.bincount(kept, minlength=11).tolist()
    assert statistics["words:h"].gram is None
    assert statistics["words:h"].sample is None
    assert statistics["words:h"].shape == (3, 7)
    for name in ("w1:m", "w2:y"):  # (batch, sequence, K) and (batch * sequence, K)
        rows = [a.reshape(21, -1)[m.ravel()] for a, m in zip(seen[name], real, strict=True)]
        assert_gram(statistics[name].gram, np.concatenate(rows).astype(np.float64))
    assert {found.rows for found in statistics.values()} == {int(masks.sum())}


def test_padding_lies_along_the_last_axis_where_the_constant_is_on_the_left(
    rng, collect, model_of, layers_of, assert_gram, noise
):
    model = model_of(
        "float[N,4,S] x, int64[N,S] mask => float[N,5,S] y", "y = MatMul(w, x)", w=noise(rng, 5, 4)
    )
    # as many columns as positions: only the right axis tells them apart
    masks = rng.integers(0, 2, (6, 2, 4))
    data = [{"x": noise(rng, 2, 4, 4), "mask": mask} for mask in masks]
    found = collect(model, layers_of(model), data)["w:y"]
    rows = [s["x"].swapaxes(1, 2)[s["mask"].astype(bool)] for s in data]
    assert found.rows == masks.sum()
    assert_gram(found.gram, np.concatenate(rows).astype(np.float64))


def test_masks_that_contradict_each_other_decide_nothing(rng, collect, model_of, layers_of, noise):
    model = model_of(
        "int64[N,S] source_mask, int64[N,S] target_mask, float[N,S,6] x => float[N,S,5] y",
        "y = MatMul(x, w)",
        w=noise(rng, 6, 5),
    )
    half, most = np.array([[1, 1, 0, 0]]), np.array([[1, 1, 1, 0]])
    other_length = np.array([[1, 0, 1]])
    for source, target, rows in ((half, half, 2), (half, most, 4), (half, other_length, 2)):
        # the label is no input and so means nothing
        sample = {"source_mask": source, "target_mask": target, "label_mask": most}
        data = [{"x": noise(rng, 1, 4, 6), **sample}]
        assert collect(model, layers_of(model), data)["w:y"].rows == rows


def test_a_mask_of_padding_is_not_taken_for_its_opposite(rng, collect, layers_of, text_model):
    model = text_model(mask="src_key_padding_mask")
    data = [{"ids": np.ones((2, 3), int), "src_key_padding_mask": np.array([[0, 0, 1]] * 2)}]
    assert collect(model, layers_of(model), data)["w1:m"].rows == 6


def test_padding_may_be_nan(rng, collect, model_of, layers_of, noise):
    model = model_of(
        "float[N,S,6] x, int64[N,S] mask => float[N,S,5] y",
        "h = Log(x) y = MatMul(h, w)",
        w=noise(rng, 6, 5),
    )
    x = np.ones((1, 3, 6), np.float32)
    x[0, 2] = -1
    statistics = collect(model, layers_of(model), [{"x": x, "mask": np.array([[1, 1, 0]])}])
    assert statistics["w:y"].rows == 2


def test_cuts_do_not_change_the_result(rng, collect, layers_of, chain):
    model = chain(rng, depth=5, width=20)
    data = [{"x": rng.standard_normal((s, 20)).astype(np.float32)} for s in (300, 40, 700)]
    layers = layers_of(model)
    results = [collect(model, layers, data, memory_bytes=m, seed=5) for m in (1, 20_000, 20_000)]
    for layer in layers:
        few, many, again = (result[layer.name] for result in results)
        np.testing.assert_array_equal(few.sample, many.sample)
        np.testing.assert_array_equal(few.gram, many.gram)
        np.testing.assert_array_equal(many.gram, again.gram)
    other = collect(model, layers, data, seed=6)
    name = layers[0].name
    assert not np.array_equal(other[name].sample, results[0][name].sample)
    np.testing.assert_array_equal(other[name].gram, results[0][name].gram)


def test_sampled_rows_come_from_all_samples(rng, collect, model_of, layers_of, noise):
    model = model_of("float[N,2] x => float[N,2] y", "y = MatMul(x, w)", w=noise(rng, 2, 2))
    data = [{"x": np.full((200, 2), number, np.float32)} for number in range(20)]
    sample = collect(model, layers_of(model), data)["w:y"].sample[:, 0]
    assert len(sample) == 256
    # each of 20 samples expects 12.8 rows; hypergeometric, 6 standard deviations are 20
    assert np.bincount(sample.astype(int), minlength=20).max() <= 33
    assert set(sample) == set(range(20))


def test_extra_arrays_are_not_fed(rng, collect, layers_of, noise, chain):
    model = chain(rng, 1, 8)
    data = [{"x": noise(rng, 4, 8), "label": np.array([3])}]
    assert collect(model, layers_of(model), data)["w0:m0"].rows == 4
