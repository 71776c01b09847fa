"""The search for the fastest parameters of a family of kernels on a device."""

from __future__ import annotations

import dataclasses
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from tools.kernel_case import Array, Case, Launcher, Timing, module, run
from tools.kernel_families import Family, Values, evaluate
from tools.kernel_params import class_of

__all__ = ["Group", "Limits", "Outcome", "Rig", "groups", "search"]

Parameters = dict[str, int]
Expected = Mapping[str, tuple[Array, Array | float]]

_REPEATS = 3
_HOPELESS = 1.5  # what takes so much longer than the best at the first run is not run again
_EPILOGUE = {"ACT", "BIAS", "RESIDUAL"}  # a few operations an output: they decide nothing
_SEED = 5


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a device takes.

    Args:
        items: work-items in a group.
        local_bytes: local memory.
    """

    items: int
    local_bytes: int


@dataclasses.dataclass(frozen=True)
class Group:
    """Launches that get the same parameters.

    Args:
        family: of the kernels.
        size_class: of the descriptor, or "".
        options: that the parameters hold for, and that differ from the defaults.
        timings: the launches.
    """

    family: Family
    size_class: str
    options: Values
    timings: tuple[Timing, ...]

    @property
    def name(self) -> str:
        """Short, for people and for the journal."""
        options = ", ".join(f"{key}={value}" for key, value in sorted(self.options.items()))
        return ", ".join(filter(None, (self.family.name, self.size_class, options)))


def groups(family: Family) -> list[Group]:
    """The launches of a family whose time matters, by class of sizes and options."""
    found: dict[tuple[str, tuple[tuple[str, int], ...]], list[Timing]] = {}
    dependent = {*family.table.get("from_sizes", ()), *_EPILOGUE}
    for timing in module(family.name).TIMED:
        own = {k: v for k, v in timing.options.items() if k not in dependent}
        own = {k: v for k, v in own.items() if v != family.defaults[k]}
        key = class_of(family, timing.options, timing.sizes), tuple(sorted(own.items()))
        found.setdefault(key, []).append(timing)
    return [
        Group(family, name, dict(options), tuple(timings))
        for (name, options), timings in found.items()
    ]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What one assignment of parameters gave.

    Args:
        parameters: all of the family.
        seconds: of each launch of the group, by name; empty where one failed.
        error: why it failed, or "".
    """

    parameters: Parameters
    seconds: Mapping[str, float] = dataclasses.field(default_factory=dict)
    error: str = ""

    @property
    def cost(self) -> float:
        """Mean of the logarithms of the seconds; infinite where it failed."""
        if self.error or not self.seconds:
            return math.inf
        return sum(map(math.log, self.seconds.values())) / len(self.seconds)


