"""Vector instructions for the emulator: each becomes a function of a batch.

Source: AMD, Graphics Core Next Architecture Generation 3, instruction set reference, 2016.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from tools.isa_assembly import Instruction
from tools.isa_scalar import COMPARE, Step
from tools.isa_state import (
    Array,
    Batch,
    Reader,
    UnknownError,
    bits,
    choose,
    lanes,
    read_scalar,
    read_vector,
    read_wide,
    vector,
    write_scalar,
)
from tools.isa_table import TABLE

__all__ = ["vector_step"]

_VIEWS = {"f": np.float32, "u": np.uint32, "i": np.int32, "w": np.uint64, "l": np.int64}
_SCALES = {"mul:2": 2.0, "mul:4": 4.0, "div:2": 0.5}


def vector_step(one: Instruction) -> Step:
    """What the vector instruction `one` does.

    Raises:
        UnknownError: it, or one of its modifiers, is not known.
    """
    if one.encoding == "dpp":
        raise UnknownError(f"{one.op}_dpp")
    for make in (_by_table, _compare, _carry, _special):
        step = make(one)
        if step is not None:
            return step
    raise UnknownError(f"{one.op}_{one.encoding} {', '.join(one.operands)}")


def _target(one: Instruction) -> int:
    number = vector(one.operands[0])
    if number is None:
        raise UnknownError(f"{one.op} writes {one.operands[0]}")
    return number


def _reader(one: Instruction, operand: str, kind: str, number: int) -> Reader:
    """Reads a source as `kind`; number: which source, for the selections of SDWA."""
    if kind in "wl":
        wide = read_wide(operand)
        return wide if kind == "w" else lambda b: wide(b).view(np.int64)
    part = one.modifiers.get(f"src{number}_sel", "DWORD")
    if part == "DWORD":
        read = read_vector(operand, kind == "f")
        return read if kind != "i" else lambda b: read(b).view(np.int32)
    signed = re.fullmatch(r"sext\((.+)\)", operand)
    if kind == "f":
        raise UnknownError(f"{one.op}: {part} of a float")
    whole = read_vector(signed[1] if signed else operand)
    selected = _selected(whole, part, signed is not None)
    return selected if kind != "i" else lambda b: selected(b).view(np.int32)


def _selected(read: Reader, part: str, signed: bool) -> Reader:
    name, _, number = part.partition("_")
    width = {"BYTE": 8, "WORD": 16}[name]
    shift, small = np.uint32(width * int(number)), f"{'i' if signed else 'u'}{width // 8}"

    def read_part(b: Batch) -> Array:
        cut = np.asarray(read(b) >> shift).astype(small)
        return cut.astype(np.int32).view(np.uint32) if signed else cut.astype(np.uint32)

    return read_part


def _by_table(one: Instruction) -> Step | None:
    if one.op not in TABLE:
        return None
    kinds, function = TABLE[one.op]
    sources = list(one.operands[1:])
    if one.op == "v_mac_f32":
        sources.append(one.operands[0])
    if len(sources) != len(kinds) - 1:
        raise UnknownError(f"{one.op} with {len(sources)} sources")
    reads = [
        _reader(one, operand, kind, number)
        for number, (operand, kind) in enumerate(zip(sources, kinds[1:], strict=True))
    ]
    store = _store(one, kinds[0])
    if len(reads) == 1:
        (x,) = reads
        return lambda b: store(b, function(x(b)))
    if len(reads) == 2:
        x, y = reads
        return lambda b: store(b, function(x(b), y(b)))
    x, y, z = reads
    return lambda b: store(b, function(x(b), y(b), z(b)))


def _store(one: Instruction, kind: str) -> Callable[[Batch, Any], None]:
    """Writes a result of `kind` as the modifiers say."""
    register = _target(one)
    part = one.modifiers.get("dst_sel", "DWORD")
    if part != "DWORD":
        return _part(one, register, part)
    scale = [number for name, number in _SCALES.items() if _has(one, name)]
    clamp = "clamp" in one.modifiers
    if kind in "wl":
        return lambda b, value: _write_wide(b, register, value.view(np.uint64))
    if kind != "f":
        if clamp:
            raise UnknownError(f"{one.op} clamp")
        if kind == "i":
            return lambda b, value: b.write(register, value.view(np.uint32))
        return lambda b, value: b.write(register, value)

    def finish(b: Batch, value: Any) -> None:
        for factor in scale:
            value = value * np.float32(factor)
        if clamp:
            value = np.fmin(np.fmax(value, np.float32(0)), np.float32(1))
        b.write(register, value.view(np.uint32))

    return finish if scale or clamp else lambda b, value: b.write(register, value.view(np.uint32))


def _has(one: Instruction, modifier: str) -> bool:
    name, _, value = modifier.partition(":")
    return one.modifiers.get(name) == value


def _part(one: Instruction, register: int, part: str) -> Callable[[Batch, Any], None]:
    """Writes a byte or word of the register; the rest as dst_unused says."""
    name, _, number = part.partition("_")
    width = {"BYTE": 8, "WORD": 16}[name]
    shift, mask = np.uint32(width * int(number)), np.uint32((1 << width) - 1)
    unused = one.modifiers.get("dst_unused", "UNUSED_PAD")
    if unused == "UNUSED_SEXT":
        raise UnknownError(f"{one.op} dst_unused:UNUSED_SEXT")

    def write(b: Batch, value: Any) -> None:
        placed = (value.view(np.uint32) & mask) << shift
        if unused == "UNUSED_PRESERVE":
            placed = placed | b.v[register] & ~(mask << shift)
        b.write(register, placed)

    return write


def _write_wide(b: Batch, register: int, value: Array) -> None:
    b.write(register, value.astype(np.uint32))
    b.write(register + 1, (value >> np.uint64(32)).astype(np.uint32))


def _mask_writer(operand: str) -> Callable[[Batch, Array], None]:
    """Writes lanes that broadcast to (waves, lanes) as masks; lanes that do not run are 0."""
    write = write_scalar(operand, True)
    return lambda b, value: write(b, bits(value & b.active))


_FLOAT_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    **{name: COMPARE[name] for name in ("eq", "gt", "ge", "lt", "le")},
    "lg": lambda a, b: (a < b) | (a > b),
    "neq": lambda a, b: a != b,
    "nlt": lambda a, b: ~(a < b),
    "nle": lambda a, b: ~(a <= b),
    "ngt": lambda a, b: ~(a > b),
    "nge": lambda a, b: ~(a >= b),
    "nlg": lambda a, b: ~((a < b) | (a > b)),
    "u": lambda a, b: np.isnan(a) | np.isnan(b),
    "o": lambda a, b: ~(np.isnan(a) | np.isnan(b)),
}


def _compare(one: Instruction) -> Step | None:
    found = re.fullmatch(r"v_cmp(x?)_(\w+)_([iuf])(16|32|64)", one.op)
    if found is None:
        return None
    kind = {"i64": "l", "u64": "w"}.get(found[3] + found[4], found[3])
    compare = (_FLOAT_COMPARE if kind == "f" else COMPARE).get(found[2])
    if compare is None or (kind == "f" and found[4] != "32"):
        raise UnknownError(one.op)
    x, y = (_reader(one, each, kind, number) for number, each in enumerate(one.operands[1:]))
    write = _mask_writer(one.operands[0])
    small = {"i": np.int16, "u": np.uint16}[kind] if found[4] == "16" else None

    def step(b: Batch) -> None:
        left, right = x(b), y(b)
        if small is not None:
            left, right = np.asarray(left).astype(small), np.asarray(right).astype(small)
        result = np.asarray(compare(left, right))
        write(b, result)
        if found[1]:
            b.set_active(result & b.active)

    return step


def _carry(one: Instruction) -> Step | None:
    found = re.fullmatch(r"v_(add|addc|sub|subb|subrev|subbrev)_u32", one.op)
    if found is None:
        return None
    x, y = (_reader(one, each, "u", number) for number, each in enumerate(one.operands[2:4]))
    carry = read_scalar(one.operands[4], True) if len(one.operands) > 4 else None
    store, write = _store(one, "u"), _mask_writer(one.operands[1])
    add, turned = found[1].startswith("add"), found[1].endswith("rev")

    def step(b: Batch) -> None:
        left, right = np.asarray(x(b)).astype(np.int64), np.asarray(y(b)).astype(np.int64)
        if turned:
            left, right = right, left
        more = lanes(carry(b)) if carry is not None else 0
        exact = left + right + more if add else left - right - more
        result = exact.astype(np.uint32)
        store(b, result)
        write(b, exact != result)

    return step


def _special(one: Instruction) -> Step | None:
    if one.op == "v_cndmask_b32":
        return _cndmask(one)
    if one.op == "v_readfirstlane_b32":
        write_one = write_scalar(one.operands[0])
        x = read_vector(one.operands[1])
        return lambda b: write_one(b, x(b)[np.arange(b.waves.size), b.active.argmax(axis=1)])
    if one.op in ("v_mad_u64_u32", "v_mad_i64_i32"):
        return _mad_wide(one)
    return None


def _cndmask(one: Instruction) -> Step:
    register, mask = _target(one), read_scalar(one.operands[3], True)
    signed = any(each.startswith(("-v", "|", "-|")) for each in one.operands[1:3])
    x, y = (read_vector(each, signed) for each in one.operands[1:3])

    def step(b: Batch) -> None:
        b.write(register, choose(lanes(mask(b)), y(b), x(b)).view(np.uint32))

    return step


def _mad_wide(one: Instruction) -> Step:
    register, signed = _target(one), one.op == "v_mad_i64_i32"
    x, y = (read_vector(each) for each in one.operands[2:4])
    z, carry = read_wide(one.operands[4]), _mask_writer(one.operands[1])

    def step(b: Batch) -> None:
        left, right, add = np.asarray(x(b)), np.asarray(y(b)), np.asarray(z(b))
        if signed:
            product = left.view(np.int32).astype(np.int64) * right.view(np.int32)
            total = (product + add.view(np.int64)).view(np.uint64)
        else:
            total = left.astype(np.uint64) * right.astype(np.uint64) + add
        _write_wide(b, register, total)
        carry(b, total < add)

    return step
