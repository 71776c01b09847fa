"""FactorizeChains: chains that are there get lower ranks, and compute what they promise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from onnxslim_rx.ir import clone
from onnxslim_rx.passbase import Candidate, LayerStatistics, Stage
from onnxslim_rx.stages import apply_treatments
from onnxslim_rx_passes.factorize_chains import FactorizeChains
from onnxslim_rx_passes.factorize_conv import FactorizeConv
from onnxslim_rx_passes.factorize_gemm import FactorizeGemm
from tests.passes.chains import (
    CONV,
    FINE,
    LINEAR,
    carried_out,
    chain_of,
    constants,
    model_of,
    offers,
    output,
    restored,
)
from tests.passes.conftest import build

NAME = FactorizeChains.name
Rng = np.random.Generator


def distance(one: Any, other: Any) -> float:
    """Relative, in the Frobenius norm."""
    wide = other.astype(np.float64)
    return float(np.linalg.norm(one - wide) / np.linalg.norm(wide))


@pytest.mark.parametrize("case", LINEAR | CONV)
def test_what_is_probed_is_what_is_carried_out(case: str, rng: Rng) -> None:
    model = model_of(case, rng)
    x = rng.standard_normal((LINEAR | CONV)[case][2]).astype("f")
    found = offers(model)
    assert len(found) > 2
    for candidate in found[:: len(found) - 1]:
        (stage,) = candidate.stages
        probed, treated = clone(model), clone(model)
        restored(probed, stage)
        carried_out(treated, stage)
        # sums of at most 81 terms, three of them: 2^-24 * 250 = 1.5e-5
        assert distance(output(treated, x), output(probed, x)) < 1.5e-5
        names = {str(value.name) for value in chain_of(model).weights}
        kept = treated.graph.initializers
        sizes = {name: kept[name].const_value.nbytes for name in names}  # type: ignore[union-attr]
        assert sum(sizes.values()) == candidate.bytes
        before = model.graph.initializers
        for name, size in sizes.items():
            was = before[name].const_value.nbytes  # type: ignore[union-attr]
            assert was - size == candidate.saves[name]
        assert [node.op_type for node in treated.graph] == [n.op_type for n in model.graph]


@pytest.mark.parametrize("case", LINEAR | CONV)
def test_all_ranks_change_nothing(case: str, rng: Rng) -> None:
    model = model_of(case, rng)
    chain, one = chain_of(model), FactorizeChains(min_elements=1)
    full = min(chain.ranks[0], 10) if case == "wide middle" else chain.ranks[0]
    names = ("rank",) if len(chain.ranks) == 1 else ("rank_in", "rank_out")
    ranks = dict(zip(names, (full, *chain.ranks[1:]), strict=True))
    x = rng.standard_normal((LINEAR | CONV)[case][2]).astype("f")
    before = output(model, x)
    restored(model, Stage(one.name, {"weighting": "none", **ranks}))
    assert distance(output(model, x), before) < 1.5e-5


def statistics(
    x: Any, patches: Callable[[Any], Any] | None = None, rows: int | None = None
) -> LayerStatistics:
    """Of rows, as calibration gives them to a unit with one member."""
    found = x if patches is None else patches(x)
    own = LayerStatistics(
        found.T @ found,
        None,
        rows or len(found),
        None,
        x.shape,
        mean=found.mean(axis=0),
        patches=patches is not None,
    )
    return LayerStatistics(None, None, len(found), None, x.shape, members=(own,))


def lost(model: ir.Model, candidate: Candidate, stats: LayerStatistics | None, x: Any) -> float:
    """The error of the output without the bias of the last part."""
    (stage,) = candidate.stages
    treated = clone(model)
    carried_out(treated, stage, stats)
    before = model.graph.initializers.get("c")
    offset: Any = 0.0
    if before is not None and before.const_value is not None:
        row = before.const_value.numpy()
        sizes = (1, -1) if x.ndim == 2 else (1, -1, *[1] * (x.ndim - 2))
        offset = row.reshape(sizes)
    return distance(output(treated, x) - offset, output(model, x) - offset)


@pytest.mark.parametrize("case", ["matmuls", "gemms"])
def test_errors_of_matrices_are_those_of_the_output(case: str, rng: Rng) -> None:
    model = model_of(case, rng)
    x = (rng.standard_normal((400, 20)) * np.logspace(0, -1, 20) + 0.5).astype("f")
    stretched = build(
        f"g (float[400, 20] x) => (float[?, ?] y) {{ {LINEAR[case][0]} }}",
        {n: v.const_value.numpy() for n, v in model.graph.initializers.items()},  # type: ignore[union-attr]
    )
    stats = statistics(x.astype(np.float64))
    weighed = offers(stretched, stats)
    for candidate, blind in zip(weighed, offers(stretched), strict=True):
        error = lost(stretched, candidate, stats, x)
        assert candidate.error == pytest.approx(error, rel=0.05)  # the ridge adds a little
        assert error <= lost(stretched, blind, None, x) * 1.001


def test_errors_by_patches_of_groups_are_those_of_the_output(rng: Rng) -> None:
    nodes, shapes, _ = CONV["groups"]
    weights = {name: rng.standard_normal(shape).astype("f") for name, shape in shapes.items()}
    model = build(f"g (float[200, 10, 8] x) => (float[?, ?, ?] y) {{ {nodes} }}", weights)
    x = np.cumsum(rng.standard_normal((200, 10, 8)), axis=2).astype("f")
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, 3, axis=2)  # (N, C, L, 3)
    stats = statistics(x, lambda _: windows.transpose(0, 2, 1, 3).reshape(-1, 30))
    for candidate in offers(model, stats):
        assert candidate.error == pytest.approx(lost(model, candidate, stats, x), rel=0.05)


def test_patches_and_channels_weigh_convolutions(rng: Rng) -> None:
    model = model_of("spatial", rng)
    x = np.cumsum(rng.standard_normal((2, 5, 8, 8)), axis=2).astype("f")  # rows alike
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, 3, axis=2)  # (N, C, H, W, 3)
    rows = windows.transpose(0, 2, 3, 1, 4).reshape(-1, 15)
    stats = statistics(x, lambda _: rows)
    weighed = offers(model, stats)
    assert dict(weighed[0].stages[0].options)["weighting"] == "channels"
    for candidate, blind in zip(weighed, offers(model), strict=True):
        # the second part sums over three neighbours, which are alike: errors add up
        assert lost(model, candidate, stats, x) <= lost(model, blind, None, x)
    channels = x.astype(np.float64).transpose(0, 2, 3, 1).reshape(-1, 5)
    found = offers(model, statistics(channels))
    assert [c.error for c in found] == sorted(c.error for c in found)


def test_a_gram_matrix_of_another_size_is_no_statistic_of_it(rng: Rng) -> None:
    with pytest.raises(ValueError, match="Gram matrix"):
        offers(model_of("matmuls", rng), statistics(rng.standard_normal((50, 19))))


def test_a_product_of_lower_rank_is_cut_without_loss(rng: Rng) -> None:
    model = model_of("wide middle", rng)
    first = offers(model)[0]
    assert first.stages[0].options["rank"] == 10
    assert first.error < 1e-7


@pytest.mark.parametrize("method", ["channel-output", "channel-input", "spatial", "tucker", "cp"])
def test_what_factorize_conv_made_is_a_chain(method: str, rng: Rng) -> None:
    kernel = rng.standard_normal((16, 12, 3, 3)).astype("f")
    node = "Conv<pads = [1, 1, 1, 1]>(x, w, b)"
    text = f"g (float[1, 12, 6, 6] x) => (float[?, ?, ?, ?] y) {{ y = {node} }}"
    model = build(text, {"w": kernel, "b": kernel[:, 0, 0, 0]})
    one = FactorizeConv(min_elements=1, method=method, ratio=0.7)
    (layer,) = one.layers(model)
    candidate = next(iter(one.candidates(layer, None, FINE)))  # type: ignore[arg-type]
    treatment = (layer, candidate.stages, None)
    assert apply_treatments(model, [treatment], {one.name: one}) == []  # type: ignore[list-item]
    before = sum(array.size for array in constants(chain_of(model)))
    again = offers(model, ratio=0.7)
    carried_out(model, again[0].stages[0])
    assert sum(array.size for array in constants(chain_of(model))) <= 0.7 * before


def test_what_factorize_gemm_made_comes_out_as_if_cut_once(rng: Rng) -> None:
    weight = rng.standard_normal((20, 24)).astype("f")
    text = "g (float[5, 20] x) => (float[5, 24] y) { y = MatMul(x, w) }"
    twice, once = build(text, {"w": weight}), build(text, {"w": weight})
    one = FactorizeGemm(min_elements=1, min_saving=0.0)
    for model, rank in ((twice, 10), (once, 4)):
        stage = Stage(one.name, {"method": "svd", "rank": rank})
        (layer,) = one.layers(model)
        assert apply_treatments(model, [(layer, (stage,), None)], {one.name: one}) == []  # type: ignore[list-item]
    carried_out(twice, Stage(NAME, {"weighting": "none", "rank": 4}))
    x = rng.standard_normal((5, 20)).astype("f")
    assert distance(output(twice, x), output(once, x)) < 1e-5


def test_options_settle_the_ranks(rng: Rng) -> None:
    model = model_of("tucker", rng)
    (half,) = offers(model, ratio=0.5)
    now = sum(chain_of(model).entries(chain_of(model).ranks))
    assert 0.3 * now < (half.bytes // 4) <= 0.5 * now + 7
    (near,) = offers(model, max_rel_error=0.3)
    assert 0.1 < near.error <= 0.3
    assert offers(model, max_rel_error=0.0) == []
    assert offers(model, min_saving=0.99) == []


def test_float16(rng: Rng) -> None:
    model = model_of("cp", rng, "float16")
    x = rng.standard_normal((2, 9, 8, 8)).astype(np.float16)
    stage = offers(model)[0].stages[0]
    probed, treated = clone(model), clone(model)
    restored(probed, stage)
    carried_out(treated, stage)
    assert distance(output(treated, x), output(probed, x)) < 1e-2
    assert {v.dtype for v in treated.graph.initializers.values()} == {ir.DataType.FLOAT16}
