"""Runs the machine code of gfx803 kernels in numpy, so that it can be tested without the card.

All waves run in step as long as they branch alike; they part where they do not, and meet again at
barriers. Scalar and vector arithmetic is the card's, bit by bit, except that denormal floats are
kept and that `v_exp_f32` and its like are rounded correctly. Memory is checked: an access that
leaves its buffer, or its group's local memory, is an error, as is an instruction that is not known.
Races are not looked for: oclgrind does that.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tools import isa_costs
from tools.isa_assembly import Instruction, Kernel
from tools.isa_compile import compile_family
from tools.isa_memory import local_step, memory_step
from tools.isa_scalar import scalar_load, scalar_step
from tools.isa_state import LANES, Array, Batch, Memory, UnknownError, read_scalar
from tools.isa_vector import vector_step
from tools.kernel_families import Family, Values

__all__ = ["Emulator", "Ran", "Trace", "launch"]

Group = tuple[int, int, int]
# what one wave ran: numbers of instructions; those of (local) memory come with their lines (clocks)
Trace = list[tuple[int, int]]
_MOST_WAVES = 512  # in step at once; more only cost memory


@dataclasses.dataclass(frozen=True)
class Ran:
    """What a launch did.

    Args:
        traces: what each wave of each group ran.
        touched: places of the arguments whose buffers were read or written.
    """

    traces: list[list[Trace]]
    touched: list[int]


@dataclasses.dataclass
class _Run:
    """A launch on its way: the instructions as functions, the traces by wave."""

    kernel: Kernel
    steps: list[Callable[[Batch], Any]]
    touches: list[bool]
    traces: dict[int, list[tuple[list[Any], int]]] = dataclasses.field(default_factory=dict)

    def until_barrier(self, batch: Batch) -> tuple[list[Batch], list[Batch]]:
        """Runs to the next barrier or the end; gives those at a barrier, and those that parted."""
        log, steps = batch.log, self.steps
        for column, wave in enumerate(batch.waves):
            self.traces.setdefault(int(wave), []).append((log, column))
        while True:
            pc = batch.pc
            log.append(pc)
            batch.pc = pc + 1
            outcome = steps[pc](batch)
            if outcome is None:
                continue
            if outcome == "end":
                return [], []
            if outcome == "barrier":
                return [batch], []
            return [], outcome

    def all(self, batch: Batch) -> None:
        """Runs to the end."""
        ready = [batch]
        while ready:
            waiting: list[Batch] = []
            while ready:
                stopped, parted = self.until_barrier(ready.pop())
                waiting += stopped
                ready += parted
            places = {one.pc for one in waiting}
            ready = [Batch.join([one for one in waiting if one.pc == pc]) for pc in places]

    def trace(self, wave: int) -> Trace:
        """What `wave` ran."""
        found: Trace = []
        for log, column in self.traces[wave]:
            entries = iter(log)
            for pc in entries:
                cost = next(entries)[column] if self.touches[pc] else 0
                found.append((pc, int(cost)))
        return found


def _steps(kernel: Kernel) -> list[Callable[[Batch], Any]]:
    return [_step(kernel, one) for one in kernel.code]


def _step(kernel: Kernel, one: Instruction) -> Callable[[Batch], Any]:
    kind = isa_costs.kind(one.op)
    if kind == "V":
        return vector_step(one)
    if kind == "L":
        return local_step(one)
    if kind == "M":
        return memory_step(one)
    if kind == "C":
        return scalar_load(one)
    if kind == "J":
        return _branch(kernel, one)
    if kind == "B":
        return lambda b: "barrier"
    if kind == "E":
        return lambda b: "end"
    if kind == "W" or one.op == "s_nop":
        return lambda b: None
    return scalar_step(one)


def _branch(kernel: Kernel, one: Instruction) -> Callable[[Batch], Any]:
    target = kernel.labels[one.operands[0]]
    vcc = read_scalar("vcc", True)
    conditions: dict[str, Callable[[Batch], Any]] = {
        "s_branch": lambda b: np.ones(b.waves.size, bool),
        "scc0": lambda b: ~b.scc.astype(bool),
        "scc1": lambda b: b.scc.astype(bool),
        "vccz": lambda b: vcc(b) == 0,
        "vccnz": lambda b: vcc(b) != 0,
        "execz": lambda b: ~b.active.any(axis=1),
        "execnz": lambda b: b.active.any(axis=1),
    }
    holds = conditions[one.op.removeprefix("s_cbranch_")]

    def step(b: Batch) -> list[Batch] | None:
        taken = holds(b)
        if taken.all():
            b.pc = target
        elif taken.any():
            parted = [b.pick(np.nonzero(chosen)[0]) for chosen in (taken, ~taken)]
            parted[0].pc = target
            return parted
        return None

    return step


def launch(
    kernel: Kernel,
    grid: Sequence[int],
    group: Sequence[int],
    arguments: Sequence[Array | np.generic],
    chosen: Sequence[Group] | None = None,
) -> Ran:
    """Run a kernel; arrays among the arguments are changed in place.

    Args:
        kernel: compiled for gfx803.
        grid: groups in x, y, z.
        group: work-items of a group in x, y, z.
        arguments: numpy scalars, and arrays that become buffers of just their bytes.
        chosen: which groups run; None: all.

    Returns:
        What ran, groups in the order of `chosen` (x first where that is None).

    Raises:
        UnknownError: an instruction is not known.
        IndexError: an access outside a buffer, or not aligned.
    """
    if kernel.scratch:
        raise UnknownError(f"{kernel.name} needs scratch memory")
    memory, (x, y, z) = Memory(), grid
    wanted = chosen or [(i, j, k) for k in range(z) for j in range(y) for i in range(x)]
    addresses = [memory.add(one) if isinstance(one, np.ndarray) else 0 for one in arguments]
    given = memory.add(_packed(kernel, arguments, addresses))
    packet = np.zeros(64, np.uint8)
    packet[4:10] = np.array(group, np.uint16).view(np.uint8)
    packet[12:24] = (np.array(grid) * np.array(group)).astype(np.uint32).view(np.uint8)
    pointers = {"kernarg_segment_ptr": given, "dispatch_ptr": memory.add(packet)}
    steps, waves = _steps(kernel), -(-int(np.prod(group)) // LANES)
    touches = [isa_costs.kind(one.op) in "LM" for one in kernel.code]
    many, traces = max(1, _MOST_WAVES // waves), []
    with np.errstate(all="ignore"):
        for start in range(0, len(wanted), many):
            some = wanted[start : start + many]
            run = _Run(kernel, steps, touches)
            run.all(_first(kernel, some, group, pointers, memory))
            traces += [
                [run.trace(number * waves + wave) for wave in range(waves)]
                for number in range(len(some))
            ]
    touched = [place for place, one in enumerate(addresses) if one and memory.touched(one)]
    for place in touched:
        array = np.asarray(arguments[place])
        array.reshape(-1).view(np.uint8)[:] = memory.contents(addresses[place])
    return Ran(traces, touched)


def _packed(
    kernel: Kernel, arguments: Sequence[Array | np.generic], addresses: Sequence[int]
) -> Array:
    """The arguments as the kernel reads them; hidden ones are 0."""
    places = [one for one in kernel.arguments if not one.hidden]
    if len(places) != len(arguments):
        raise ValueError(f"{kernel.name} takes {len(places)} arguments, not {len(arguments)}")
    packed = np.zeros(max(kernel.argument_bytes, 4), np.uint8)
    for place, one, address in zip(places, arguments, addresses, strict=True):
        data = np.uint64(address).tobytes() if isinstance(one, np.ndarray) else one.tobytes()
        if len(data) != place.size:
            raise ValueError(f"{kernel.name} takes {place.size} bytes at {place.offset}")
        packed[place.offset : place.offset + place.size] = np.frombuffer(data, np.uint8)
    return packed


def _first(
    kernel: Kernel, some: Sequence[Group], group: Sequence[int], pointers: Values, memory: Memory
) -> Batch:
    """All waves of some groups, before the first instruction."""
    items = int(np.prod(group))
    waves = -(-items // LANES)
    number = np.arange(waves * LANES).reshape(waves, LANES)
    active = np.tile(number < items, (len(some), 1))
    total = len(some) * waves
    v = np.zeros((max(kernel.vgprs, 3), total, LANES), np.uint32)
    ids = (number % group[0], number // group[0] % group[1], number // (group[0] * group[1]))
    for register, one in enumerate(ids):
        v[register] = np.tile(one, (len(some), 1))
    s, at = np.zeros((128, total), np.uint32), 0
    for name, count in kernel.user:
        if name in pointers:
            s[at] = pointers[name] & 0xFFFFFFFF
            s[at + 1] = pointers[name] >> 32
        at += count
    for axis in kernel.group_ids:
        s[at] = np.repeat([one["xyz".index(axis)] for one in some], waves)
        at += 1
    local = np.zeros((len(some), (kernel.local_bytes + 3) // 4 * 4), np.uint8)
    local[:] = 0xFF  # NaN, as nobody clears it on the card
    order = np.arange(total)
    return Batch(order, order // waves, v, s, active, np.zeros(total, bool), local, memory)


@dataclasses.dataclass(frozen=True)
class _Done:
    outputs: list[Array]
    seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class Emulator:
    """Launches kernels of families by emulation: the same calls as `kernel_run.Device`.

    Args:
        compiler: a key of `isa_compile.COMPILERS`.
    """

    compiler: str = "clang-15"

    def launch(
        self,
        family: Family,
        kernel: str,
        values: Values,
        sizes: Values,
        arguments: Sequence[Array | np.generic],
        outputs: Sequence[int],
    ) -> _Done:
        """Run `kernel` once; see `kernel_run.Device.launch`."""
        compiled = compile_family(family, values, self.compiler)[kernel]
        everywhere, group = family.geometry(kernel, values, sizes)
        grid = [whole // one for whole, one in zip(everywhere, group, strict=True)]
        copies = [
            np.array(one, order="C") if isinstance(one, np.ndarray) else one for one in arguments
        ]
        launch(compiled, grid, group, copies)
        return _Done([np.asarray(copies[place]) for place in outputs])
