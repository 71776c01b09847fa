"""Scalar instructions of GCN 3 for the emulator: each becomes a function of a batch.

Source: AMD, Graphics Core Next Architecture Generation 3, instruction set reference, 2016.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from tools.isa_assembly import Instruction
from tools.isa_state import (
    Array,
    Batch,
    UnknownError,
    bits,
    choose,
    lanes,
    read_scalar,
    scalar,
    write_scalar,
)

__all__ = ["COMPARE", "Step", "as_u32", "field", "reverse", "scalar_load", "scalar_step"]

Step = Callable[[Batch], Any]
COMPARE = {
    "eq": operator.eq, "lg": operator.ne, "ne": operator.ne, "gt": operator.gt,
    "ge": operator.ge, "lt": operator.lt, "le": operator.le,
}  # fmt: skip
_LOGIC: dict[str, Callable[[Array, Array], Array]] = {
    "and": lambda a, b: a & b,
    "or": lambda a, b: a | b,
    "xor": lambda a, b: a ^ b,
    "andn2": lambda a, b: a & ~b,
    "orn2": lambda a, b: a | ~b,
    "nand": lambda a, b: ~(a & b),
    "nor": lambda a, b: ~(a | b),
    "xnor": lambda a, b: ~(a ^ b),
}


def scalar_step(one: Instruction) -> Step:
    """What the scalar instruction `one` does (branches, waits and loads excepted).

    Raises:
        UnknownError: it is not known.
    """
    for make in (_compare, _immediate, _mask, _logic, _move, _shift, _arithmetic, _field):
        step = make(one)
        if step is not None:
            return step
    raise UnknownError(f"{one.op} {', '.join(one.operands)}")


def _signed(value: Array) -> Array:
    """The same bits as signed numbers."""
    return value.view(np.int64 if value.dtype == np.uint64 else np.int32)


def _wide(op: str) -> bool:
    return op.endswith("64")


def _set(target: str, wide: bool, value: Callable[[Batch], Array], flag: bool = True) -> Step:
    """Writes a value, and whether it is not zero to scc."""
    write = write_scalar(target, wide)

    def step(b: Batch) -> None:
        result = value(b)
        write(b, result)
        if flag:
            b.scc = result != 0

    return step


def _compare(one: Instruction) -> Step | None:
    found = re.fullmatch(r"s_cmp(k?)_(eq|lg|gt|ge|lt|le)_([iu])(32|64)", one.op)
    if found is None:
        bit = re.fullmatch(r"s_bitcmp([01])_b32", one.op)
        return _bit(one, int(bit[1])) if bit else None
    wide = found[4] == "64"
    x, y = (read_scalar(each, wide) for each in one.operands)
    compare, signed = COMPARE[found[2]], found[3] == "i"
    if found[1]:
        number = int(one.operands[1], 0)
        value = (number + 0x8000 & 0xFFFF) - 0x8000 if signed else number & 0xFFFF
        y = read_scalar(str(value))

    def step(b: Batch) -> None:
        left, right = x(b), y(b)
        b.scc = compare(_signed(left), _signed(right)) if signed else compare(left, right)

    return step


def _bit(one: Instruction, wanted: int) -> Step:
    x, place = (read_scalar(each) for each in one.operands)

    def step(b: Batch) -> None:
        b.scc = (x(b) >> (place(b) & np.uint32(31)) & np.uint32(1)) == wanted

    return step


def _immediate(one: Instruction) -> Step | None:
    found = re.fullmatch(r"s_(mov|add|mul)k_i32", one.op)
    if found is None:
        return None
    value = np.int32((int(one.operands[1], 0) + 0x8000 & 0xFFFF) - 0x8000)
    write = write_scalar(one.operands[0])
    if found[1] == "mov":
        return lambda b: write(b, np.full(b.waves.size, value).view(np.uint32))
    x = read_scalar(one.operands[0])
    if found[1] == "mul":
        return lambda b: write(b, (x(b).view(np.int32) * value).view(np.uint32))

    def add(b: Batch) -> None:
        exact = x(b).view(np.int32).astype(np.int64) + value
        write(b, exact.astype(np.uint32))
        b.scc = exact != exact.astype(np.int32)

    return add


def _mask(one: Instruction) -> Step | None:
    found = re.fullmatch(r"s_(\w+)_saveexec_b64", one.op)
    if found is None:
        return None
    logic = _LOGIC[found[1]]
    x, write = read_scalar(one.operands[1], True), write_scalar(one.operands[0], True)

    def step(b: Batch) -> None:
        before, given = bits(b.active), x(b)
        write(b, before)
        after = logic(given, before)  # the second operand is exec: andn2 is S0 & ~EXEC
        b.set_active(lanes(after))
        b.scc = after != 0

    return step


def _logic(one: Instruction) -> Step | None:
    found = re.fullmatch(r"s_(\w+)_b(32|64)", one.op)
    wide = _wide(one.op)
    if found is None or found[1] not in _LOGIC:
        return None
    logic = _LOGIC[found[1]]
    x, y = (read_scalar(each, wide) for each in one.operands[1:])
    return _set(one.operands[0], wide, lambda b: logic(x(b), y(b)))


def _move(one: Instruction) -> Step | None:
    wide = _wide(one.op)
    if one.op in ("s_mov_b32", "s_mov_b64"):
        x = read_scalar(one.operands[1], wide)
        return _set(one.operands[0], wide, lambda b: x(b).copy(), flag=False)
    if one.op in ("s_cselect_b32", "s_cselect_b64"):
        x, y = (read_scalar(each, wide) for each in one.operands[1:])
        return _set(one.operands[0], wide, lambda b: choose(b.scc, x(b), y(b)), flag=False)
    if one.op in ("s_not_b32", "s_not_b64"):
        x = read_scalar(one.operands[1], wide)
        return _set(one.operands[0], wide, lambda b: ~x(b))
    if one.op == "s_abs_i32":
        x = read_scalar(one.operands[1])
        return _set(one.operands[0], False, lambda b: as_u32(np.abs(_signed(x(b)))))
    return None


def _shift(one: Instruction) -> Step | None:
    found = re.fullmatch(r"s_(lshl|lshr|ashr)_[bi](32|64)", one.op)
    if found is None:
        return None
    wide = found[2] == "64"
    x, y = read_scalar(one.operands[1], wide), read_scalar(one.operands[2])
    kind, most = (np.uint64, np.uint32(63)) if wide else (np.uint32, np.uint32(31))

    def value(b: Batch) -> Any:
        given, by = x(b), (y(b) & most).astype(kind)
        if found[1] == "lshl":
            return np.left_shift(given, by)
        if found[1] == "lshr":
            return np.right_shift(given, by)
        return np.right_shift(_signed(given), _signed(by)).view(kind)

    return _set(one.operands[0], wide, value)


def _arithmetic(one: Instruction) -> Step | None:
    found = re.fullmatch(r"s_(add|addc|sub|subb|mul|min|max)_([iu])32", one.op)
    if found is None:
        return None
    x, y = (read_scalar(each) for each in one.operands[1:])
    write = write_scalar(one.operands[0])
    name, signed = found[1], found[2] == "i"

    def step(b: Batch) -> None:
        left, right = x(b), y(b)
        a, c = (_signed(left), _signed(right)) if signed else (left, right)
        if name in ("min", "max"):
            b.scc = a < c if name == "min" else a > c
            write(b, choose(b.scc, left, right))
            return
        a, c = a.astype(np.int64), c.astype(np.int64)
        if name == "mul":
            write(b, (a * c).astype(np.uint32))
            return
        carry = b.scc.astype(np.int64) if name in ("addc", "subb") else 0
        exact = a + c + carry if name.startswith("add") else a - c - carry
        write(b, exact.astype(np.uint32))
        b.scc = exact != exact.astype(np.int32 if signed else np.uint32)

    return step


def _field(one: Instruction) -> Step | None:
    extend = re.fullmatch(r"s_sext_i32_i(8|16)", one.op)
    if extend:
        x = read_scalar(one.operands[1])
        kind = np.int8 if extend[1] == "8" else np.int16
        return _set(
            one.operands[0], False, lambda b: as_u32(x(b).astype(kind).astype(np.int32)), False
        )
    if one.op == "s_brev_b32":
        x = read_scalar(one.operands[1])
        return _set(one.operands[0], False, lambda b: reverse(x(b)), False)
    found = re.fullmatch(r"s_bfe_([iu])(32|64)", one.op)
    if found is None:
        return None
    wide, signed = found[2] == "64", found[1] == "i"
    x, y = read_scalar(one.operands[1], wide), read_scalar(one.operands[2])
    whole = 64 if wide else 32
    kind = np.uint64 if wide else np.uint32

    def value(b: Batch) -> Array:
        control = y(b)
        offset = (control & np.uint32(whole - 1)).astype(kind)
        width = (control >> np.uint32(16) & np.uint32(127)).astype(kind)
        return field(x(b), offset, np.minimum(width, kind(whole) - offset), signed)

    return _set(one.operands[0], wide, value)


def as_u32(value: Array) -> Array:
    """The same 32 bits, unsigned."""
    return value.view(np.uint32)


def reverse(value: Array) -> Array:
    """The bits of uint32 in reverse order."""
    flat = np.ascontiguousarray(value).reshape(-1, 1).view(np.uint8)
    turned: Array = np.packbits(np.unpackbits(flat, axis=1)[:, ::-1], axis=1).view(np.uint32)
    return np.reshape(turned, value.shape)


def field(value: Array, offset: Array, width: Array, signed: bool) -> Array:
    """`width` bits from bit `offset` on, of uint32 or uint64."""
    whole = value.dtype.type(value.dtype.itemsize * 8)
    up = np.where(width == 0, 0, whole - width - offset).astype(value.dtype)
    down = np.where(width == 0, 0, whole - width).astype(value.dtype)
    raised: Array = value << up
    found: Array = raised >> down
    if signed:
        found = np.right_shift(_signed(raised), _signed(down)).view(value.dtype)
    return np.where(width == 0, value.dtype.type(0), found)


def scalar_load(one: Instruction) -> Step:
    """What `s_load_dword...` does; its offset is a constant or a register."""
    count = int(re.sub(r"\D", "", one.op.partition("dword")[2]) or 1)
    first = scalar(one.operands[0])
    if first is None or not one.op.startswith("s_load_dword"):
        raise UnknownError(one.op)
    base = read_scalar(one.operands[1], True)
    offset = read_scalar(one.operands[2]) if len(one.operands) > 2 else read_scalar("0")

    def step(b: Batch) -> None:
        address = base(b) + offset(b)
        for units, chosen, at in b.memory.places(address, 4 * count, 4):
            for number in range(count):
                b.s[first + number, chosen] = units[at + number]

    return step
