"""Assembly of amdgcn as clang writes it: instructions, labels, and what a kernel needs to run."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping

__all__ = ["Argument", "Instruction", "Kernel", "instruction", "parse"]

# what the hardware puts in the first scalar registers, in this order: name, registers
_USER = (
    ("private_segment_buffer", 4), ("dispatch_ptr", 2), ("queue_ptr", 2),
    ("kernarg_segment_ptr", 2), ("dispatch_id", 2), ("flat_scratch_init", 2),
    ("private_segment_size", 1),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One instruction.

    Args:
        op: the mnemonic without its encoding: `v_add_u32`.
        encoding: "e32", "e64", "sdwa", "dpp" or "".
        operands: as written.
        modifiers: what stands behind the operands, by name; "" for flags: {"offset": "16"}.
    """

    op: str
    encoding: str
    operands: tuple[str, ...]
    modifiers: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Argument:
    """A kernel argument.

    Args:
        offset: bytes from the start of the arguments.
        size: in bytes.
        hidden: filled by the runtime, not by the caller.
    """

    offset: int
    size: int
    hidden: bool


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A kernel's machine code and needs.

    Args:
        name: of the kernel.
        code: the instructions.
        labels: place in `code` by label.
        arguments: in order, hidden ones included.
        argument_bytes: size of all arguments.
        user: what the first scalar registers hold: (name, registers).
        group_ids: dimensions whose group number follows, of "xyz".
        vgprs: vector registers.
        sgprs: scalar registers.
        spills: registers that went to memory, of both kinds.
        scratch: bytes of private memory a work-item.
        local_bytes: local memory a group.
        group: most work-items of a group.
    """

    name: str
    code: tuple[Instruction, ...]
    labels: Mapping[str, int]
    arguments: tuple[Argument, ...]
    argument_bytes: int
    user: tuple[tuple[str, int], ...]
    group_ids: str
    vgprs: int
    sgprs: int
    spills: int
    scratch: int
    local_bytes: int
    group: int


def parse(text: str) -> dict[str, Kernel]:
    """The kernels of a file of assembly, by name."""
    names = re.findall(r"^\s+\.amdhsa_kernel (\S+)", text, re.MULTILINE)
    return {name: _kernel(text, name) for name in names}


def _kernel(text: str, name: str) -> Kernel:
    body = re.search(rf"^{re.escape(name)}:.*?^\.Lfunc_end\d+:", text, re.MULTILINE | re.DOTALL)
    needs = text[text.index(f".amdhsa_kernel {name}\n") :].split(".end_amdhsa_kernel")[0]
    if body is None:
        raise ValueError(f"the assembly lacks the code of {name}")
    entry = next(
        one
        for one in text[text.rindex("amdhsa.kernels:") :].split("\n  - ")
        if re.search(rf"\.name:\s+{re.escape(name)}\n", one) and ".kernarg_segment_size" in one
    )

    def flag(key: str, otherwise: int = 0) -> int:
        found = re.search(rf"\.amdhsa_{key} (\d+)", needs)
        return int(found.group(1)) if found else otherwise

    def count(key: str) -> int:
        found = re.search(rf"^    \.{key}:\s+(\d+)", entry, re.MULTILINE)
        return int(found.group(1)) if found else 0

    code, labels = _code(body.group(0))
    axes = [one for one in "xyz" if flag(f"system_sgpr_workgroup_id_{one}", int(one == "x"))]
    return Kernel(
        name,
        code,
        labels,
        tuple(_arguments(entry)),
        count("kernarg_segment_size"),
        tuple(one for one in _USER if flag(f"user_sgpr_{one[0]}")),
        "".join(axes),
        count("vgpr_count"),
        count("sgpr_count"),
        count("vgpr_spill_count") + count("sgpr_spill_count"),
        count("private_segment_fixed_size"),
        count("group_segment_fixed_size"),
        count("max_flat_workgroup_size"),
    )


def _arguments(entry: str) -> Iterator[Argument]:
    for one in re.split(r"\n\s+- (?=\.)", entry):
        kind = re.search(r"\.value_kind:\s+(\S+)", one)
        offset = re.search(r"\.offset:\s+(\d+)", one)
        size = re.search(r"\.size:\s+(\d+)", one)
        if kind and offset and size:
            yield Argument(int(offset[1]), int(size[1]), kind[1].startswith("hidden"))


def _code(body: str) -> tuple[tuple[Instruction, ...], dict[str, int]]:
    code: list[Instruction] = []
    labels: dict[str, int] = {}
    for line in body.splitlines()[1:]:
        line = re.split(r";|//", line)[0].strip()
        label = re.fullmatch(r"(\.?\w+):", line)
        if label:
            labels[label[1]] = len(code)
        elif line and not line.startswith("."):
            code.append(instruction(line))
    return tuple(code), labels


def instruction(line: str) -> Instruction:
    """One line of assembly, without comments."""
    mnemonic, _, rest = line.partition(" ")
    found = re.fullmatch(r"(\w+?)(?:_(e32|e64|sdwa|dpp))?", mnemonic)
    assert found is not None, "a mnemonic is a word"
    if mnemonic == "s_waitcnt":
        waits = dict(re.findall(r"(\w+)\((\d+)\)", rest))
        return Instruction(mnemonic, "", (), waits)
    operands = [one.strip() for one in re.split(r",(?![^\[]*\])", rest) if one.strip()]
    modifiers: dict[str, str] = {}
    if operands:
        operands[-1], *behind = operands[-1].split()
        for one in behind:
            key, _, value = one.partition(":")
            modifiers[key] = value
    return Instruction(found[1], found[2] or "", tuple(operands), modifiers)
