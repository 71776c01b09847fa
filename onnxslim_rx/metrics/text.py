"""Word and character error rates."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxslim_rx.errors import InputError
from onnxslim_rx.metrics.base import Data
from onnxslim_rx.metrics.samples import labelled
from onnxslim_rx.verify import Run

__all__ = ["edit_distance", "error_counts"]

Array = npt.NDArray[Any]


def error_counts(run: Run, data: Data, *, words: bool) -> npt.NDArray[np.float64]:
    """(rows, 2): errors and length of the right text, of each row of each sample.

    The model gives text, or tokens (rows, steps), or scores (rows, steps, vocabulary), which are
    decoded greedily as of a network with connectionist temporal classification: repeated tokens
    count once, and `blank` of the sample (0 where there is none) not at all. With `vocabulary`
    in the sample, an array of the tokens' texts, tokens become text, `|` and `\u2581` spaces.
    Without, and with labels that are tokens, each token counts as one word and one character.

    Source: Levenshtein, Soviet Physics Doklady 10(8), 1966; Graves et al., ICML 2006.
    """
    counts = []
    for outputs, right, sample in labelled(run, data):
        is_text = right.dtype.kind in "OUS"
        vocabulary = sample.get("vocabulary")
        rows = _rows(outputs, is_text and vocabulary is None, int(sample.get("blank", 0)))
        wanted = list(right.reshape(-1)) if is_text else list(np.atleast_2d(right))
        if len(rows) != len(wanted):
            raise InputError(f"the model gives {len(rows)} texts for {len(wanted)} labels")
        for row, reference in zip(rows, wanted, strict=True):
            found: list[Any]
            truth: list[Any]
            if is_text:
                text = row if isinstance(row, str) else _text(row, vocabulary)
                found, truth = _split(text, words), _split(str(reference), words)
            else:
                found, truth = row, [int(token) for token in reference if token >= 0]
            counts.append((edit_distance(found, truth), len(truth)))
    return np.asarray(counts, dtype=np.float64)


def edit_distance(a: Sequence[Hashable], b: Sequence[Hashable]) -> int:
    """Least number of insertions, deletions and substitutions that turn `a` into `b`."""
    codes: dict[Hashable, int] = {}
    x, y = (
        np.asarray([codes.setdefault(item, len(codes)) for item in s], np.int64) for s in (a, b)
    )
    steps = np.arange(len(y) + 1)
    row = steps
    for index, item in enumerate(x, 1):
        best = np.concatenate([[index], np.minimum(row[1:] + 1, row[:-1] + (y != item))])
        row = np.minimum.accumulate(best - steps) + steps  # insertions, one after the other
    return int(row[-1])


def _rows(outputs: Mapping[str, Any], text: bool, blank: int) -> list[Any]:
    """Text, or a list of tokens, for each row of the first output that holds such."""
    arrays = [value for value in outputs.values() if isinstance(value, np.ndarray)]
    for value in arrays:
        if text and value.dtype.kind in "OUS":
            return [str(item) for item in value.reshape(-1)]
        if not text and value.dtype.kind in "iu" and value.ndim <= 2:
            return [[int(t) for t in row if t >= 0] for row in np.atleast_2d(value)]
        if not text and "float" in value.dtype.name and value.ndim == 3:
            return [_collapse(row, blank) for row in value.argmax(-1)]
    wanted = "text" if text else "tokens (rows, steps) or scores (rows, steps, vocabulary)"
    raise InputError(
        f"the metric cannot read the outputs {', '.join(outputs)}",
        expected=wanted,
        advice="add `vocabulary`, the tokens' texts, to every sample" if text else "",
    )


def _collapse(tokens: Array, blank: int) -> list[int]:
    fresh = np.concatenate([[True], tokens[1:] != tokens[:-1]])
    return [int(token) for token in tokens[fresh & (tokens != blank)]]


def _text(tokens: Sequence[int], vocabulary: Any) -> str:
    pieces = [str(piece) for piece in np.asarray(vocabulary).reshape(-1)]
    return "".join(pieces[token] for token in tokens).replace("|", " ").replace("\u2581", " ")


def _split(text: str, words: bool) -> list[str]:
    parts = text.split()
    return parts if words else list(" ".join(parts))
