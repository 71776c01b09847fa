"""Sequences of steps: from files, folders, arrays with an axis of steps, and iterables."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxslim_rx.calibration.arrays import SUFFIXES, read_arrays
from onnxslim_rx.calibration.complaints import guarded
from onnxslim_rx.errors import InputError
from onnxslim_rx.runtime import TensorSpec

__all__ = ["Sequences", "first_arrays", "sequences_of"]

Array = npt.NDArray[Any]
Inputs = Mapping[str, TensorSpec]
Sequences = str | os.PathLike[str] | Mapping[str, Any] | Iterable[Any]
"""Whatever `sequences_of` reads."""


def sequences_of(
    source: Sequences, inputs: Inputs, state: Collection[str]
) -> Iterator[tuple[str, Iterator[Mapping[str, Any]]]]:
    """Each sequence: what to call it in messages, and its steps, arrays by input name.

    Accepted are:

    - an iterable of sequences, each an iterable of steps, or arrays with an axis of steps;
    - arrays with an axis of steps: those with one axis more than the input have steps along
      axis 0, all others are the same in each step. Inputs that are state may only be given for
      the first step. With two axes more, axis 0 counts sequences and axis 1 steps;
    - a path to an .npz file of such arrays (.npy for a model of one input that is no state);
    - a path to a folder: its .npz files are one sequence each, or, where it has folders inside,
      each of them is one sequence and the files there are its steps, all in order of names.

    Raises:
        InputError: nothing there, counts that differ, damaged files.
    """
    if isinstance(source, (str, os.PathLike)):
        yield from _from_path(Path(source), inputs, state)
    elif isinstance(source, Mapping):
        yield from _from_arrays(source, inputs, state, "the calibration data")
    else:
        for number, sequence in enumerate(guarded(source, "sequence")):
            where = f"calibration sequence {number}"
            if isinstance(sequence, Mapping):
                yield from _from_arrays(sequence, inputs, state, where)
            elif isinstance(sequence, Iterable) and not isinstance(sequence, (str, bytes)):
                yield where, guarded(sequence, f"{where}, step")
            else:
                raise InputError(
                    f"{where} is a {type(sequence).__name__}",
                    expected="steps, each a dict of arrays, or a dict of arrays with an axis of"
                    " steps",
                )


def first_arrays(source: object) -> Collection[str] | None:
    """Names of the arrays in a file, in the first file of a folder, or in a dict; else None."""
    if isinstance(source, Mapping):
        return [str(name) for name in source]
    if not isinstance(source, (str, os.PathLike)):
        return None
    path = Path(source)
    if path.is_dir():
        found = sorted(p for p in path.glob("*") if p.is_dir() or p.suffix in SUFFIXES)
        return first_arrays(found[0]) if found else None
    return read_arrays(path) if path.is_file() and path.suffix in SUFFIXES else None


def _from_path(
    path: Path, inputs: Inputs, state: Collection[str]
) -> Iterator[tuple[str, Iterator[Mapping[str, Any]]]]:
    if not path.exists():
        raise InputError(f"there is no calibration file or folder {path}")
    if not path.is_dir():
        yield from _from_arrays(_read(path, inputs, state), inputs, state, str(path))
        return
    folders = sorted(inner for inner in path.iterdir() if inner.is_dir() and _files(inner))
    for folder in folders:
        yield str(folder), (_read(file, inputs, state) for file in _files(folder))
    if not folders:
        for file in _files(path):
            yield from _from_arrays(_read(file, inputs, state), inputs, state, str(file))


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix in SUFFIXES)


def _read(path: Path, inputs: Inputs, state: Collection[str]) -> dict[str, Array]:
    arrays = read_arrays(path)
    if "" in arrays:
        free = [name for name in inputs if name not in state]
        if len(free) != 1:
            raise InputError(
                f"{path} is one array",
                expected="an .npz file with " + ", ".join(map(repr, free)),
            )
        arrays = {free[0]: arrays[""]}
    return arrays


def _from_arrays(
    arrays: Mapping[str, Any], inputs: Inputs, state: Collection[str], where: str
) -> Iterator[tuple[str, Iterator[Mapping[str, Any]]]]:
    """One sequence, or several that lie along axis 0."""
    content = {name: np.asarray(value) for name, value in arrays.items()}
    more = {
        name: content[name].ndim - len(spec.shape)
        for name, spec in inputs.items()
        if name in content and spec.is_tensor
    }
    if 2 not in more.values():
        yield where, _steps(content, inputs, state, where)
        return
    counts = {name: len(content[name]) for name, axes in more.items() if axes == 2}
    if len(set(counts.values())) != 1:
        raise InputError(
            f"{where} has " + ", ".join(f"{count} of {name!r}" for name, count in counts.items()),
            expected="as many sequences of each",
        )
    (count,) = set(counts.values())
    for number in range(count):
        one = {
            # what has no axis of steps may still have one of sequences
            name: array[number]
            if more.get(name) == 2 or (more.get(name) in (1, None) and array.shape[:1] == (count,))
            else array
            for name, array in content.items()
        }
        yield f"sequence {number} of {where}", _steps(one, inputs, state, where)


def _steps(
    arrays: Mapping[str, Array], inputs: Inputs, state: Collection[str], where: str
) -> Iterator[Mapping[str, Any]]:
    counts = {
        name: len(arrays[name])
        for name, spec in inputs.items()
        if name in arrays and name not in state and arrays[name].ndim == len(spec.shape) + 1
    }
    if len(set(counts.values())) > 1:
        raise InputError(
            f"{where} has " + ", ".join(f"{count} of {name!r}" for name, count in counts.items()),
            expected="as many steps of each",
        )
    count = max(counts.values(), default=1)
    cut = {*counts, *(n for n, a in arrays.items() if n not in inputs and a.shape[:1] == (count,))}
    for step in range(count):
        yield {
            name: array[step] if name in cut else array
            for name, array in arrays.items()
            if name not in state or step == 0
        }
