"""Seeded inputs that a model accepts, for when the user gives no data."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim_rx.errors import InputError
from onnxslim_rx.ir import load
from onnxslim_rx.runtime import Runner, check_state, guess_state
from onnxslim_rx.verify.facts import Facts, find_facts
from onnxslim_rx.verify.measures import is_float
from onnxslim_rx.verify.parts import flatten
from onnxslim_rx.verify.sizes import axis_key, concrete_shape, open_axes, total_sizes
from onnxslim_rx.verify.values import Draw, Maker, makers

__all__ = ["Dataset", "generate_inputs"]

Array = npt.NDArray[Any]
Dataset = list[dict[str, Array]]

_MOST_TRIES = 300
_MOST_SPOILT = 10  # settings that run but give NaN; more will not help
_SHORTEST, _LONGEST = 8, 64  # steps of a sequence whose length is open
_CHAIN = 8  # steps before a model with state starts afresh
_ADVICE = "give samples of your own with --calibration"


def generate_inputs(
    model: ir.Model | str | os.PathLike[str],
    *,
    samples: int = 8,
    seed: int = 0,
    state: Mapping[str, str] | None = None,
    runner: Runner | None = None,
) -> Dataset:
    """Inputs that the model accepts: legal token ids, masks of ones, smooth images, state.

    Sizes and values are taken from names, types and what the graph does with each input, tried
    with onnxruntime, and replaced by others until the model runs. Sequences have between 8 and
    64 steps where their length is open. Outputs that are state come back as inputs of the next
    sample; after 8 steps the state is zero again.

    Args:
        model: the model, or the path of its file.
        samples: number of samples, at least 1.
        seed: of everything random.
        state: `{input: output}` for state that is fed back; None guesses by names and shapes.
        runner: of the same model, to save making one.

    Raises:
        InputError: no values were found with which the model runs.
    """
    runner = Runner(model) if runner is None else runner
    facts = find_facts(model if isinstance(model, ir.Model) else load(model))
    if state is None:
        state = guess_state(runner.inputs, runner.outputs)
    else:
        check_state(state, runner.inputs, runner.outputs)
    source = _Source(runner, {name: facts.get(name, Facts()) for name in runner.inputs}, state)
    return source.sequence(samples, seed)


@dataclasses.dataclass(frozen=True)
class _Setting:
    """One way to make samples: a size for each open axis and a maker for each free input."""

    sizes: Mapping[str, int]
    makers: Mapping[str, Maker]


class _Source:
    """Makes samples for one model."""

    def __init__(
        self, runner: Runner, facts: Mapping[str, Facts], state: Mapping[str, str]
    ) -> None:
        self.runner = runner
        self.state = state
        self.axes = open_axes(runner.inputs, facts, state)
        self.makers = {
            name: makers(spec, facts[name])
            for name, spec in runner.inputs.items()
            if name not in state
        }
        self.why = ""  # the model did not run with what was tried last
        for name, options in self.makers.items():
            if not options:
                raise InputError(
                    f"no values can be made for the input {name!r} ({runner.inputs[name]})",
                    advice=_ADVICE,
                )

    def sequence(self, samples: int, seed: int) -> Dataset:
        """`samples` samples, each of which the model was run on."""
        setting = self._first_that_runs(seed)
        data: Dataset = []
        carried: dict[str, Array] = {}
        for index in range(samples):
            if index % _CHAIN == 0:
                carried = {}
            varied = self._varied(setting, [seed, index], carried)
            for chosen, before in (
                (varied, carried),
                (setting, carried),
                (varied, {}),
                (setting, {}),
            ):
                sample = self._sample(chosen, before, [seed, index])
                outputs = self._run(sample)
                if outputs is not None:
                    break
            else:
                raise self._refusal()
            data.append(sample)
            carried = {name: outputs[output] for name, output in self.state.items()}
        return data

    def _first_that_runs(self, seed: int) -> _Setting:
        """The likeliest setting with which the model runs, without NaN if there is one."""
        spoilt: list[_Setting] = []
        for setting in itertools.islice(self._settings(), _MOST_TRIES):
            outputs = self._run(self._sample(setting, {}, [seed, 0]))
            if outputs is None:
                continue
            if not _has_nan(outputs):
                return setting
            spoilt.append(setting)
            if len(spoilt) == _MOST_SPOILT:
                break
        if not spoilt:
            raise self._refusal()
        return spoilt[0]

    def _settings(self) -> Iterator[_Setting]:
        """Settings from the likeliest on: with no, one, two ... unlikely choices.

        Axes of a kind are chosen together, and apart where that does not help.
        """
        kinds = dict.fromkeys(axis.kind for axis in self.axes)
        options = {k: max(len(a.options) for a in self.axes if a.kind == k) for k in kinds}
        apart = [axis for axis in self.axes if sum(a.kind == axis.kind for a in self.axes) > 1]
        counts: dict[Hashable, int] = {
            **{("kind", kind): options[kind] for kind in kinds},
            **{("maker", name): len(made) for name, made in self.makers.items()},
            **{("axis", axis.key): len(axis.options) for axis in apart},
        }
        for pick in _by_changes(counts):
            sizes = {}
            for axis in self.axes:
                if axis.options:
                    index = pick["kind", axis.kind] + pick.get(("axis", axis.key), 0)
                    sizes[axis.key] = axis.options[index % len(axis.options)]
            chosen = {name: made[pick["maker", name]] for name, made in self.makers.items()}
            yield _Setting(sizes, chosen)

    def _varied(
        self, setting: _Setting, seed: Sequence[int], carried: Mapping[str, Array]
    ) -> _Setting:
        """`setting` with sequences of another length; of one step where a state grows."""
        length = int(np.random.default_rng([*seed, 1]).integers(_SHORTEST, _LONGEST + 1))
        if carried and any(axis.kind == "past" for axis in self.axes):
            length = 1
        sizes = dict(setting.sizes)
        for axis in self.axes:
            if axis.kind == "sequence" and _SHORTEST <= sizes[axis.key] <= _LONGEST:
                sizes[axis.key] = length
        return dataclasses.replace(setting, sizes=sizes)

    def _sample(
        self, setting: _Setting, carried: Mapping[str, Array], seed: Sequence[int]
    ) -> dict[str, Array]:
        sizes = dict(setting.sizes)
        for name, array in carried.items():
            spec = self.runner.inputs[name]
            for axis, dim in enumerate(spec.shape):
                if not isinstance(dim, int):
                    sizes[axis_key(spec, axis)] = array.shape[axis]
        sizes = total_sizes(self.axes, sizes)
        past = max((sizes[axis.key] for axis in self.axes if axis.kind == "past"), default=0)
        rng = np.random.default_rng(list(seed))
        sample = {}
        for name, spec in self.runner.inputs.items():
            shape = concrete_shape(spec, sizes)
            if name in setting.makers:
                sample[name] = setting.makers[name](Draw(rng, shape, sizes, past))
            else:
                sample[name] = carried[name] if name in carried else np.zeros(shape, spec.dtype)
        return sample

    def _run(self, sample: Mapping[str, Array]) -> dict[str, Any] | None:
        try:
            return self.runner(sample)
        except InputError as error:
            self.why = error.found
            return None

    def _refusal(self) -> InputError:
        names = ", ".join(f"{name!r} ({self.runner.inputs[name]})" for name in self.makers)
        plural = "s" if len(self.makers) > 1 else ""
        return InputError(
            f"no values were found for the input{plural} {names} with which the model runs"
            f" (at last: {self.why})",
            advice=_ADVICE,
        )


def _by_changes(counts: Mapping[Hashable, int]) -> Iterator[dict[Hashable, int]]:
    """All choices of an index below each count: all 0 first, then with one that is not 0, ..."""
    for changes in range(len(counts) + 1):
        for changed in itertools.combinations(counts, changes):
            for indexes in itertools.product(*(range(1, counts[key]) for key in changed)):
                yield {**dict.fromkeys(counts, 0), **dict(zip(changed, indexes, strict=True))}


def _has_nan(outputs: Mapping[str, Any]) -> bool:
    arrays = [array for name, value in outputs.items() for _, array in flatten(name, value)]
    return any(is_float(array.dtype) and np.isnan(array).any() for array in arrays)
