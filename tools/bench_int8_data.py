"""What bench_int8.py measures on: sequences of three lengths, pictures in two halves.

There are 500 pictures, all of which score. So every model is made twice, on one half and on the
other, and each picture is scored by the model that did not see it.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tools.bench_data import Sample, Task, imagenet, prepared
from tools.bench_measure import classes, read, session
from tools.bench_quantize_data import Data, short

__all__ = ["IMAGES", "LENGTHS", "Half", "Pictures", "halves", "lengths"]

LENGTHS = (16, 32, 128)  # tokens
IMAGES = "images"
_PARTS = ("calibrate", "score")
_EACH = (250, 250)
_TIMED = 8


class Half(NamedTuple):
    """One way to use the pictures.

    Args:
        data: one half to calibrate, the other to score, some of that to time.
        labels: the right classes of the half that scores.
    """

    data: Data
    labels: Sequence[int]


def lengths(folder: Path) -> dict[str, list[Sample]]:
    """Sequences of each of `LENGTHS`, by number of tokens, of the samples in a folder."""
    samples = read(folder)
    return {str(length): short(samples, length=length) for length in LENGTHS}


def halves(model: Path, folder: Path, each: tuple[int, int] = _EACH) -> list[Half]:
    """Both ways to use the pictures, made in `folder` once.

    A sample's `label` is the class that the model itself finds, so that accuracy is agreement.
    """

    def make(task: Task, rng: np.random.Generator) -> None:
        imagenet("input", *each)(task, rng)
        run = session(model, 1)
        for path in (path for part in _PARTS for path in _files(folder / part)):
            sample = _load(path)
            sample["label"] = classes([run(sample)])
            np.savez(path, **sample)  # type: ignore[arg-type]

    prepared(folder, make)
    facts = json.loads((folder / "task.json").read_text(encoding="utf-8"))
    labels = {"calibrate": facts["calibrate_labels"], "score": facts["labels"]}
    return [
        Half(Data(folder / seen, {IMAGES: folder / other}, _first(folder / other)), labels[other])
        for seen, other in itertools.permutations(_PARTS)
    ]


def _first(folder: Path) -> list[Sample]:
    return [_load(path) for path in _files(folder)[:_TIMED]]


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.npz"))


def _load(path: Path) -> Sample:
    with np.load(path) as arrays:
        return dict(arrays)


class Pictures(Sequence[Sample]):
    """As many samples as are asked for, read one by one; when all were, they come mirrored.

    Args:
        folder: which `halves` made.
        count: how many, at most twice as many as there are.
    """

    def __init__(self, folder: Path, count: int) -> None:
        self.paths = [path for part in _PARTS for path in _files(folder / part)]
        self.size = count

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, number: Any) -> Any:
        if not 0 <= number < self.size:
            raise IndexError(number)
        turn, index = divmod(number, len(self.paths))
        pixels = _load(self.paths[index])["input"]
        return {"input": np.ascontiguousarray(pixels[..., ::-1]) if turn else pixels}
