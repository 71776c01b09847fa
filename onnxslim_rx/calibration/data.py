"""Calibration data: from files, folders, functions or iterables to samples that fit the model."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from onnxslim_rx.calibration.arrays import SUFFIXES, read_arrays
from onnxslim_rx.calibration.complaints import blaming, guarded
from onnxslim_rx.calibration.feeds import conform
from onnxslim_rx.calibration.samples import Dataset, Sample, Samples
from onnxslim_rx.calibration.stacks import unstack
from onnxslim_rx.calibration.stateful import Stateful, is_stateful
from onnxslim_rx.errors import InputError
from onnxslim_rx.ir import ModelLike, load
from onnxslim_rx.progress import task
from onnxslim_rx.runtime import Runner, TensorSpec

__all__ = [
    "Calibration", "Source", "from_callable", "from_dir", "from_npz", "load_data",
]  # fmt: skip

Array = npt.NDArray[Any]
Inputs = Mapping[str, TensorSpec]

_MOST_CALLS = 1024  # of a function without a stated number, so that an endless one ends


@dataclasses.dataclass(frozen=True)
class Source:
    """Calibration data that waits for a model, whose inputs say how to read it.

    Args:
        open: makes samples that fit the given inputs.
        path: the file or folder they come from; None: something else.
    """

    open: Callable[[Inputs], Samples]
    path: Path | None = None

    def bind(self, model: ModelLike | None) -> Source | Dataset:
        """The samples for `model`, or the source itself where there is none yet."""
        if model is None:
            return self
        runner = Runner(load(model))
        return load_data(self, runner.inputs, runner)


class Indexed(Protocol):
    """What has numbered samples: a list, or a data set of another library."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int, /) -> Mapping[str, Any]: ...


Calibration = (
    str
    | os.PathLike[str]
    | Source
    | Stateful
    | Array
    | Mapping[str, Any]
    | Iterable[Mapping[str, Any]]
    | Indexed
    | Callable[[], Mapping[str, Any] | None]
)
"""Whatever `load_data` reads."""


def from_npz(path: str | os.PathLike[str], model: ModelLike | None = None) -> Source | Dataset:
    """Samples from an .npz file of stacked arrays by input name (or .npy, for one input).

    Raises:
        InputError: the file is missing or damaged, or does not fit `model`.
    """
    return Source(lambda inputs: _from_file(Path(path), inputs), Path(path)).bind(model)


def from_dir(path: str | os.PathLike[str], model: ModelLike | None = None) -> Source | Dataset:
    """Samples from a folder: each .npz or .npy file is one complete sample, in order of names.

    Raises:
        InputError: the folder is missing or empty, or a file does not fit `model`.
    """
    return Source(lambda inputs: _from_folder(Path(path), inputs), Path(path)).bind(model)


def from_callable(
    function: Callable[[], Mapping[str, Any] | None],
    n: int | None = None,
    model: ModelLike | None = None,
) -> Source | Dataset:
    """Samples from `function()`, called `n` times or until it returns None.

    Without `n` it is called at most 1,024 times. The samples are kept in memory.

    Raises:
        InputError: the function raises, or a sample does not fit `model`.
    """
    calls = _MOST_CALLS if n is None else n
    return Source(lambda inputs: _from_iterable(_call(function, calls), inputs)).bind(model)


def load_data(
    calibration: Calibration | None, inputs: Inputs, runner: Runner | None = None
) -> Dataset:
    """The samples in `calibration`, every one checked against the model's `inputs`.

    Accepted are:

    - a path to an .npz file: arrays by input name, samples stacked along axis 0 (see `unstack`);
      a path to an .npy file for a model of one input; a dict of such arrays;
    - a path to a folder: each .npz or .npy file is one complete sample, in order of names;
    - a sequence or iterable of samples, each a dict of arrays by input name; a function that
      returns a sample a call and None at the end (at most 1,024 calls);
    - a `Stateful` with sequences of steps for a model with state. Paths and dicts of arrays are
      read in this way, too, where the model has state and none of it is among the arrays.

    Large files are memory-mapped; a sample is made when it is asked for. Arrays that are no
    inputs (labels) stay in the samples; `fed` leaves them out. None gives no samples.

    Args:
        calibration: the data.
        inputs: what the model takes.
        runner: the model, which runs to find the state before each step.

    Raises:
        InputError: nothing there, wrong names, types, shapes or counts, NaN, damaged files.
    """
    if calibration is None:
        return []
    samples = _open(calibration, inputs, runner)
    if not samples:
        raise InputError(
            "the calibration data is empty", expected="at least one sample, better 128 or more"
        )
    with task("read calibration data", len(samples)) as advance:
        for _ in samples:  # every sample is made, and so checked, once
            advance(1)
    return samples


