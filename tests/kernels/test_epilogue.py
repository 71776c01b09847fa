"""kernels/cl/epilogue.clh: its activations within the bound that it states, in machine code."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("pyopencl")

from tools.isa_compile import COMPILERS, available, compile_source
from tools.isa_emulate import launch
from tools.kernel_families import FOLDER
from tools.kernel_reference import UNIT, activation

KERNEL = """
__kernel void act(const float lo, const float hi, const __global float* restrict x,
                  __global float* restrict y) {
  const size_t i = get_global_id(0);
  y[i] = epilogue(x[i], 0.25f, -0.5f, lo, hi);
}
"""
LO, HI = np.float32(-0.75), np.float32(1.5)
SPECIAL = np.array([0, -0.0, np.inf, -np.inf, np.nan, 1e30, -1e30, 3e38, -3e38, 1e-30], np.float32)


def computed(compiler, x, *defines):
    source = (FOLDER / "epilogue.clh").read_text(encoding="utf-8") + KERNEL
    y = np.full(x.size, np.nan, np.float32)
    code = compile_source(source, defines, compiler)["act"]
    launch(code, (x.size // 64, 1, 1), (64, 1, 1), [LO, HI, x, y])
    return y


@pytest.fixture(params=COMPILERS)
def compiler(request):
    if not available(request.param):
        pytest.skip(f"{request.param} or rocm-device-libs is not installed")
    return request.param


@pytest.mark.parametrize("act", range(6))
def test_activations_lie_within_the_stated_bound(compiler, act):
    spread = np.linspace(-16, 16, 64 * 255)
    fine = np.geomspace(1e-20, 20, 32)
    x = np.concatenate([spread, fine, -fine]).astype(np.float32)
    y = computed(compiler, x, f"ACT={act}")
    values = {"ACT": act, "REAL_BITS": 32}
    exact, bound = activation(values, x.astype(np.float64), np.zeros(x.size), float(LO), float(HI))

    assert (np.abs(y - exact) <= bound + 2.0**-126).all()


@pytest.mark.parametrize("act", range(6))
def test_special_values_are_as_ieee_has_them(compiler, act):
    x = np.resize(SPECIAL, 64)
    y = computed(compiler, x, f"ACT={act}")[: SPECIAL.size]
    infinite = {0: -np.inf, 1: 0.0, 2: LO, 3: np.nan, 4: np.nan, 5: np.nan}[act]

    assert np.isnan(y[4])
    assert y[2] == (HI if act == 2 else np.inf)
    np.testing.assert_equal(y[3], np.float32(infinite))
    assert y[6] == (x[6] if act == 0 else LO if act == 2 else 0)
    assert y[5] == (HI if act == 2 else x[5])


def test_bias_and_residual_come_before_the_activation(compiler):
    x = np.linspace(-2, 2, 64, dtype=np.float32)
    y = computed(compiler, x, "ACT=1", "BIAS=1", "RESIDUAL=1")

    expected = np.maximum(x.astype(np.float64) - 0.25, 0)
    assert (np.abs(y - expected) <= 2 * UNIT * (np.abs(x) + 1)).all()
