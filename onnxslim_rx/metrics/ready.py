"""The ready-made metrics. Higher is better in all: perplexity and error rates are negative.

What each metric reads from a sample beside the model's inputs, under the name `label`, `labels`,
`y` or `target`:

- `top1`, `top5`: the right class of each row; the model gives scores (..., classes).
- `map`: the right class of each row, or zeros and ones of the scores' shape.
- `ndcg`: how relevant the item of each score is, in the scores' shape; or the class of each
  embedding, where every row searches for the others of its class.
- `spearman`: a value for each score, which should have the same order; or for each pair of
  embeddings (rows 1 and 2, rows 3 and 4, ...).
- `perplexity`: the token that each position should give, negative for none; where there is no
  label, the next of `input_ids`, as far as `attention_mask` says.
- `wer`, `cer`: the right text or tokens; see `onnxslim_rx.metrics.text`.
- `psnr`: the right image.
- `agreement`: nothing; how often the model decides as the original does (in `bench`: the first).

The first output of the right type counts.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import logsumexp
from scipy.stats import rankdata

from onnxslim_rx.errors import InputError
from onnxslim_rx.metrics.agreement import as_original, decided_alike
from onnxslim_rx.metrics.base import Data, Metric
from onnxslim_rx.metrics.samples import embeddings, floats, labelled, optional_label
from onnxslim_rx.metrics.text import error_counts
from onnxslim_rx.verify import Run

__all__ = ["READY"]

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]

_CUTOFF = 10  # ranks that nDCG looks at
_BEST_PSNR = 100.0  # of equal images, whose ratio is infinite


def _hits(run: Run, data: Data, *, k: int) -> Floats:
    """(rows,) share of positions whose right class is among the `k` best; ties: lowest first."""
    found = []
    for outputs, right, _ in labelled(run, data):
        classes = _classes(outputs, right)
        if classes is not None:  # the model decides itself, as classifiers of scikit-learn do
            hit = classes == right
        else:
            scores, right = _aligned(floats(outputs), right)
            chosen = np.take_along_axis(scores, right[..., None], -1)
            earlier = np.arange(scores.shape[-1]) < right[..., None]
            better = (scores > chosen) | ((scores == chosen) & earlier)
            hit = (better.sum(-1) < k) & np.isfinite(chosen[..., 0])
        found.append(hit.reshape(len(hit), -1).mean(1) if hit.ndim else np.float64(hit)[None])
    return np.concatenate(found)


def _classes(outputs: Mapping[str, Any], right: Array) -> Array | None:
    arrays = [value for value in outputs.values() if isinstance(value, np.ndarray)]
    if any("float" in array.dtype.name for array in arrays):
        return None
    return next((a for a in arrays if a.shape == right.shape), None)


def _aligned(scores: Floats, right: Array) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Scores with the classes last, and labels with the scores' other axes."""
    if right.dtype.kind not in "iub":
        raise InputError(f"labels have type {right.dtype.name}", expected="integers")
    if right.size * scores.shape[-1] == scores.size:
        right = right.reshape(scores.shape[:-1])
    elif scores.ndim > 2 and right.shape == (scores.shape[0], *scores.shape[2:]):
        scores = np.moveaxis(scores, 1, -1)
    else:
        raise InputError(
            f"labels have shape {list(right.shape)}", expected=f"{list(scores.shape[:-1])}"
        )
    if right.size and not 0 <= right.min() <= right.max() < scores.shape[-1]:
        raise InputError(
            f"labels lie in [{right.min()}, {right.max()}]", expected=f"[0, {scores.shape[-1] - 1}]"
        )
    return scores, right.astype(np.int64)


def _scores_and_truth(run: Run, data: Data) -> Floats:
    """(rows, 2, classes): scores, and 1 where the class is right."""
    rows = []
    for outputs, right, _ in labelled(run, data):
        scores = floats(outputs)
        if right.shape != scores.shape:
            scores, right = _aligned(scores, right)
            right = right[..., None] == np.arange(scores.shape[-1])
        rows.append(
            np.stack([scores, right.astype(np.float64)], -2).reshape(-1, 2, scores.shape[-1])
        )
    return np.concatenate(rows)


def _mean_average_precision(rows: Floats) -> float:
    """Mean over the classes that occur of the area under the precision-recall curve's steps.

    Source: Manning, Raghavan & Schuetze, Introduction to Information Retrieval, 2008, ch. 8.
    """
    precisions = []
    for scores, truth in np.moveaxis(rows, 2, 0).transpose(0, 2, 1):
        if not truth.any():
            continue
        order = np.argsort(-scores, kind="stable")
        ends = np.append(
            np.flatnonzero(np.diff(scores[order])), len(scores) - 1
        )  # ties go together
        hits = np.cumsum(truth[order])[ends]
        recall_steps = np.diff(hits, prepend=0.0) / truth.sum()
        precisions.append(float(np.sum(recall_steps * hits / (ends + 1))))
    return float(np.mean(precisions)) if precisions else 0.0


def _gains(run: Run, data: Data) -> Floats:
    """(queries,) normalised discounted cumulative gain at 10; queries without a hit left out.

    Source: Jarvelin & Kekalainen, ACM Transactions on Information Systems 20(4), 2002.
    """
    rankings: list[tuple[Floats, Floats]] = []
    vectors, classes = [], []
    for outputs, right, sample in labelled(run, data):
        scores = floats(outputs)
        if right.size == scores.size and right.size > 1:
            last = scores.shape[-1] if scores.shape[-1] > 1 else scores.size
            rankings += zip(scores.reshape(-1, last), right.reshape(-1, last), strict=True)
        else:
            vectors.append(embeddings(outputs, sample))
            classes.append(right.reshape(-1))
    if vectors:
        rankings += _searches(np.concatenate(vectors), np.concatenate(classes))
    found = [_ndcg(scores, gains) for scores, gains in rankings if np.any(gains > 0)]
    if not found:
        raise InputError("no label is relevant to any query, so there is no ranking to judge")
    return np.asarray(found)


