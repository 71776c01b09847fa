"""Cases: launches of kernels with known results, run alike by PoCL, oclgrind, emulator and tuner.

Each family NAME has a module `tools/kernel_cases/NAME.py` that holds three names:

* `TRIED`: pairs (options, sizes), small and odd: what is worth testing. The parameters are added
  by whoever runs them (the descriptor's classes, the shipped ones, corners).
* `TIMED`: `Timing`s, the launches whose time on gfx803 matters; the model and the tuner use them.
* `make(values, sizes) -> Case`: the case for any legal options and parameters and any sizes,
  deterministic (seed a generator with a constant).

Rules for `make`: every buffer has exactly the bytes that the kernel may touch (an access beyond
them is an error); outputs and workspaces begin as NaN, or as 0x7f bytes if they hold integers;
`expected` computes in float64 from the arrays that the kernel gets, and is called only where
results are checked (the tuner's sizes are large).
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from tools.kernel_families import Family, Values, family

__all__ = ["Array", "Case", "Launch", "Launcher", "Module", "Timing", "cases", "module", "run"]

Array = np.ndarray[Any, Any]


@dataclasses.dataclass(frozen=True)
class Launch:
    """One launch.

    Args:
        kernel: its name.
        arguments: in the kernel's order: names of buffers of the case, or numpy scalars.
        sizes: what differs from the case's sizes for this launch.
    """

    kernel: str
    arguments: tuple[str | np.generic, ...]
    sizes: Values = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Case:
    """Launches that compute something known.

    Args:
        name: short, for test ids.
        family: name of the family.
        values: all options and parameters.
        sizes: as the descriptor names them.
        buffers: contents before the first launch, by name.
        launches: in order.
        expected: gives (value, bound) by output buffer: float64 arrays (the bound may be a
            scalar), the kernel must be within value +- bound; where value is NaN it must be NaN.
        flops: multiplications and additions that the result needs.
        moved: bytes that must cross the memory bus at least once.
    """

    name: str
    family: str
    values: Values
    sizes: Values
    buffers: Mapping[str, Array]
    launches: tuple[Launch, ...]
    expected: Callable[[], Mapping[str, tuple[Array, Array | float]]]
    flops: int
    moved: int

    def worst(self, found: Mapping[str, Array]) -> float:
        """Greatest |found - expected| / bound over the outputs; <= 1 is right, NaN never is.

        Args:
            found: the buffers after the last launch.
        """
        return max(
            _ratio(found[name], value, bound) for name, (value, bound) in self.expected().items()
        )


def _ratio(found: Array, value: Array, bound: Array | float) -> float:
    if found.shape != value.shape:
        raise ValueError(f"shape {found.shape}, expected {value.shape}")
    if found.size == 0:
        return 0.0
    given = found.astype(np.float64)
    same = (given == value) | (np.isnan(given) & np.isnan(value))
    with np.errstate(all="ignore"):
        ratio = np.abs(given - value) / bound
    return float(np.where(same, 0.0, np.where(np.isnan(ratio), np.inf, ratio)).max())


@dataclasses.dataclass(frozen=True)
class Timing:
    """A launch whose time matters.

    Args:
        name: short.
        options: that differ from the defaults.
        sizes: as the descriptor names them.
    """

    name: str
    options: Values
    sizes: Values


class Module(Protocol):
    """What `tools/kernel_cases/NAME.py` holds."""

    TRIED: Sequence[tuple[Values, Values]]
    TIMED: Sequence[Timing]

    def make(self, values: Values, sizes: Values) -> Case:
        """The case for these values and sizes."""
        ...


class Launcher(Protocol):
    """Runs one launch: `tools.kernel_run.Device.launch`, or the emulator's."""

    def __call__(
        self,
        family: Family,
        kernel: str,
        values: Values,
        sizes: Values,
        arguments: Sequence[Array | np.generic],
        outputs: Sequence[int],
    ) -> Any:
        """An object with `outputs` (arrays) and `seconds`."""
        ...


@functools.cache
def module(name: str) -> Module:
    """The cases of the family `name`.

    Raises:
        ModuleNotFoundError: it has none.
    """
    return importlib.import_module(f"tools.kernel_cases.{name}")


def cases(name: str) -> Iterator[Case]:
    """The cases of `TRIED` with the parameters that the descriptor's classes give."""
    found, known = module(name), family(name)
    for options, sizes in found.TRIED:
        yield found.make(known.choose(options, sizes), sizes)


def run(case: Case, launch: Launcher) -> tuple[dict[str, Array], float]:
    """All buffers after the launches of `case`, and the seconds that these took together."""
    known = family(case.family)
    buffers = {name: np.ascontiguousarray(array) for name, array in case.buffers.items()}
    seconds = 0.0
    for one in case.launches:
        names = [name for name in one.arguments if isinstance(name, str)]
        places = [place for place, name in enumerate(one.arguments) if isinstance(name, str)]
        given = [buffers[each] if isinstance(each, str) else each for each in one.arguments]
        sizes = {**case.sizes, **one.sizes}
        timed = launch(known, one.kernel, case.values, sizes, given, places)
        # a buffer that is passed twice is read-only: the copies are the same
        buffers.update(zip(names, timed.outputs, strict=True))
        seconds += timed.seconds
    return buffers, seconds
