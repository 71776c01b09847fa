"""Kernels of weights in few bits: what the cases of their families leave out."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_rx.quant.blocks import BlockFormat, restore, round_to
from onnxslim_rx.quant.packing import pack, pack_zeros
from tools.kernel_case import Case, module, run
from tools.kernel_families import evaluate, family

pyopencl = pytest.importorskip("pyopencl")


@pytest.fixture(scope="module")
def device():
    from tools.kernel_run import Device

    try:
        return Device()
    except pyopencl.Error as error:
        pytest.skip(f"no OpenCL device: {error}")


def made(name: str, sizes: dict[str, int], parameters=None, **options: int) -> Case:
    """A case with the options that the sizes allow and the parameters of their class."""
    known = family(name)
    names = {**known.defaults, **options, **sizes}
    rules = known.table["from_sizes"]
    given = {one: evaluate(rule, names) for one, rule in rules.items()} | options
    values = {**known.choose(given, sizes), **(parameters or {})}
    assert known.legal(values), values
    return module(name).make(values, sizes)


def product(m: int, n: int, k: int, block: int) -> dict[str, int]:
    return {"M": m, "N": n, "K": k, "BLOCK": block}


@pytest.mark.parametrize("name", ["quant_gemv", "quant_gemm"])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_blocks_of_several_widths_with_and_without_zeros(device, name, bits):
    for block, zeros in ((8, 1), (40, 0), (128, 1)):
        case = made(name, product(3, 5, 3 * block - 5, block), BITS=bits, ZEROS=zeros)
        assert case.worst(run(case, device.launch)[0]) <= 1, (block, zeros)


@pytest.mark.parametrize("name", ["quant_gemv", "quant_gemm"])
@pytest.mark.parametrize("real_bits", [16, 32])
def test_nan_and_infinity_propagate_as_the_definition_says(device, name, real_bits):
    case = made(name, product(5, 40, 70, 32), BITS=4, REAL_BITS=real_bits, ACT=1)
    a = case.buffers["a"]
    a[0, 3], a[1, 69], a[2, 7], a[3, [1, 40]] = np.nan, np.inf, -np.inf, [np.inf, -np.inf]
    y = run(case, device.launch)[0]["y"]

    value, _ = case.expected()["y"]
    assert np.isnan(y[0]).all()
    np.testing.assert_array_equal(np.isnan(y), np.isnan(value))
    np.testing.assert_array_equal(np.isinf(y), np.isinf(value))
    assert np.isinf(y[1]).any(), "an infinity times a weight above 0"
    assert case.worst({"y": y}) <= 1, "and the row without any is not touched"


@pytest.mark.parametrize("name", ["quant_gemv", "quant_gemm"])
def test_results_repeat_bit_by_bit(device, name):
    case = made(name, product(3, 20, 1500, 32), {"SPLIT": 4}, BITS=4)
    first, second = (run(case, device.launch)[0]["y"] for _ in range(2))
    assert first.tobytes() == second.tobytes()


@pytest.mark.parametrize(("m", "n", "k"), [(1, 288, 4096), (1, 600, 4096), (1, 4096, 4096)])
def test_a_card_of_36_units_gets_two_groups_a_unit(m, n, k):
    known = family("quant_gemv")
    sizes = product(m, n, k, 32)
    everywhere, group = known.geometry("quant_gemv", known.choose({}, sizes), sizes)
    assert np.prod(everywhere) // np.prod(group) >= 72


def test_few_sums_are_split_over_groups():
    known = family("quant_gemv")
    for m, n in ((1, 72), (2, 144), (4, 144), (8, 288)):
        sizes = product(m, n, 4096, 32)
        everywhere, group = known.geometry("quant_gemv", known.choose({}, sizes), sizes)
        assert np.prod(everywhere) // np.prod(group) >= 72, (m, n)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("symmetric", [False, True])
def test_an_embedding_packed_by_the_passes_is_restored(device, bits, symmetric):
    rng = np.random.default_rng(1)
    form = BlockFormat(bits, 16, symmetric=symmetric, scale_type=np.float32)
    rows, columns = 6, 72
    weight = rng.standard_normal((rows, columns))
    scales = form.stored(rng.uniform(0.5, 2.0, (rows, form.count(columns))) / 2**bits)
    zeros = None if symmetric else rng.integers(0, 2**bits, scales.shape).astype(np.uint8)
    blocks = round_to(weight, scales, zeros, form)
    sizes = {"COUNT": rows, "ROWS": rows, "COLUMNS": columns, "BLOCK": 16}
    case = made("quant_gather", sizes, BITS=bits, ZEROS=int(not symmetric))
    case.buffers["data"][:] = pack(blocks.values, form, zeros)
    case.buffers["scales"][:] = scales
    case.buffers["indices"][:] = np.arange(rows)
    if zeros is not None:
        case.buffers["zeros"][:] = pack_zeros(zeros, bits)

    found = run(case, device.launch)[0]

    exact = restore(blocks)
    assert (np.abs(found["y"] - exact) <= 2.0**-24 * np.abs(exact)).all()
    assert found["fault"][0] == np.iinfo(np.int32).max


@pytest.mark.parametrize("index", [7, -8, 2**31 - 1, -(2**31), 2**40])
@pytest.mark.parametrize("index_bits", [32, 64])
def test_an_index_out_of_range_is_told_and_read_nowhere(device, index, index_bits):
    if index_bits == 32 and index == 2**40:
        pytest.skip("does not fit")
    sizes = {"COUNT": 5, "ROWS": 7, "COLUMNS": 24, "BLOCK": 8}
    case = made("quant_gather", sizes, INDEX_BITS=index_bits)
    case.buffers["indices"][:] = [0, -7, 6, index, index]
    found = run(case, device.launch)[0]
    assert found["fault"][0] == 3
    assert np.isnan(found["y"][3:]).all()
    assert np.isfinite(found["y"][:3]).all()
