"""tools/isa.py: machine code for gfx803, its metrics, the emulator and the timing model."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

pytest.importorskip("pyopencl")

from tools import isa, isa_costs, isa_table
from tools.isa_assembly import instruction
from tools.isa_compile import COMPILERS, CompileError, available, compile_source
from tools.isa_emulate import Emulator, launch
from tools.isa_metrics import measure
from tools.isa_model import estimate
from tools.isa_report import broken, compiled_rows
from tools.isa_state import UnknownError
from tools.kernel_case import cases, run
from tools.kernel_families import families, family

COMPILER = next((one for one in COMPILERS if available(one)), "clang-15")
pytestmark = pytest.mark.skipif(
    not available(COMPILER), reason="clang-15 or clang-19 with rocm-device-libs is not installed"
)

WORK = """
__kernel void work(const int n, const float scale, const __global float* restrict x,
                   __global float* restrict y) {
  __local float part[64];
  const int id = get_local_id(0), at = get_global_id(0);
  float sum = 0.0f;
  for (int i = 0; i < n; i++) sum = mad(scale, x[at * n + i], sum);
  part[id] = sum;
  barrier(CLK_LOCAL_MEM_FENCE);
  if (id % 3 == 0) sum += part[63 - id];
  y[at] = sum;
}
"""
STRIDED = """
__attribute__((reqd_work_group_size(64, 1, 1)))
__kernel void strided(__global float* y) {
  __local float part[64 * STRIDE];
  const int id = get_local_id(0);
  part[id * STRIDE] = id;
  barrier(CLK_LOCAL_MEM_FENCE);
  y[id] = part[(63 - id) * STRIDE];
}
"""


@pytest.fixture
def numbers():
    return np.random.default_rng(3).standard_normal((128, 7)).astype(np.float32)


def emulated(numbers, groups=2):
    y = np.full(128, np.nan, np.float32)
    code = compile_source(WORK, (), COMPILER)["work"]
    scalars = (np.int32(7), np.float32(0.5))
    ran = launch(code, (groups, 1, 1), (64, 1, 1), [*scalars, numbers, y])
    return code, ran, y


def expected(numbers):
    """In float32 and the kernel's order: the emulator has to agree to the bit."""
    sums = np.zeros(128, np.float32)
    for column in numbers.T:
        sums = np.float32(0.5) * column + sums
    groups = sums.reshape(2, 64)
    third = np.arange(64) % 3 == 0
    return np.where(third, groups + groups[:, ::-1], groups).ravel()


def test_emulated_machine_code_agrees_to_the_bit(numbers):
    _, ran, y = emulated(numbers)

    np.testing.assert_array_equal(y, expected(numbers))
    assert len(ran.traces) == 2
    assert ran.touched == [2, 3]


@pytest.mark.parametrize("op", ["v_mac_f32", "v_lshlrev_b32"])
def test_a_broken_instruction_is_seen(numbers, monkeypatch, op):
    kinds, function = isa_table.TABLE[op]
    monkeypatch.setitem(isa_table.TABLE, op, (kinds, lambda *given: function(*given) + 1))

    try:
        _, _, y = emulated(numbers)
    except IndexError:  # a wrong address is an answer as well
        return
    assert not np.array_equal(y, expected(numbers))


def test_accesses_beyond_a_buffer_are_errors(numbers):
    with pytest.raises(IndexError, match="of a buffer of 3584"):
        emulated(numbers, groups=3)


def test_unknown_instructions_are_named(numbers, monkeypatch):
    monkeypatch.delitem(isa_table.TABLE, "v_mac_f32")

    with pytest.raises(UnknownError, match="v_mac_f32"):
        emulated(numbers)


def test_arguments_must_fit(numbers):
    code = compile_source(WORK, (), COMPILER)["work"]
    with pytest.raises(ValueError, match="takes 4 arguments, not 1"):
        launch(code, (1, 1, 1), (64, 1, 1), [np.int32(7)])


