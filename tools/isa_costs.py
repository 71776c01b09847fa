"""What instructions cost on GCN 3, in clocks, and how many waves fit on a SIMD.

Sources: AMD, Graphics Core Next Architecture Generation 3, instruction set reference, 2016 (waves,
registers, local memory); M. Paprocki, CLRX documentation, GcnTimings (clocks; `v_fma_f32` runs at a
quarter of the rate on this generation's small parts, `v_mac_f32` and `v_mad_f32` at the full one).
"""

from __future__ import annotations

import re

from tools.isa_assembly import Instruction

__all__ = ["CLOCK", "PEAK_FLOPS", "UNITS", "kind", "local_clocks", "valu_clocks", "waves", "width"]

UNITS = 36  # compute units of an RX 580
CLOCK = 1.34e9  # Hz
PEAK_FLOPS = UNITS * 64 * 2 * CLOCK

_SLOW = re.compile(
    r"v_(mul_lo_[iu]32|mul_hi_[iu]32|mad_[iu]64_[iu]32|fma_f32|div_\w+_f32"
    r"|(rcp|rcp_iflag|rsq|sqrt|exp|log|sin|cos)_f(16|32))"
)
_SLOWEST = re.compile(r"v_(\w+_f64|(lshl|lshr|ashr)rev_[bi]64|mul_f64)")
_FMA = re.compile(r"v_(mac|mad|fma|madak|madmk)_f32")
# of the local memory of a compute unit, for a wave without bank conflicts: dwords -> clocks
_READ = {1: 2, 2: 4, 3: 8, 4: 8}
_WRITE = {1: 4, 2: 8, 3: 10, 4: 10}


def kind(op: str) -> str:
    """Which unit an instruction goes to: V, L (local), M (memory), C (constants), W, B, J, E, S."""
    if op.startswith("v_"):
        return "V"
    if op.startswith("ds_"):
        return "L"
    if op.startswith(("flat_", "global_", "buffer_", "scratch_")):
        return "M"
    if op.startswith("s_load"):
        return "C"
    named = {"s_waitcnt": "W", "s_barrier": "B", "s_endpgm": "E", "s_branch": "J"}
    return named.get(op, "J" if op.startswith("s_cbranch") else "S")


def valu_clocks(op: str) -> int:
    """Clocks of a SIMD for a wave of 64."""
    return 32 if _SLOWEST.fullmatch(op) else 16 if _SLOW.fullmatch(op) else 4


def is_fma(op: str) -> bool:
    """Whether it multiplies and adds floats."""
    return _FMA.fullmatch(op) is not None


def width(op: str) -> int:
    """Bytes that a work-item moves with this instruction of memory or local memory."""
    found = re.search(r"_(?:dword(?:x(\d))?|b(\d+)|[us]?(byte|short)|([ui])(8|16))$", op)
    if found is None:
        raise ValueError(f"{op}: unknown width")
    words, bits, small, _, small_bits = found.groups()
    if small or small_bits:
        return 1 if small == "byte" or small_bits == "8" else 2
    size = int(bits) // 8 if bits else 4 * int(words or 1)
    return size * (2 if re.match(r"ds_(read|write)2", op) else 1)


def local_clocks(op: str) -> int:
    """Clocks of a compute unit's local memory for a wave, where no bank conflicts."""
    words = max(1, width(op) // 4)
    if "read" in op:
        return _READ[words]
    if "write2" in op:
        return {2: 6, 4: 10}[words]
    return _WRITE[words]


def waves(vgprs: int, sgprs: int, local_bytes: int, group: int) -> float:
    """Waves that a SIMD can hold: at most 10; fewer than 1 cannot run.

    Args:
        vgprs: of a work-item; 256 in steps of 4.
        sgprs: of a wave; 800 a SIMD in steps of 16.
        local_bytes: of a group; 65536 a compute unit in steps of 512.
        group: work-items of a group.
    """
    found = min(10.0, 256 // (max(vgprs, 1) + 3 & ~3), 800 // (max(sgprs, 1) + 15 & ~15))
    waves_of_group = -(-group // 64)
    groups = int(found * 4 // waves_of_group)
    if local_bytes:
        groups = min(groups, 65536 // (local_bytes + 511 & ~511))
    return groups * waves_of_group / 4


def weight(instruction: Instruction) -> int:
    """Clocks of a SIMD, 0 for what other units do."""
    return valu_clocks(instruction.op) if kind(instruction.op) == "V" else 0