def _searches(vectors: Floats, classes: Array) -> Iterator[tuple[Floats, Floats]]:
    """Every row as a query among all others, by cosine; relevant are those of its class."""
    if len(vectors) != len(classes):
        raise InputError(f"{len(classes)} labels for {len(vectors)} embeddings")
    for index, vector in enumerate(vectors):
        others = np.delete(np.arange(len(vectors)), index)
        yield vectors[others] @ vector, (classes[others] == classes[index]).astype(np.float64)


def _ndcg(scores: Floats, gains: Floats) -> float:
    order = np.argsort(-scores, kind="stable")[:_CUTOFF]
    discount = 1.0 / np.log2(np.arange(2, len(order) + 2))
    return float(gains[order] @ discount / (np.sort(gains)[::-1][: len(order)] @ discount))


def _pairs(run: Run, data: Data) -> Floats:
    """(rows or pairs, 2): what the model says, and the label."""
    scores, vectors, labels = [], [], []
    for outputs, right, sample in labelled(run, data):
        values = floats(outputs)
        if values.size == max(1, right.size):
            scores.append(values.reshape(-1))
        else:
            vectors.append(embeddings(outputs, sample))
        labels.append(right.reshape(-1).astype(np.float64))
    truth = np.concatenate(labels)
    if vectors:
        rows = np.concatenate(vectors)
        said = np.einsum("ij,ij->i", rows[0::2][: len(rows) // 2], rows[1::2])
        truth = truth[::2][: len(said)] if len(truth) == len(rows) else truth
    else:
        said = np.concatenate(scores)
    if len(said) != len(truth):
        raise InputError(f"{len(truth)} labels for {len(said)} scores or pairs")
    return np.stack([said, truth], 1)


def _rank_correlation(pairs: Floats) -> float:
    """Source: Spearman, American Journal of Psychology 15(1), 1904. 0 where a side is constant."""
    ranks = rankdata(pairs, axis=0) - (len(pairs) + 1) / 2
    spread = np.sqrt((ranks**2).sum(0)).prod()
    return float(ranks[:, 0] @ ranks[:, 1] / spread) if spread else 0.0


def _surprise(run: Run, data: Data) -> Floats:
    """(samples, 2): sum of -log p of the right tokens, and their number."""
    found = []
    for sample in data:
        logits = floats(run(sample))
        tokens = optional_label(sample)
        if tokens is None:
            if "input_ids" not in sample:
                raise InputError("perplexity finds neither a label nor `input_ids`")
            tokens = np.asarray(sample["input_ids"], np.int64)
            mask = np.asarray(sample.get("attention_mask", np.ones_like(tokens)))
            tokens = np.where(mask[..., -tokens.shape[-1] :] > 0, tokens, -1)
            logits, tokens = logits[..., :-1, :], tokens[..., 1:]
        if tokens.shape != logits.shape[:-1]:
            raise InputError(
                f"labels have shape {list(tokens.shape)}", expected=f"{list(logits.shape[:-1])}"
            )
        counted = tokens >= 0
        rows, right = logits[counted], tokens[counted].astype(np.int64)
        chosen = np.take_along_axis(rows, right[:, None], 1)[:, 0]
        found.append((float(np.sum(logsumexp(rows, axis=1) - chosen)), int(counted.sum())))
    return np.asarray(found, dtype=np.float64)


def _negative_perplexity(units: Floats) -> float:
    surprise, tokens = units.sum(0)
    return -float(np.exp(surprise / tokens)) if tokens else -np.inf


def _negative_error_rate(units: Floats) -> float:
    errors, length = units.sum(0)
    return -float(errors / max(length, 1.0))


def _decibels(run: Run, data: Data) -> Floats:
    """(rows,) peak signal-to-noise ratio, dB; the peak is 255 where labels exceed 1.5, else 1."""
    found = []
    for outputs, right, _ in labelled(run, data):
        image, truth = floats(outputs), right.astype(np.float64)
        if image.shape != truth.shape:
            raise InputError(
                f"the label has shape {list(truth.shape)}", expected=str(list(image.shape))
            )
        peak = 255.0 if truth.max(initial=0.0) > 1.5 else 1.0
        error = np.mean((image - truth).reshape(len(image), -1) ** 2, axis=1)
        with np.errstate(divide="ignore"):
            found.append(np.minimum(10 * np.log10(peak**2 / error), _BEST_PSNR))
    return np.concatenate(found)


def _ready(name: str, units: Callable[[Run, Data], Any], aggregate: Any = None) -> Metric:
    return Metric(name, units=units, aggregate=aggregate)


READY: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        _ready("top1", functools.partial(_hits, k=1)),
        _ready("top5", functools.partial(_hits, k=5)),
        _ready("map", _scores_and_truth, _mean_average_precision),
        _ready("ndcg", _gains),
        _ready("spearman", _pairs, _rank_correlation),
        _ready("perplexity", _surprise, _negative_perplexity),
        _ready("wer", functools.partial(error_counts, words=True), _negative_error_rate),
        _ready("cer", functools.partial(error_counts, words=False), _negative_error_rate),
        _ready("psnr", _decibels),
        Metric("agreement", units=decided_alike, labels=as_original),
    )
}
