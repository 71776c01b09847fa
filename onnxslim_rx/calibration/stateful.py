"""Calibration of models with state: outputs of a step come back as inputs of the next.

The model runs step by step once, and the state before each step is kept on disk. From then on
each step is a sample like any other: the state is one of its inputs. So whatever works on samples
(blocks that run one after the other, measured sensitivities) works on steps, too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxslim_rx.calibration.feeds import conform
from onnxslim_rx.calibration.samples import Samples, Steps
from onnxslim_rx.calibration.sequences import Sequences, first_arrays, sequences_of
from onnxslim_rx.calibration.starts import completed, starts
from onnxslim_rx.calibration.states import StateStore
from onnxslim_rx.errors import InputError
from onnxslim_rx.progress import task
from onnxslim_rx.runtime import Runner, check_state, guess_state

__all__ = ["Stateful", "is_stateful"]

Array = npt.NDArray[Any]


@dataclasses.dataclass(frozen=True)
class Stateful:
    """Calibration data of a model with state: sequences of steps that run one after the other.

    The state before the first step is zero (and of length 0 where it grows), unless the first
    step gives it. A later step that gives a state sets it, too. An attention mask, positions and
    a switch for the cache that a model of language wants and a step does not give are filled in.

    Args:
        sequences: an iterable of sequences, each an iterable of steps, and each step a dict of
            arrays by input name; or arrays with an axis of steps, or a path (see
            `sequences_of`).
        state: `{input: output}` for what is fed back; None guesses by names, types and shapes:
            `past_key_values.0.key` from `present.0.key`, `state` from `stateN`, `h0` from `hn`.
    """

    sequences: Sequences
    state: Mapping[str, str] | None = None

    def unroll(self, runner: Runner) -> Samples:
        """Each step as a complete sample; `Samples.groups` says of which sequence.

        Raises:
            InputError: the model has no state, `state` does not fit it, a step does not, or
                onnxruntime fails.
        """
        if self.state is None:
            state = guess_state(runner.inputs, runner.outputs)
        else:
            state = dict(self.state)
            check_state(state, runner.inputs, runner.outputs)
        if not state:
            raise InputError(
                "no output of the model is recognised as the next state of an input",
                advice="give Stateful(..., state={input: output}), or plain samples",
            )
        store, rest, groups, follow = StateStore(), [], [], []
        free = {name: spec for name, spec in runner.inputs.items() if name not in state}
        with task("run step by step") as advance:
            for number, (where, steps) in enumerate(
                sequences_of(self.sequences, runner.inputs, state)
            ):
                for step, (sample, follows) in enumerate(_run(runner, state, steps, where)):
                    store.append({name: sample[name] for name in state}, first=step == 0)
                    rest.append({n: v for n, v in sample.items() if n in free or n not in state})
                    groups.append(number)
                    follow.append(follows)
                    advance(1)
        return Samples(
            lambda i: rest[i] | dict(store.read(i)), range(len(rest)), groups, Steps(state, follow)
        )


def is_stateful(calibration: object, runner: Runner) -> bool:
    """Whether files or arrays hold sequences: the model has state, and they have none."""
    names = first_arrays(calibration)
    if names is None:
        return False
    state = guess_state(runner.inputs, runner.outputs)
    return bool(state) and not any(name in names for name in state)


def _run(
    runner: Runner, state: Mapping[str, str], steps: Iterator[Mapping[str, Any]], where: str
) -> Iterator[tuple[dict[str, Any], bool]]:
    """The complete sample of each step, and whether its state is what the step before gave."""
    carried: dict[str, Any] = {}
    for number, step in enumerate(steps):
        place = f"step {number} of {where}"
        if not isinstance(step, Mapping):
            raise InputError(
                f"{place} is a {type(step).__name__}", expected="a dict of arrays by input name"
            )
        given = {name: np.asarray(value) for name, value in step.items()}
        if number == 0:
            sample, outputs = _first(runner, state, given, place)
        else:
            sample = conform(completed(carried | given, runner, state), runner.inputs, place)
            outputs = _outputs(runner, sample, place)
        yield sample, number > 0 and not given.keys() & state.keys()
        carried = {name: outputs[output] for name, output in state.items()}


def _first(
    runner: Runner, state: Mapping[str, str], given: Mapping[str, Array], place: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The first step with the first of the likely states with which the model runs."""
    why: InputError | None = None
    for start in starts(given, runner, state):
        sample = conform(completed({**start, **given}, runner, state), runner.inputs, place)
        try:
            return sample, _outputs(runner, sample, place)
        except InputError as error:
            why = why or error
    assert why is not None  # there is at least one start
    raise why


def _outputs(runner: Runner, sample: Mapping[str, Any], place: str) -> dict[str, Any]:
    try:
        return runner({name: sample[name] for name in runner.inputs})
    except InputError as error:
        raise InputError(f"the model does not run on {place}: {error}") from error
