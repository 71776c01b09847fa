"""Data that raises, runs out or does not fit: one clear line, and what was measured is kept."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from onnxslim_rx import calibration
from onnxslim_rx.calibration import Stateful, blocks, from_callable, load_data, split
from onnxslim_rx.errors import InputError
from onnxslim_rx.runtime import Runner

Array = npt.NDArray[Any]
Sample = dict[str, Array]
WIDTH, DEPTH = 12, 4


@pytest.fixture
def model(rng: np.random.Generator, chain: Any) -> ir.Model:
    return chain(rng, DEPTH, WIDTH)  # type: ignore[no-any-return]


@pytest.fixture
def samples(rng: np.random.Generator) -> list[Sample]:
    return [{"x": rng.standard_normal((7, WIDTH)).astype(np.float32)} for _ in range(4)]


class Moody:
    """A data set of the user, which raises at `at` when asked often enough."""

    def __init__(self, samples: list[Sample], at: int, error: Exception, asked: int = 1) -> None:
        self.samples, self.at, self.error, self.asked = samples, at, error, asked

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, number: int) -> Sample:
        self.asked -= number == self.at
        if number == self.at and self.asked <= 0:
            raise self.error
        return self.samples[number]


def raising(samples: list[Sample], error: Exception) -> Iterator[Sample]:
    yield from samples[:2]
    raise error


class NoIterator:
    def __iter__(self) -> Iterator[Sample]:
        raise OSError("no disk")


def one_line(message: str, call: Callable[[], object]) -> InputError:
    """The error of `call`: one line that says what is expected or what to do."""
    with pytest.raises(InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    assert caught.value.expected or caught.value.advice
    return caught.value


MAKERS: dict[str, Callable[[list[Sample], Exception], Any]] = {
    "a generator": raising,
    "a sequence": lambda samples, error: Moody(samples, 2, error),
    "a function": lambda samples, error: raising(samples, error).__next__,
    "a function, so often": lambda samples, error: from_callable(
        raising(samples, error).__next__, 4
    ),
}


@pytest.mark.parametrize("error", [ValueError("bad\nluck"), IndexError("out"), KeyError("x")])
@pytest.mark.parametrize("kind", MAKERS)
def test_data_that_raises_midway(
    model: ir.Model, samples: list[Sample], kind: str, error: Exception
) -> None:
    inputs = Runner(model).inputs
    message = f"the calibration data raised {type(error).__name__} at sample 2: "
    found = one_line(message, lambda: load_data(MAKERS[kind](samples, error), inputs))
    assert found.expected == "samples until the data ends"
    assert found.__cause__ is error


def test_data_that_cannot_even_begin(model: ir.Model) -> None:
    one_line(
        "raised OSError at sample 0: no disk", lambda: load_data(NoIterator(), Runner(model).inputs)
    )


def test_a_data_set_shorter_than_it_says_is_not_cut_short(
    model: ir.Model, samples: list[Sample]
) -> None:
    """An IndexError ends the loop over a sequence, and must not end that over the samples."""

    class Liar(list[Sample]):
        def __len__(self) -> int:
            return 9

    one_line(
        "raised IndexError at sample 4: list index out of range",
        lambda: load_data(Liar(samples), Runner(model).inputs),
    )


def test_sequences_of_steps_that_raise(model_of: Any) -> None:
    model = model_of(
        "float[1,3] x, float[1,3] state => float[1,3] y, float[1,3] stateN",
        "stateN = Add(x, state) y = Relu(stateN)",
    )
    runner = Runner(model)
    step = {"x": np.ones((1, 3), np.float32)}

    def steps() -> Iterator[Sample]:
        yield step
        raise ZeroDivisionError("never mind")

    def sequences() -> Iterator[list[Sample]]:
        yield [step]
        yield [step]
        raise OSError("the disk is gone")

    found = one_line(
        "raised ZeroDivisionError at calibration sequence 1, step 1: never mind",
        lambda: load_data(Stateful([[step], steps()]), runner.inputs, runner),
    )
    assert isinstance(found.__cause__, ZeroDivisionError)
    one_line(
        "raised OSError at sequence 2: the disk is gone",
        lambda: load_data(Stateful(sequences()), runner.inputs, runner),
    )


@pytest.mark.parametrize("ranges", [False, True])
def test_what_was_measured_before_data_raised_is_kept(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    model: ir.Model,
    layers_of: Any,
    samples: list[Sample],
    ranges: bool,
) -> None:
    ran: list[tuple[str, ...]] = []
    run = blocks.run_step

    def noting(model: ir.Model, step: Any, *rest: Any) -> None:
        run(model, step, *rest)
        ran.append(tuple(str(reading.value.name) for reading in step.measures))

    module = importlib.import_module("onnxslim_rx.calibration.collect")
    monkeypatch.setattr(module, "run_step", noting)
    layers = layers_of(model)

    def collect(data: Any, cache: Path | None = tmp_path) -> calibration.Statistics:
        loaded = load_data(data, Runner(model).inputs)
        return calibration.collect(
            model, layers, loaded, memory_bytes=1, cache=cache, ranges=ranges
        )

    expected = collect(samples, None)
    every, ran[:] = list(ran), []
    # read to be checked, for the key and for the shapes, and then in each step
    moody = Moody(samples, 3, OSError("the network is gone"), asked=6)
    one_line("raised OSError at sample 3: the network is gone", lambda: collect(moody))
    before, ran[:] = list(ran), []
    assert before == every[: len(before)]
    assert len(before) == 2
    again = collect(Moody(samples, 3, OSError(), asked=99))
    assert ran == every[len(before) :]
    for name, one in expected.items():
        assert one.gram is not None
        np.testing.assert_array_equal(again[name].gram, one.gram)
    assert not list(tmp_path.glob("*.partial"))


def test_other_entries_of_the_cache_outlive_data_that_fails(
    tmp_path: Path, model: ir.Model, layers_of: Any, samples: list[Sample]
) -> None:
    layers = layers_of(model)
    calibration.collect(model, layers, samples, cache=tmp_path)
    kept = sorted(path.name for path in tmp_path.rglob("*"))
    bad = [*samples[:3], {"x": np.full((2, WIDTH), np.inf, np.float32)}]
    one_line(
        "NaN or infinity at 'h0' on calibration sample 3",
        lambda: calibration.collect(model, layers, bad, cache=tmp_path),
    )
    assert sorted(path.name for path in tmp_path.rglob("*")) == kept


CASES: dict[str, tuple[Mapping[str, Any] | list[Any], str]] = {
    "nothing": ([], "the calibration data is empty; expected at least one sample"),
    "infinity": ([{"x": np.full((1, WIDTH), np.inf)}], "holds NaN or infinity; expected finite"),
    "another name": ([{"y": np.ones((1, WIDTH))}], "no array for 'x'.*rename 'y' to 'x'"),
    "another width": ([{"x": np.ones((1, 5))}], r"has shape \[1, 5\]; expected float32\[N, 12\]"),
    "another rank": ([{"x": np.ones((1, 2, 2, 12))}], r"has shape \[1, 2, 2, 12\]; expected"),
    "another type": ([{"x": np.ones((1, WIDTH), int)}], r"has type int64; expected float32"),
    "ragged": ([{"x": [[1.0], [1.0, 2.0]]}], "cannot become an array"),
}


@pytest.mark.parametrize("case", CASES)
def test_data_that_does_not_fit(model: ir.Model, case: str) -> None:
    data, message = CASES[case]
    one_line(message, lambda: load_data(data, Runner(model).inputs))


@pytest.mark.parametrize("count", [1, 7])
def test_few_samples_are_used_and_said_to_prove_little(samples: list[Sample], count: int) -> None:
    parts = split((samples * 2)[:count], 0)
    assert parts.weak
    assert f"with {count} calibration sample" in parts.reason
    assert "8 or more" in parts.reason


def test_one_sample_has_ranges(model: ir.Model, layers_of: Any, samples: list[Sample]) -> None:
    found = calibration.collect(model, layers_of(model), samples[:1], ranges=True)
    for one in found.values():
        assert one.entering is not None
        assert one.leaving is not None
        assert one.entering.counts.sum() == 7 * WIDTH