@pytest.mark.parametrize(("stride", "conflicts"), [(1, 0.0), (33, 0.0), (2, 1.0), (32, 1.0)])
def test_bank_conflicts_are_counted(stride, conflicts):
    y = np.zeros(64, np.float32)
    code = compile_source(STRIDED, (f"STRIDE={stride}",), COMPILER)["strided"]
    ran = launch(code, (1, 1, 1), (64, 1, 1), [y])
    found = estimate(code, ran.traces, 1, y.nbytes)

    np.testing.assert_array_equal(y, np.arange(64)[::-1])
    assert (found.conflicts > 0) == (conflicts > 0)


def test_metrics_of_the_hot_loop():
    code = compile_source(WORK, (), COMPILER)["work"]
    found = measure(code)

    assert (found.spills, found.scratch, found.local_bytes) == (0, 0, 256)
    assert 0 < found.fma_density < 1
    assert found.loop.memory >= 1


@pytest.mark.parametrize(
    ("needs", "waves"),
    [
        ((24, 16, 0, 256), 10), ((25, 16, 0, 256), 9), ((84, 16, 0, 256), 3),
        ((128, 16, 0, 256), 2), ((129, 16, 0, 256), 1), ((24, 102, 0, 256), 7),
        ((24, 16, 32768, 256), 2), ((64, 16, 0, 64), 4),
    ],
)  # fmt: skip
def test_waves_that_fit(needs, waves):
    assert isa_costs.waves(*needs) == waves


def test_widths_and_clocks():
    assert isa_costs.width("flat_load_dwordx4") == 16
    assert isa_costs.width("flat_load_ushort") == 2
    assert isa_costs.width("ds_read2_b32") == 8
    assert isa_costs.valu_clocks("v_fma_f32") == 16
    assert isa_costs.valu_clocks("v_mac_f32") == 4
    assert isa_costs.valu_clocks("v_lshlrev_b64") == 32


def test_the_model_follows_occupancy_and_bandwidth(numbers):
    code, ran, _ = emulated(numbers)
    more = [estimate(code, ran.traces, groups, 0.0).seconds for groups in (36, 72, 36 * 64)]
    bound = estimate(code, ran.traces, 36 * 64, 1e9)

    assert more[0] <= more[1] < more[2] < 64 * more[0]  # waves hide each other's waits
    assert bound.seconds > more[2]


def test_instructions_are_parsed():
    line = "v_or_b32_sdwa v1, v[2:3], -v4 dst_sel:WORD_1 src0_sel:BYTE_0 clamp"
    found = instruction(line)

    assert (found.op, found.encoding) == ("v_or_b32", "sdwa")
    assert found.operands == ("v1", "v[2:3]", "-v4")
    assert found.modifiers == {"dst_sel": "WORD_1", "src0_sel": "BYTE_0", "clamp": ""}
    assert instruction("s_waitcnt vmcnt(1) lgkmcnt(0)").modifiers == {"vmcnt": "1", "lgkmcnt": "0"}


def test_what_does_not_compile_is_told():
    with pytest.raises(CompileError, match="undeclared"):
        compile_source("__kernel void f() { undeclared(); }", (), COMPILER)


def test_the_command_line(capsys):
    assert isa.main(["run", "depthwise", "--compiler", COMPILER]) == 0
    assert "error / bound" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        isa.main(["table", "no-such-family"])
    assert "no family no-such-family" in capsys.readouterr().err


@pytest.mark.parametrize("name", [one.name for one in families()])
def test_small_cases_of_every_family_in_the_emulator(name):
    emulator = Emulator(COMPILER)
    for case in list(cases(name))[:3]:
        found, _ = run(case, emulator.launch)
        assert case.worst(found) <= 1, (case.name, dict(case.values))


@pytest.mark.parametrize("name", [one.name for one in families()])
def test_no_kernel_spills(name):
    assert broken(family(name), compiled_rows(family(name), COMPILER)) == []


def test_bars_are_kept_and_told():
    known = family("gemm")
    row = next(one for one in compiled_rows(known, COMPILER) if one.size_class == "large")
    fat = dataclasses.replace(row, metrics=dataclasses.replace(row.metrics, vgprs=129, spills=2))

    assert broken(known, [row]) == []
    assert broken(known, [fat]) == [
        f"gemm/gemm ({row.case}): spills is 2, the bar is 0",
        f"gemm/gemm ({row.case}): vgprs is 129, the bar is 128",
    ]
