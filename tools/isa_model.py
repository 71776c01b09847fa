"""A timing model of the RX 580: traces of the emulator on one of its compute units.

Waves of the groups that fit go through four vector units, one local memory, one path to memory and
the waits that the compiler wrote. It leaves out the instruction cache, the second-level cache's
limits, and clocks that fall; caches are taken as perfect: each byte crosses the bus once. Published
measurements lie 1.1 to 2 times below such figures: they rank kernels and gate them, no more.

Sources: AMD, Graphics Core Next Architecture Generation 3, instruction set reference, 2016; M.
Paprocki, CLRX documentation, GcnTimings.
"""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Iterator, Sequence

from tools import isa_costs
from tools.isa_assembly import Kernel
from tools.isa_emulate import Trace
from tools.isa_memory import LINE

__all__ = ["BANDWIDTH", "LATENCY", "Block", "Estimate", "blocks", "estimate"]

BANDWIDTH = 256e9  # bytes a second
LATENCY = 500  # clocks from a load to its data
_LOCAL_LATENCY, _CONSTANT_LATENCY = 64, 150
_LINE_CLOCKS = 4  # of the path to memory, for a line
_QUEUES = {"L": 64, "M": 128}  # clocks of work that these units take ahead
_RUN = 64  # clocks of vector instructions that a wave runs before another may
_ROUNDS = 4  # of resident groups; more only repeat what these show