def _open(calibration: Any, inputs: Inputs, runner: Runner | None) -> Samples:
    origin = calibration.path if isinstance(calibration, Source) else calibration
    if origin is not None and runner is not None and is_stateful(origin, runner):
        calibration = Stateful(origin)
    if isinstance(calibration, Stateful):
        if runner is None:
            raise InputError("steps of a model with state cannot be read without the model")
        return calibration.unroll(runner)
    if isinstance(calibration, (str, os.PathLike)):
        path = Path(calibration)
        if not path.exists():
            raise InputError(f"there is no calibration file or folder {path}")
        return _from_folder(path, inputs) if path.is_dir() else _from_file(path, inputs)
    if isinstance(calibration, Source):
        return calibration.open(inputs)
    if isinstance(calibration, np.ndarray):
        calibration = {_only(inputs, "the calibration array"): calibration}
    if isinstance(calibration, Mapping):
        arrays = {name: np.asarray(value) for name, value in calibration.items()}
        return _from_stack(arrays, inputs, "the calibration data")
    if hasattr(calibration, "__len__") and hasattr(calibration, "__getitem__"):
        return _from_sequence(calibration, inputs)
    if isinstance(calibration, Iterable):
        return _from_iterable(calibration, inputs)
    if callable(calibration):
        return _from_iterable(_call(calibration, _MOST_CALLS), inputs)
    raise InputError(
        f"the calibration data is a {type(calibration).__name__}",
        expected="a path, an iterable of dicts of arrays, or a function that returns them",
    )


def _from_file(path: Path, inputs: Inputs) -> Samples:
    if path.suffix not in SUFFIXES:
        raise InputError(
            f"the calibration file {path} is of an unknown kind",
            expected="a file that ends in .npz or .npy, or a folder of such files",
        )
    return _from_stack(_arrays(path, inputs), inputs, str(path))


def _from_stack(arrays: Mapping[str, Array], inputs: Inputs, where: str) -> Samples:
    count, take = unstack(arrays, inputs, where)
    return Samples(lambda i: conform(take(i), inputs, f"sample {i} of {where}"), range(count))


def _from_folder(path: Path, inputs: Inputs) -> Samples:
    try:
        files = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES)
    except OSError as error:
        raise InputError(f"cannot read the calibration folder {path}: {error.strerror}") from error
    if not files:
        raise InputError(
            f"the calibration folder {path} has no samples", expected=".npz or .npy files"
        )
    return Samples(
        lambda i: conform(_arrays(files[i], inputs), inputs, str(files[i])), range(len(files))
    )


def _arrays(path: Path, inputs: Inputs) -> dict[str, Array]:
    arrays = read_arrays(path)
    return {name or _only(inputs, str(path)): array for name, array in arrays.items()}


def _only(inputs: Inputs, where: str) -> str:
    if len(inputs) != 1:
        raise InputError(
            f"{where} is one array",
            expected=", ".join(f"{name!r} as {spec}" for name, spec in inputs.items()),
            advice="use an .npz file or a dict with an array for each input",
        )
    return next(iter(inputs))


def _from_sequence(sequence: Indexed, inputs: Inputs) -> Samples:
    def get(number: int) -> Sample:
        # an IndexError of the user's code is not the end of the data
        with blaming(f"sample {number}"):
            return conform(sequence[number], inputs, f"calibration sample {number}")

    return Samples(get, range(len(sequence)))


def _from_iterable(iterable: Iterable[Any], inputs: Inputs) -> Samples:
    samples = [
        conform(sample, inputs, f"calibration sample {number}")
        for number, sample in enumerate(guarded(iterable, "sample"))
    ]
    return Samples(samples.__getitem__, range(len(samples)))


def _call(function: Callable[[], Any], calls: int) -> Iterator[Any]:
    for _ in range(calls):
        sample = function()
        if sample is None:
            return
        yield sample
