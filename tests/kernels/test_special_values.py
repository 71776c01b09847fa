"""NaN and infinities in the operands of low-rank, convolution and sparse kernels, through PoCL."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tools.kernel_case import module, run
from tools.kernel_cases.conv import shape_of
from tools.kernel_families import family
from tools.kernel_sparse import dimensions

pyopencl = pytest.importorskip("pyopencl")


@pytest.fixture(scope="module")
def device():
    from tools.kernel_run import Device

    try:
        return Device()
    except pyopencl.Error as error:
        pytest.skip(f"no OpenCL device: {error}")


_PLAIN = shape_of((2, 3, 6, 7), 5, (3, 3), pads=(1, 1, 1, 1))
_DEPTHWISE = {
    name: one for name, one in _PLAIN.items() if name not in ("COUT", "GROUP", "BLOCK")
} | {"MULT": 1}
SPECIAL = [
    ("lowrank", {"ACT": 1}, {"M": 9, "K": 10, "R": 3, "N": 7}),
    ("conv", {}, _PLAIN),
    ("conv", {"WEIGHT_BITS": 4, "ACT": 1}, _PLAIN),
    ("conv", {"POINTWISE": 1}, shape_of((1, 13, 4, 5), 6, (1, 1))),
    ("depthwise", {"KSIZE": 3}, _DEPTHWISE),
    ("depthwise", {"ACT": 1}, _DEPTHWISE),
    ("csr", {"TRANSPOSED": 1}, dimensions(9, 23, 3)),
    ("bsr", {"BH": 4, "BW": 4}, dimensions(9, 23, 5)),
    ("nm", {}, dimensions(9, 23, 3)),
]


@pytest.mark.parametrize(("name", "options", "sizes"), SPECIAL)
@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
def test_special_values_reach_exactly_the_results_that_depend_on_them(
    device, name, options, sizes, special
):
    known = family(name)
    case = module(name).make(known.choose(options, sizes), sizes)
    x = case.buffers["x"].reshape(-1)
    x[x.size // 2] = special
    found, _ = run(case, device.launch)
    assert case.worst(found) <= 1, (name, special)
    touched = ~np.isfinite(found["y"].astype(np.float64))
    assert not touched.all(), "padding must not spread what one value makes"
    if name in ("lowrank", "conv") and np.isnan(special):
        assert touched.any()


@pytest.mark.parametrize("name", ["csr", "bsr", "nm"])
def test_only_stored_entries_meet_the_operand(device, name):
    sizes = dimensions(9, 24, 4)
    case = module(name).make(family(name).choose({"TRANSPOSED": 0}, sizes), sizes)
    case.buffers["x"][:] = np.nan
    found, _ = run(case, device.launch)
    empty = np.zeros(9, bool)
    if name == "csr":
        empty = np.diff(case.buffers["starts"]) == 0
    if name == "bsr":
        empty = np.repeat(np.diff(case.buffers["starts"]) == 0, case.values["BH"])[:9]
    np.testing.assert_array_equal(found["y"][empty], 0)
    assert np.isnan(found["y"][~empty]).all()
    assert empty.any() or name == "nm"


def test_the_sum_of_a_split_has_a_fixed_order(device):
    sizes = shape_of((1, 40, 5, 5), 6, (3, 3), pads=(1, 1, 1, 1))
    values = {**family("conv").choose({}, sizes), "SPLIT": 8}
    case = module("conv").make(values, sizes)
    first, _ = run(case, device.launch)
    second, _ = run(case, device.launch)
    assert case.worst(first) <= 1
    np.testing.assert_array_equal(first["y"].view(np.uint32), second["y"].view(np.uint32))


def test_a_broken_operand_is_seen(device):
    """The comparison itself: one weight changed by a hundredth lies outside the bound."""
    case = module("conv").make(family("conv").choose({}, _PLAIN), _PLAIN)
    changed = {**case.buffers, "weight": case.buffers["weight"].copy()}
    changed["weight"][0, 0] *= 1.01
    found, _ = run(dataclasses.replace(case, buffers=changed), device.launch)
    assert case.worst(found) > 1