@dataclasses.dataclass(frozen=True)
class Block:
    """What a wave asks of one unit at once.

    Args:
        kind: as `isa_costs.kind` names it.
        clocks: that it takes there.
        count: multiply-adds (V), cache lines (M).
        waits: loads, local accesses that may be under way (W).
    """

    kind: str
    clocks: int
    count: int = 0
    waits: tuple[int, int] = (0, 0)


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Time of a launch.

    Args:
        seconds: of the launch, the busiest compute unit's.
        steady: share of the peak that a compute unit reaches while it has groups.
        conflicts: clocks that bank conflicts add to local memory, over its clocks without them.
    """

    seconds: float
    steady: float
    conflicts: float


def blocks(kernel: Kernel, trace: Trace) -> list[Block]:
    """The trace of a wave, with runs of vector (and scalar) instructions put together."""
    found: list[Block] = []
    for pc, touched in trace:
        one = _block(kernel, pc, touched)
        last = found[-1] if found else None
        if last and last.kind == one.kind and one.kind in "VS" and last.clocks < _RUN:
            found[-1] = Block(one.kind, last.clocks + one.clocks, last.count + one.count)
        else:
            found.append(one)
    return found


def _block(kernel: Kernel, pc: int, touched: int) -> Block:
    one = kernel.code[pc]
    kind = isa_costs.kind(one.op)
    if kind == "V":
        return Block("V", isa_costs.valu_clocks(one.op), int(isa_costs.is_fma(one.op)))
    if kind == "L":
        return Block("L", touched)
    if kind == "M":
        least = 16 if isa_costs.width(one.op) >= 8 else 4
        return Block("M", max(touched * _LINE_CLOCKS, least), touched)
    if kind == "W":
        waits = (int(one.modifiers.get(name, "63")) for name in ("vmcnt", "lgkmcnt"))
        return Block("W", 4, waits=tuple(waits))  # type: ignore[arg-type]
    return Block(kind, 16 if kind == "J" else 4)


def estimate(
    kernel: Kernel,
    traces: Sequence[Sequence[Trace]],
    groups: int,
    moved: float,
    latency: int = LATENCY,
) -> Estimate:
    """Time of a launch of `groups` groups.

    Args:
        kernel: that runs.
        traces: of the waves of some groups, which stand for all.
        groups: of the launch.
        moved: bytes that cross the bus at least once.
        latency: of memory, clocks.
    """
    given = [[blocks(kernel, wave) for wave in group] for group in traces]
    most = isa_costs.waves(kernel.vgprs, kernel.sgprs, kernel.local_bytes, kernel.group)
    resident = max(1, int(most * 4 // max(1, len(given[0]))))
    units = min(isa_costs.UNITS, groups)
    touched = sum(one.count for group in given for wave in group for one in wave if one.kind == "M")
    touched_bytes = touched * LINE * groups / len(given)
    cached = min(1.0, moved / max(touched_bytes, 1))
    line_clocks = LINE * cached * units * isa_costs.CLOCK / BANDWIDTH
    per_unit = -(-groups // units)
    some = min(per_unit, _ROUNDS * resident)
    clocks = _Unit(given, resident, latency, line_clocks).run(some)
    if some < per_unit:
        half = _Unit(given, resident, latency, line_clocks).run(some // 2)
        clocks += (clocks - half) / (some - some // 2) * (per_unit - some)
    fmas = sum(one.count for group in given for wave in group for one in wave if one.kind == "V")
    fma_clocks = fmas / len(given) * per_unit  # of four vector units, 4 clocks each
    return Estimate(
        clocks / isa_costs.CLOCK, fma_clocks / max(clocks, 1), _conflicts(kernel, traces)
    )


def _conflicts(kernel: Kernel, traces: Sequence[Sequence[Trace]]) -> float:
    least = real = 0
    for pc, touched in (entry for group in traces for wave in group for entry in wave):
        if isa_costs.kind(kernel.code[pc].op) == "L":
            least += isa_costs.local_clocks(kernel.code[pc].op)
            real += touched
    return real / least - 1 if least else 0.0


class _Group:
    def __init__(self, waves: int) -> None:
        self.waves = waves
        self.left = waves
        self.waiting: list[_Wave] = []


@dataclasses.dataclass
class _Wave:
    todo: Iterator[Block]
    age: int  # the number of the wave; also chooses its vector unit
    group: _Group
    memory: list[float] = dataclasses.field(default_factory=list)
    local: list[float] = dataclasses.field(default_factory=list)
    pending: Block | None = None


class _Unit:
    """One compute unit: events in order of time."""

    def __init__(
        self, groups: Sequence[Sequence[list[Block]]], resident: int, latency: int, line: float
    ) -> None:
        self.groups, self.resident, self.latency, self.line = groups, resident, latency, line
        self.free = {"L": 0.0, "M": 0.0}
        self.busy = [False] * 4  # vector units
        self.wanting: list[list[tuple[int, _Wave]]] = [[] for _ in range(4)]
        self.bus = 0.0
        self.events: list[tuple[float, int, _Wave | int]] = []  # or the vector unit that gets free
        self.made = self.started = self.waves = 0

    def run(self, count: int) -> float:
        """Clocks of `count` groups."""
        self.left = count
        for _ in range(min(self.resident, count)):
            self._start(0.0)
        clock = 0.0
        while self.events:
            now, _, wave = heapq.heappop(self.events)
            clock = max(clock, now)
            if isinstance(wave, int):
                self._free(now, wave)
            else:
                self._step(now, wave)
        return clock

    def _start(self, now: float) -> None:
        if not self.left:
            return
        self.left -= 1
        waves = self.groups[self.started % len(self.groups)]
        self.started += 1
        group = _Group(len(waves))
        for one in waves:
            self.waves += 1
            self._again(now + 20, _Wave(iter(one), self.waves, group))

    def _again(self, when: float, wave: _Wave | int) -> None:
        self.made += 1
        heapq.heappush(self.events, (when, self.made, wave))

    def _step(self, now: float, wave: _Wave) -> None:
        """One block of a wave, or the time from which on it can run."""
        block = wave.pending or next(wave.todo)
        wave.pending = None
        kind = block.kind
        if kind == "V":
            unit = wave.age % 4
            if self.busy[unit]:
                wave.pending = block
                heapq.heappush(self.wanting[unit], (wave.age, wave))
            else:
                self._vector(now, wave, block)
        elif kind in _QUEUES:
            self._queue(now, wave, block)
        elif kind == "W":
            self._again(max(now + 4, self._ready(wave, block.waits)), wave)
        elif kind == "B":
            self._barrier(now, wave)
        elif kind == "E":
            wave.group.left -= 1
            if not wave.group.left:
                self._start(now)
        else:
            if kind == "C":
                wave.local.append(now + _CONSTANT_LATENCY)
            self._again(now + block.clocks, wave)

    def _vector(self, now: float, wave: _Wave, block: Block) -> None:
        unit = wave.age % 4
        self.busy[unit] = True
        self._again(now + block.clocks, wave)
        self._again(now + block.clocks, unit)

    def _free(self, now: float, unit: int) -> None:
        """A vector unit takes the oldest of the waves that want it."""
        self.busy[unit] = False
        if self.wanting[unit]:
            _, wave = heapq.heappop(self.wanting[unit])
            block, wave.pending = wave.pending, None
            assert block is not None, "a wave that waits keeps its block"
            self._vector(now, wave, block)

    def _queue(self, now: float, wave: _Wave, block: Block) -> None:
        kind = block.kind
        if self.free[kind] > now + _QUEUES[kind]:
            wave.pending = block
            self._again(self.free[kind] - _QUEUES[kind], wave)
            return
        done = self.free[kind] = max(self.free[kind], now) + block.clocks
        if kind == "L":
            wave.local.append(done + _LOCAL_LATENCY)
        else:
            self.bus = max(self.bus, now) + block.count * self.line
            wave.memory.append(max(done, self.bus) + self.latency)
        self._again(now + 4, wave)

    @staticmethod
    def _ready(wave: _Wave, waits: tuple[int, int]) -> float:
        when = 0.0
        for queue, many in zip((wave.memory, wave.local), waits, strict=True):
            if len(queue) > many:
                over = len(queue) - many
                when = max(when, *queue[:over]) if over > 1 else max(when, queue[0])
                del queue[:over]
        return when

    def _barrier(self, now: float, wave: _Wave) -> None:
        group = wave.group
        group.waiting.append(wave)
        if len(group.waiting) == group.left:
            for one in group.waiting:
                self._again(now + 8, one)
            group.waiting = []