class Rig:
    """Runs and checks the launches of a group.

    Args:
        group: the launches.
        launch: runs a kernel on the device.
        limits: of the device.
        failures: what `launch` raises where parameters do not suit the device.
    """

    def __init__(
        self,
        group: Group,
        launch: Launcher,
        limits: Limits,
        failures: tuple[type[Exception], ...] = (),
    ) -> None:
        self.group = group
        self._launch, self._limits, self._failures = launch, limits, failures
        self._known: dict[str, Expected] = {}

    def start(self) -> Parameters:
        """The parameters that the descriptor gives."""
        one = self.group.timings[0]
        chosen = self.group.family.choose(one.options, one.sizes)
        return {name: chosen[name] for name in self.group.family.table["parameters"]}

    def neighbours(self, parameters: Parameters) -> Iterator[Parameters]:
        """Allowed assignments that differ in one parameter."""
        for name, about in self.group.family.table["parameters"].items():
            for value in about["values"]:
                found = {**parameters, name: value}
                if value != parameters[name] and self.allows(found):
                    yield found

    def scattered(self) -> Iterator[Parameters]:
        """Every assignment that the descriptor and the device allow, in an order of no meaning."""
        table = self.group.family.table["parameters"]
        spaces = [table[name]["values"] for name in table]
        numbers = list(range(math.prod(map(len, spaces))))
        random.Random(_SEED).shuffle(numbers)
        for number in numbers:
            each = []
            for space in spaces:
                number, place = divmod(number, len(space))
                each.append(space[place])
            found = dict(zip(table, each, strict=True))
            if self.allows(found):
                yield found

    def allows(self, parameters: Parameters) -> bool:
        """Whether all launches of the group may have these parameters."""
        return all(self._fits({**self._values(one), **parameters}, one.sizes) for one in self._all)

    def measure(self, parameters: Parameters, best: float = math.inf) -> Outcome:
        """Run every launch, check its result, and take the shortest of a few times.

        Args:
            parameters: all of the family.
            best: cost of the best so far.
        """
        seconds: dict[str, float] = {}
        for timing in self._all:
            case = module(self.group.family.name).make(
                {**self._values(timing), **parameters}, timing.sizes
            )
            try:
                buffers, first = run(case, self._launch)
                if why := self._wrong(timing, case, buffers):
                    return Outcome(parameters, error=why)
                seconds[timing.name] = self._repeated(case, first, best)
            except self._failures as error:
                return Outcome(parameters, error=str(error).splitlines()[0][:200])
        return Outcome(parameters, seconds)

    @property
    def _all(self) -> Sequence[Timing]:
        return self.group.timings

    def _values(self, timing: Timing) -> dict[str, int]:
        return {**self.group.family.defaults, **timing.options}

    def _fits(self, values: Values, sizes: Values) -> bool:
        family = self.group.family
        if not family.legal({**values, **sizes}):
            return False
        known = family.derived({**values, **sizes})
        for shape in family.table["kernels"].values():
            items = math.prod(evaluate(one, known) for one in shape["local"])
            local = evaluate(shape.get("local_bytes", "0"), known)
            if items > self._limits.items or local > self._limits.local_bytes:
                return False
        return True

    def _wrong(self, timing: Timing, case: Case, buffers: Mapping[str, Array]) -> str:
        """Why a result is wrong, or "". The reference is computed once for all parameters."""
        if timing.name not in self._known:
            self._known[timing.name] = case.expected()
        known = self._known[timing.name]
        worst = dataclasses.replace(case, expected=lambda: known).worst(buffers)
        return "" if worst <= 1.0 else f"{timing.name}: {worst:.3g} times the bound off"

    def _repeated(self, case: Case, first: float, best: float) -> float:
        if math.isfinite(best) and len(self._all) == 1 and first > _HOPELESS * math.exp(best):
            return first
        return min(first, *(run(case, self._launch)[1] for _ in range(_REPEATS - 1)))


def search(
    rig: Rig,
    seconds: float,
    known: Sequence[Outcome],
    note: Callable[[Outcome], Any],
    clock: Callable[[], float] = time.monotonic,
) -> tuple[Outcome, Outcome, bool]:
    """Climb from the default to neighbours that are faster, then from random places.

    Args:
        rig: measures.
        seconds: time for it; the default is measured in any case.
        known: outcomes of earlier calls.
        note: told of each new outcome.
        clock: seconds.

    Returns:
        The default's outcome, the best, and whether nothing is left to try.
    """
    end = clock() + seconds
    seen = {_key(one.parameters): one for one in known}

    def outcome(parameters: Parameters, best: float = math.inf) -> Outcome:
        if _key(parameters) not in seen:
            seen[_key(parameters)] = one = rig.measure(parameters, best)
            note(one)
        return seen[_key(parameters)]

    default = outcome(rig.start())
    best = min([default, *seen.values()], key=lambda one: one.cost)
    anywhere = rig.scattered()
    while clock() < end:
        near = (one for one in rig.neighbours(best.parameters) if _key(one) not in seen)
        elsewhere = (one for one in anywhere if _key(one) not in seen)  # goes on where it was
        following = next(near, None) or next(elsewhere, None)
        if following is None:
            return default, best, True
        best = min(best, outcome(following, best.cost), key=lambda one: one.cost)
    return default, best, False


def _key(parameters: Parameters) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(parameters.items()))
