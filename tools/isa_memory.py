"""Instructions of memory and local memory for the emulator; they note what they touched.

Source: AMD, Graphics Core Next Architecture Generation 3, instruction set reference, 2016; how many
lanes local memory serves at once: M. Paprocki, CLRX documentation, GcnTimings.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from tools import isa_costs
from tools.isa_assembly import Instruction
from tools.isa_scalar import Step
from tools.isa_state import LANES, Array, Batch, UnknownError, read_vector, read_wide, vector

__all__ = ["LINE", "local_step", "memory_step"]

LINE = 64  # bytes of a cache line
_BANKS = 32
_TOGETHER = {1: 32, 2: 16, 3: 8, 4: 8}  # dwords of a lane -> lanes that are served at once


def memory_step(one: Instruction) -> Step:
    """What a flat or global load, store or atomic minimum does.

    The log gets the number of cache lines that each wave touches.

    Raises:
        UnknownError: it is not known; scratch, which none of our kernels may use, is not.
    """
    if one.op in ("flat_atomic_smin", "global_atomic_smin"):
        return _atomic_least(one)
    found = re.fullmatch(
        r"(?:flat|global)_(load|store)_(dword(?:x[234])?|[us]?(?:byte|short))", one.op
    )
    if found is None:
        raise UnknownError(one.op)
    load, size = found[1] == "load", isa_costs.width(one.op)
    data, place = (0, 1) if load else (1, 0)
    address, register = read_wide(one.operands[place]), vector(one.operands[data])
    if (
        register is None
        or set(one.modifiers) - {"glc", "slc"}
        or one.operands[2:] not in ((), ("off",))
    ):
        raise UnknownError(f"{one.op} {', '.join(one.operands)} {dict(one.modifiers)}")
    unit = min(size, 4)
    small = f"{'i' if found[2].startswith('s') and size < 4 and load else 'u'}{unit}"

    def step(b: Batch) -> None:
        active = b.active
        at = np.broadcast_to(address(b), active.shape)
        wave, lane = np.nonzero(active)
        where = at[wave, lane]
        b.log.append(_lines(wave, where, size, b.waves.size))
        if not where.size:
            return
        for units, chosen, index in b.memory.places(where, size, unit):
            w, x = wave[chosen], lane[chosen]
            for number in range(max(1, size // 4)):
                if load:
                    value = _joined(units, index, unit).astype(f"u{unit}").view(small)
                    b.v[register + number, w, x] = value.astype(np.int64).astype(np.uint32)
                else:
                    _parted(units, index, unit, b.v[register + number, w, x])
                index = index + unit // units.itemsize

    return step


def _atomic_least(one: Instruction) -> Step:
    """What an atomic minimum of signed integers does whose old value nobody wants."""
    address, register = read_wide(one.operands[0]), vector(one.operands[1])
    if register is None or one.modifiers or one.operands[2:] not in ((), ("off",)):
        raise UnknownError(f"{one.op} {', '.join(one.operands)} {dict(one.modifiers)}")

    def step(b: Batch) -> None:
        at = np.broadcast_to(address(b), b.active.shape)
        wave, lane = np.nonzero(b.active)
        where = at[wave, lane]
        b.log.append(_lines(wave, where, 4, b.waves.size))
        for units, chosen, index in b.memory.places(where, 4, 4) if where.size else ():
            given = b.v[register, wave[chosen], lane[chosen]].view(np.int32)
            np.minimum.at(units.view(np.int32), index, given)

    return step


def _joined(units: Array, index: Array, size: int) -> Array:
    """Numbers of `size` bytes that begin at units of as many bytes or fewer."""
    value: Array = units[index].astype(np.uint32)
    for part in range(1, size // units.itemsize):
        value |= units[index + part].astype(np.uint32) << np.uint32(8 * part * units.itemsize)
    return value


def _parted(units: Array, index: Array, size: int, value: Array) -> None:
    """Writes numbers of `size` bytes to units of as many bytes or fewer."""
    for part in range(size // units.itemsize):
        shifted = value >> np.uint32(8 * part * units.itemsize)
        units[index + part] = shifted.astype(units.dtype)


def _lines(wave: Array, address: Array, size: int, waves: int) -> Array:
    """Cache lines that each wave touches."""
    both = np.concatenate([address, address + np.uint64(size - 1)]) // np.uint64(LINE)
    owner = np.concatenate([wave, wave]).astype(np.uint64)
    unique = np.unique(both << np.uint64(16) | owner)
    return np.bincount((unique & np.uint64(0xFFFF)).astype(np.int64), minlength=waves)


def local_step(one: Instruction) -> Step:
    """What a load from or store to local memory does.

    The log gets the clocks of each wave, and those that bank conflicts add.

    Raises:
        UnknownError: it is not known.
    """
    found = re.fullmatch(r"ds_(read|write)(2?)(st64)?_([biu])(8|16|32|64|128)", one.op)
    if found is None:
        raise UnknownError(one.op)
    load, size = found[1] == "read", int(found[5]) // 8
    address = read_vector(one.operands[1 if load else 0])
    registers = [vector(each) for each in one.operands[:1] if load]
    registers = registers or [vector(each) for each in one.operands[1:]]
    offsets = _offsets(one, bool(found[2]), size * (64 if found[3] else 1))
    unit, words = min(size, 4), max(1, size // 4)
    small = f"{'i' if found[4] == 'i' else 'u'}{unit}"
    least = isa_costs.local_clocks(one.op)
    signed_small = np.dtype(small)

    def move(b: Batch, at: Array, register: int) -> Array:
        wave, lane = np.nonzero(b.active)
        where = at[wave, lane]
        if where.size:
            _check(where, size, b.local.shape[1])
        units = b.local.view(f"u{unit}")
        row, index = b.groups[wave], where // unit
        for number in range(words):
            if load:
                value = units[row, index + number].view(signed_small)
                b.v[register + number, wave, lane] = value.astype(np.int64).astype(np.uint32)
            else:
                units[row, index + number] = b.v[register + number, wave, lane].astype(units.dtype)
        return _bank_clocks(at, b.active, words)

    def step(b: Batch) -> None:
        clocks: Any = 0
        # read before a load may overwrite it
        base = np.broadcast_to(address(b), b.active.shape).astype(np.int64)
        for number, offset in enumerate(offsets):
            at = base + offset & 0xFFFFFFFF  # compilers write addresses below 0, and offsets
            first = registers[0] if load else registers[number]
            assert first is not None, "data lies in vector registers"
            clocks = clocks + move(b, at, first + (number * words if load else 0))
        plain = _plain_clocks(b.active, words) * len(offsets)
        b.log.append(least + np.maximum(clocks - plain, 0))

    return step


def _offsets(one: Instruction, two: bool, unit: int) -> list[int]:
    if set(one.modifiers) - {"offset", "offset0", "offset1"}:
        raise UnknownError(f"{one.op} {dict(one.modifiers)}")
    if two:
        return [int(one.modifiers.get(name, "0")) * unit for name in ("offset0", "offset1")]
    return [int(one.modifiers.get("offset", "0"))]


def _check(where: Array, size: int, most: int) -> None:
    if where.min() < 0 or where.max() + size > most:
        raise IndexError(f"local bytes {where.max()} to {where.max() + size} of {most}")
    if (where % size).any():
        raise IndexError(f"a local access of {size} bytes is not aligned to them")


def _bank_clocks(at: Array, active: Array, words: int) -> Array:
    """Clocks of each wave: for lanes served at once, the most dwords that one bank has to give."""
    waves, together = at.shape[0], _TOGETHER[words]
    dwords = (at // 4)[..., None] + np.arange(words)
    turns = LANES // together
    turn = np.broadcast_to(np.arange(LANES) // together, at.shape)[..., None]
    wave = np.arange(waves)[:, None, None]
    key = ((wave * turns + turn) << 32 | dwords)[active]
    unique = np.unique(key)
    bank = (unique >> 32) * _BANKS + unique % _BANKS
    counts = np.bincount(bank, minlength=waves * turns * _BANKS)
    found: Array = counts.reshape(waves, turns, _BANKS).max(axis=2).sum(axis=1)
    return found


def _plain_clocks(active: Array, words: int) -> Array:
    """The same without conflicts: one clock a turn in which a lane runs."""
    found: Array = active.reshape(active.shape[0], -1, _TOGETHER[words]).any(axis=2).sum(axis=1)
    return found
