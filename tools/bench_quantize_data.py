"""What MiniLM is measured on: sentences, technical English that calibration never saw, 32 tokens.

`sst` holds 256 sentences of film reviews to calibrate and 400 others to score; `docstrings` 256
sentences of the docstrings of Python's standard library to score (they differ a little between
versions of Python); `short` 8 sequences of exactly 32 tokens, to time.
"""

from __future__ import annotations

import ast
import re
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tools.bench_data import Sample, Task, minilm, prepared, sentence_of, tokens
from tools.bench_measure import read

__all__ = ["DOMAINS", "Data", "docstrings", "prepare", "sentences_in", "short"]

DOMAINS = ("sst", "docstrings")
SENTENCES = 256  # of the second domain
WORDS = (6, 40)  # least and most of a sentence
LENGTH, SEQUENCES = 32, 8  # tokens of a timed sequence, and how many of these
_PLAIN = re.compile(r"[A-Z][A-Za-z0-9 ,;:'\"()/_.-]*[.!?]")  # no code, no tables, no doctests


class Data(NamedTuple):
    """Folders that `bench_measure.read` reads, and what is timed."""

    calibrate: Path
    score: dict[str, Path]
    short: list[Sample]


def prepare(folder: Path) -> Data:
    """Make all of it in `folder`, once."""
    for name, make in (("sst", minilm), ("docstrings", docstrings)):
        prepared(folder / name, make)
    score = {name: folder / name / "score" for name in DOMAINS}
    return Data(folder / "sst" / "calibrate", score, short(read(score["sst"])))


def docstrings(task: Task, rng: np.random.Generator) -> None:
    """Sentences of the standard library's docstrings, to score."""
    library = Path(sysconfig.get_path("stdlib"))
    found = sorted({line for path in library.glob("*.py") for line in sentences_in(path)})
    chosen = [found[index] for index in rng.permutation(len(found))[:SENTENCES]]
    for sample in tokens(chosen):
        task.add("score", sample)


def sentences_in(path: Path) -> Iterator[str]:
    """Plain sentences in the docstrings of a module; none where it cannot be read."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if not isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
            continue
        for paragraph in (ast.get_docstring(node) or "").split("\n\n"):
            for sentence in re.split(r"(?<=[.!?])\s+", " ".join(paragraph.split())):
                least, most = WORDS
                if _PLAIN.fullmatch(sentence) and least <= len(sentence.split()) <= most:
                    yield sentence


def short(samples: Sequence[Sample], count: int = SEQUENCES, length: int = LENGTH) -> list[Sample]:
    """Sequences of `length` tokens, made of consecutive sentences between one start and one end."""
    first, last = samples[0]["input_ids"][0, [0, -1]]
    stream = np.concatenate([sample["input_ids"][0, 1:-1] for sample in samples])
    rows = stream[: count * (length - 2)].reshape(count, length - 2)
    return [sentence_of(np.concatenate([[first], row, [last]])) for row in rows]
