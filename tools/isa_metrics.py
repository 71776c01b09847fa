"""What machine code tells before it runs: registers, occupancy, and the mix of its hot loop."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from tools import isa_costs
from tools.isa_assembly import Instruction, Kernel

__all__ = ["Metrics", "Mix", "measure"]


@dataclasses.dataclass(frozen=True)
class Mix:
    """Counts over some instructions.

    Args:
        instructions: all of them.
        valu: of the vector units.
        fma: multiply-adds of floats.
        valu_clocks: clocks of a SIMD.
        local_clocks: clocks of the local memory of the compute unit, without conflicts.
        memory: loads from and stores to memory.
    """

    instructions: int
    valu: int
    fma: int
    valu_clocks: int
    local_clocks: int
    memory: int


@dataclasses.dataclass(frozen=True)
class Metrics:
    """What a kernel needs and does.

    Args:
        vgprs: vector registers.
        sgprs: scalar registers.
        spills: registers that went to memory.
        scratch: private bytes of a work-item.
        local_bytes: of a group.
        waves: a SIMD can hold; 10 at most.
        loop: the innermost loop with most multiply-adds; the whole kernel where there is none.
        slow: instructions that the card does slowly and a kernel can avoid: fma(), 64-bit shifts
            in loops.
    """

    vgprs: int
    sgprs: int
    spills: int
    scratch: int
    local_bytes: int
    waves: float
    loop: Mix
    slow: int

    @property
    def fma_density(self) -> float:
        """Share of multiply-adds in the vector instructions of the hot loop."""
        return self.loop.fma / max(1, self.loop.valu)

    @property
    def local_share(self) -> float:
        """Clocks of local memory over clocks of the vector units, in the hot loop of 4 waves."""
        return 4 * self.loop.local_clocks / max(1, self.loop.valu_clocks)


def measure(kernel: Kernel) -> Metrics:
    """The metrics of `kernel`."""
    loops = [kernel.code[first : last + 1] for first, last in _innermost(kernel)]
    hot = max(map(_mix, loops), key=lambda one: (one.fma, one.valu), default=_mix(kernel.code))
    slow = ("v_fma_f32", "v_lshlrev_b64", "v_lshrrev_b64", "v_ashrrev_i64")
    return Metrics(
        kernel.vgprs,
        kernel.sgprs,
        kernel.spills,
        kernel.scratch,
        kernel.local_bytes,
        isa_costs.waves(kernel.vgprs, kernel.sgprs, kernel.local_bytes, kernel.group),
        hot,
        sum(one.op in slow for loop in loops for one in loop),
    )


def _innermost(kernel: Kernel) -> list[tuple[int, int]]:
    """First and last instruction of loops that hold no other."""
    loops = {
        (kernel.labels[one.operands[0]], place)
        for place, one in enumerate(kernel.code)
        if isa_costs.kind(one.op) == "J" and kernel.labels[one.operands[0]] <= place
    }
    return [
        (first, last)
        for first, last in sorted(loops)
        if not any((a, b) != (first, last) and a >= first and b <= last for a, b in loops)
    ]


def _mix(code: Sequence[Instruction]) -> Mix:
    kinds = [isa_costs.kind(one.op) for one in code]
    local = sum(
        isa_costs.local_clocks(one.op) for one, kind in zip(code, kinds, strict=True) if kind == "L"
    )
    return Mix(
        len(code),
        kinds.count("V"),
        sum(isa_costs.is_fma(one.op) for one in code),
        sum(map(isa_costs.weight, code)),
        local,
        kinds.count("M"),
    )
