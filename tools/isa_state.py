"""State of waves that run in step, and operands of instructions, for the emulator.

A batch is any number of waves at the same instruction: one numpy operation serves them all.
Scalar registers are arrays over waves, vector registers over waves and 64 lanes.
"""

from __future__ import annotations

import dataclasses
import re
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["LANES", "Array", "Batch", "Memory", "Reader", "UnknownError", "bits", "choose", "lanes"]

Array = np.ndarray[Any, Any]
Reader = Callable[["Batch"], Any]
LANES = 64
VCC, M0, EXEC = 106, 124, 126
_NAMED = {
    "vcc": VCC, "vcc_lo": VCC, "vcc_hi": VCC + 1, "exec": EXEC, "exec_lo": EXEC,
    "exec_hi": EXEC + 1, "m0": M0, "flat_scratch": 102, "flat_scratch_lo": 102,
    "flat_scratch_hi": 103,
}  # fmt: skip
# the float constants that instructions hold; clang prints the last one with all digits
_FLOATS = ("0.5", "-0.5", "1.0", "-1.0", "2.0", "-2.0", "4.0", "-4.0", "0.15915494")


class UnknownError(NotImplementedError):
    """An instruction or an operand that the emulator does not know."""


class Memory:
    """Buffers, each at its own 64 GiB of addresses, so that an address names its buffer.

    An access that leaves its buffer raises IndexError. One that is not aligned to its dwords is
    right, as ROCm sets the card up for it: clang 19 joins loads of halves into such.
    """

    SHIFT = 36

    def __init__(self) -> None:
        self._buffers: list[Array] = []  # bytes, filled up to whole dwords
        self._sizes: list[int] = []
        self._touched: set[int] = set()

    def add(self, array: Array) -> int:
        """The address of a copy of `array`."""
        given = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        filled = np.zeros((given.size + 3) // 4 * 4, np.uint8)
        filled[: given.size] = given
        self._buffers.append(filled)
        self._sizes.append(given.size)
        return len(self._buffers) << self.SHIFT

    def contents(self, address: int) -> Array:
        """The bytes of the buffer at `address`."""
        number = (address >> self.SHIFT) - 1
        return self._buffers[number][: self._sizes[number]]

    def touched(self, address: int) -> bool:
        """Whether the buffer at `address` was read or written."""
        return (address >> self.SHIFT) - 1 in self._touched

    def places(self, address: Array, size: int, unit: int) -> list[tuple[Array, Array, Array]]:
        """The buffers that lanes go to: (units of the buffer, which lanes, index of the unit).

        Units have `unit` bytes, or fewer where an access is not aligned to them.
        """
        number = (address >> np.uint64(self.SHIFT)).astype(np.int64) - 1
        offset = (address & np.uint64((1 << self.SHIFT) - 1)).astype(np.int64)
        found = []
        for one in np.unique(number):
            chosen = np.nonzero(number == one)[0]
            if not 0 <= one < len(self._buffers):
                raise IndexError(f"address {address[chosen[0]]:#x} belongs to no buffer")
            self._touched.add(int(one))
            at = offset[chosen]
            if at.min() < 0 or at.max() + size > self._sizes[one]:
                raise IndexError(
                    f"bytes {at.max()} to {at.max() + size} of a buffer of {self._sizes[one]}"
                )
            while (at % unit).any():
                unit //= 2
            found.append((self._buffers[one].view(f"u{unit}"), chosen, at // unit))
        return found


@dataclasses.dataclass
class Batch:
    """Waves in step.

    Args:
        waves: their numbers in the launch.
        groups: number of each one's group among those that run.
        v: vector registers (registers, waves, lanes) uint32.
        s: scalar registers (128, waves) uint32, without exec.
        active: lanes that run (waves, lanes); what exec says.
        scc: scalar condition (waves).
        local: local memory (groups, bytes), shared by all batches.
        memory: shared by all.
        pc: the next instruction.
        log: what ran: numbers of instructions, each of memory followed by what it touched.
    """

    waves: Array
    groups: Array
    v: Array
    s: Array
    active: Array
    scc: Array
    local: Array
    memory: Memory
    pc: int = 0
    log: list[Any] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        self.f = self.v.view(np.float32)
        self.sf = self.s.view(np.float32)
        self.full = bool(self.active.all())

    def set_active(self, active: Array) -> None:
        """Exec becomes `active`."""
        self.active = active
        self.full = bool(active.all())

    def write(self, register: int, value: Array) -> None:
        """A vector register of the lanes that run; value: uint32."""
        if self.full:
            self.v[register] = value
        else:
            np.copyto(self.v[register], value, where=self.active)

    def pick(self, chosen: Array) -> Batch:
        """A batch of some of the waves, with its own log."""
        return Batch(
            self.waves[chosen], self.groups[chosen], self.v[:, chosen], self.s[:, chosen],
            self.active[chosen], self.scc[chosen], self.local, self.memory, self.pc,
        )  # fmt: skip

    @staticmethod
    def join(batches: list[Batch]) -> Batch:
        """One batch of batches at the same instruction, with an empty log."""
        first = batches[0]
        if len(batches) == 1:
            return dataclasses.replace(first, log=[])
        return Batch(
            np.concatenate([one.waves for one in batches]),
            np.concatenate([one.groups for one in batches]),
            np.concatenate([one.v for one in batches], axis=1),
            np.concatenate([one.s for one in batches], axis=1),
            np.concatenate([one.active for one in batches]),
            np.concatenate([one.scc for one in batches]),
            first.local,
            first.memory,
            first.pc,
        )


def lanes(mask: Array) -> Array:
    """Lanes (..., 64) bool of masks (...) uint64."""
    as_bytes = np.ascontiguousarray(mask).view(np.uint8).reshape(*mask.shape, 8)
    return np.unpackbits(as_bytes, axis=-1, bitorder="little").view(bool)


def bits(active: Array) -> Array:
    """Masks (...) uint64 of lanes (..., 64) bool."""
    return np.packbits(active, axis=-1, bitorder="little").view(np.uint64)[..., 0]


def choose(mask: Array, then: Array, otherwise: Array) -> Array:
    """`then` where `mask` holds, else `otherwise`."""
    return np.where(mask, then, otherwise)


def vector(operand: str) -> int | None:
    """Number of the first register of a vector operand, None for others."""
    found = re.fullmatch(r"v(?:(\d+)|\[(\d+):\d+\])", operand)
    return int(found[1] or found[2]) if found else None


def scalar(operand: str) -> int | None:
    """Number of the first register of a scalar operand, None for others."""
    found = re.fullmatch(r"s(?:(\d+)|\[(\d+):\d+\])", operand)
    return int(found[1] or found[2]) if found else _NAMED.get(operand)


def constant(operand: str) -> int:
    """The 32 bits, or signed number, of a constant."""
    if operand in _FLOATS or operand.startswith("0.15915494"):
        return int(struct.unpack("<I", struct.pack("<f", float(operand)))[0])
    try:
        return int(operand, 0)
    except ValueError:
        raise UnknownError(f"operand {operand}") from None


def read_scalar(operand: str, wide: bool = False) -> Reader:
    """Reads (waves) uint32, or uint64 if `wide`."""
    if operand == "scc":
        return lambda b: b.scc.astype(np.uint32)
    if operand in ("vccz", "execz"):
        mask = read_scalar(operand[:-1], True)
        return lambda b: (mask(b) == 0).astype(np.uint32)
    number = scalar(operand)
    if number is None:
        kind = np.uint64 if wide else np.uint32
        value = kind(constant(operand) & ((1 << (64 if wide else 32)) - 1))
        return lambda b: np.full(b.waves.size, value)
    if number >= EXEC:
        if wide:
            return lambda b: bits(b.active)
        shift = np.uint64(32 * (number - EXEC))
        return lambda b: (bits(b.active) >> shift).astype(np.uint32)
    if wide:
        return lambda b: b.s[number] | (b.s[number + 1].astype(np.uint64) << np.uint64(32))
    return lambda b: b.s[number]


def write_scalar(operand: str, wide: bool = False) -> Callable[[Batch, Array], None]:
    """Writes (waves) of uint32, or uint64 if `wide`."""
    number = scalar(operand)
    if number is None:
        raise UnknownError(f"operand {operand}")
    if number >= EXEC:
        if not wide:
            raise UnknownError("half of exec is written")
        return lambda b, value: b.set_active(lanes(value))

    def write(b: Batch, value: Array) -> None:
        b.s[number] = value.astype(np.uint32)
        if wide:
            b.s[number + 1] = (value >> np.uint64(32)).astype(np.uint32)

    return write


def read_vector(operand: str, floats: bool = False) -> Reader:
    """Reads something that broadcasts to (waves, lanes): uint32, or float32 with its signs."""
    signs = re.fullmatch(r"(-?)(\||abs\()?(.+?)\|?\)?", operand)
    assert signs is not None, "an operand is not empty"
    if floats and (vector(signs[3]) is not None or scalar(signs[3]) is not None):
        return _signed(_register(signs[3], True), bool(signs[1]), bool(signs[2]))
    return _register(operand, floats)


def _signed(read: Reader, negative: bool, absolute: bool) -> Reader:
    if absolute and negative:
        return lambda b: -np.abs(read(b))
    if absolute:
        return lambda b: np.abs(read(b))
    if negative:
        return lambda b: -read(b)
    return read


def _register(operand: str, floats: bool) -> Reader:
    number = vector(operand)
    if number is not None:
        return (lambda b: b.f[number]) if floats else (lambda b: b.v[number])
    number = scalar(operand)
    if number is not None:
        if number >= EXEC:
            lanes, shift = read_scalar("exec", True), np.uint64(32 * (number - EXEC))
            return lambda b: np.asarray(lanes(b) >> shift).astype(np.uint32)[:, None]
        if floats:
            return lambda b: b.sf[number][:, None]
        return lambda b: b.s[number][:, None]
    pattern = np.uint32(constant(operand) & 0xFFFFFFFF)
    value = pattern.view(np.float32) if floats else pattern
    return lambda b: value


def read_wide(operand: str) -> Reader:
    """Reads something that broadcasts to (waves, lanes) uint64."""
    number = vector(operand)
    if number is not None:
        return lambda b: b.v[number] | (b.v[number + 1].astype(np.uint64) << np.uint64(32))
    if scalar(operand) is not None:
        read = read_scalar(operand, True)
        return lambda b: read(b)[:, None]
    value = np.uint64(constant(operand) & 0xFFFFFFFFFFFFFFFF)
    return lambda b: value
