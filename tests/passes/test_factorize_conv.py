"""FactorizeConv: what is offered and refused, and options."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from onnxslim_rx.errors import InputError
from onnxslim_rx.passbase import LayerStatistics, Skipped
from onnxslim_rx.stages import apply_treatments
from onnxslim_rx_passes import _conv_inputs, _conv_ranks
from onnxslim_rx_passes._conv_structures import AUTO, METHODS
from onnxslim_rx_passes.factorize_conv import FactorizeConv
from tests.passes.conftest import build
from tests.passes.convolutions import (
    FINE,
    TARGET,
    Array,
    conv_of,
    noise,
    offers,
    only_layer,
    options_of,
    white,
)


def tucker_kernel(rng: np.random.Generator, m: int, c: int, r: int, s: int) -> Array:
    """(M, C, 3, 3) of rank r along the channels and s along the filters, and a little noise."""
    core, left, right = noise(rng, s, r, 3, 3), noise(rng, c, r), noise(rng, m, s)
    kernel = np.einsum("srxy,cr,ms->mcxy", core, left, right)
    found: Array = (kernel + 1e-3 * np.std(kernel) * noise(rng, m, c, 3, 3)).astype(np.float32)
    return found


def refusal(one: FactorizeConv, model: ir.Model) -> str:
    (found,) = one.layers(model)
    assert isinstance(found, Skipped)
    return found.why


def test_auto_offers_ladders_of_five_methods(rng):
    found = offers(conv_of(noise(rng, 40, 32, 3, 3)))
    assert tuple(dict.fromkeys(options_of(c)["method"] for c in found)) == AUTO
    for candidate in found:
        options = options_of(candidate)
        ranks = [options[name] for name in ("rank", "rank_in", "rank_out") if name in options]
        assert {rank % 16 for rank in ranks} == {0}
        assert options["weighting"] == "none"
        assert ("axis" in options) == (options["method"] == "spatial")
        assert candidate.bytes <= 0.9 * 4 * 40 * 32 * 9
        assert candidate.flops <= 0.9 * 2 * 40 * 32 * 9


def test_named_methods_alone_are_offered(rng):
    found = offers(conv_of(noise(rng, 32, 32, 3, 3)), method="tt, cp-separable")
    assert {options_of(c)["method"] for c in found} == {"tt", "cp-separable"}
    every = offers(conv_of(noise(rng, 32, 32, 3, 3)), method="auto,tt")
    assert {options_of(c)["method"] for c in every} == {*AUTO, "tt"}


def test_a_pointwise_kernel_is_cut_where_there_are_fewer_positions(rng):
    plain = offers(conv_of(noise(rng, 80, 96, 1, 1), "strides = [2, 2]"))
    assert {options_of(c)["method"] for c in plain} == {"channel-output"}
    assert [options_of(c)["rank"] for c in plain] == [32, 16]
    assert [c.flops for c in plain] == [2 * 32 * 176, 2 * 16 * 176]
    flipped = offers(conv_of(noise(rng, 96, 80, 1, 1), "strides = [2, 2]", op="ConvTranspose"))
    assert {options_of(c)["method"] for c in flipped} == {"channel-input"}
    assert [c.flops for c in flipped] == [c.flops for c in plain]


def test_strides_make_parts_before_them_dear(rng):
    kernel = noise(rng, 64, 64, 3, 3)
    dense = offers(conv_of(kernel), method="channel-input", rank=16)
    strided = offers(conv_of(kernel, "strides = [2, 2]"), method="channel-input", rank=16)
    assert strided[0].bytes == dense[0].bytes
    assert strided[0].flops - dense[0].flops == 2 * 3 * 64 * 16


@pytest.mark.parametrize(
    ("dims", "attributes", "options", "reason"),
    [
        ((24, 1, 3, 3), "group = 24", {}, "depthwise"),
        ((4, 4, 1, 1), "group = 1", {}, "a chain of rank 1 keeps 50% of it"),
        ((2, 2, 3), "group = 1", {"method": "tucker", "min_saving": 0.5}, "keeps 58% of it"),
        ((18, 24, 1, 1), "group = 1", {"method": "spatial"}, "one position"),
        ((18, 24, 1, 5), "group = 1", {"method": "spatial"}, "lies along one axis"),
        ((18, 24, 1, 1), "group = 1", {"method": "channel-input"}, "channel-output does the same"),
    ],
)
def test_refusals(dims, attributes, options, reason, rng):
    one = FactorizeConv(**({"min_elements": 1, "min_saving": 0.55} | options))
    assert reason in refusal(one, conv_of(noise(rng, *dims), attributes))


def test_output_shape(rng):
    kernel, own = noise(rng, 24, 18, 3, 3), "strides = [2, 2], output_shape = "
    found = offers(conv_of(kernel, f"{own}[12, 13]", op="ConvTranspose"), FINE)
    assert {options_of(c)["method"] for c in found} == set(AUTO) - {"spatial"}
    model = conv_of(kernel, f"{own}[1, 18, 12, 13]", op="ConvTranspose")
    assert "output_shape has 4 sizes" in refusal(FactorizeConv(min_elements=1), model)
    spatial = FactorizeConv(method="spatial", min_elements=1)
    fixed = conv_of(kernel, f"{own}[12, 13]", op="ConvTranspose")
    assert "output_shape" in refusal(spatial, fixed)


def test_narrow_groups_get_no_ladder(rng):
    kernel = noise(rng, 96, 31, 3, 3)
    assert offers(conv_of(kernel, "group = 3"), method="channel-output") == []
    (one,) = offers(conv_of(kernel, "group = 3"), method="channel-output", rank=4)
    assert one.bytes == 4 * 3 * 4 * (31 * 9 + 32)
    wider = offers(conv_of(noise(rng, 96, 32, 3, 3), "group = 3"), method="channel-output")
    assert len(wider) > 0


def test_a_kernel_that_two_nodes_read_and_factors_are_left_alone(rng):
    text = "g (float[1, 24, 5] x) => (float[1, 24, 5] y) { a = Conv(x, w)\n y = Conv(a, w) }"
    model = build(text, {"w": noise(rng, 24, 24, 1)})
    assert "2 nodes share" in refusal(FactorizeConv(min_elements=1), model)
    single = conv_of(noise(rng, 24, 24, 3))
    one = FactorizeConv(min_elements=1, method="tucker", rank=4)
    layer = only_layer(one, single)
    (candidate,) = one.candidates(layer, None, FINE)
    assert apply_treatments(single, [(layer, candidate.stages, None)], {one.name: one}) == []
    again = list(FactorizeConv(min_elements=1).layers(single))
    assert len(again) == 3
    assert all(isinstance(found, Skipped) and "factor" in found.why for found in again)
    assert {"w.p", "w.s", "w.q"} == set(single.graph.initializers)


def test_ranks_by_bounds_rules_and_shares(rng):
    kernel = tucker_kernel(rng, 40, 32, 5, 7)
    model = conv_of(kernel)
    for name, bound in (("max_rel_error", 0.01), ("energy", 0.9999), ("min_quality", 0.9999)):
        own: dict[str, Any] = {name: bound}
        (one,) = offers(model, FINE, method="tucker", **own)
        assert (options_of(one)["rank_in"], options_of(one)["rank_out"]) == (5, 7)
        assert one.error < 0.01
    for rule in ("evbmf", "mdl"):
        (one,) = offers(model, FINE, method="tucker", rule=rule)
        assert (options_of(one)["rank_in"], options_of(one)["rank_out"]) == (5, 7)
        (fast,) = offers(model, dataclasses.replace(FINE, rank_multiple=4), method="tt", rule=rule)
        assert (options_of(fast)["rank_in"], options_of(fast)["rank_out"]) == (8, 8)
        (single,) = offers(model, FINE, method="channel-input", rule=rule)
        assert options_of(single)["rank"] == 5
        (terms,) = offers(model, FINE, method="cp", rule=rule)
        assert options_of(terms)["rank"] == 7
    (half,) = offers(model, FINE, method="tucker", ratio=0.1)
    assert half.flops <= 0.1 * 2 * kernel.size
    assert half.error < 0.01
    assert offers(model, FINE, method="channel-input", max_rel_error=0.0) == []
    # rounded down to what runs fast, where there is one
    (fast,) = offers(model, TARGET, method="channel-output", ratio=0.9)
    assert options_of(fast)["rank"] == 16
    (slow,) = offers(model, TARGET, method="channel-output", ratio=0.1)
    assert options_of(slow)["rank"] == 3


def test_pairs_at_one_share_are_those_of_least_error(rng):
    kernel = tucker_kernel(rng, 40, 32, 4, 24)
    found = offers(conv_of(kernel), FINE, method="tucker", ratio=0.3)
    (ranks,) = [(options_of(c)["rank_in"], options_of(c)["rank_out"]) for c in found]
    assert ranks[0] < ranks[1]
    assert found[0].error < 0.01


def test_fixed_ranks(rng):
    model = conv_of(noise(rng, 40, 32, 3, 3))
    pair = offers(model, method="auto,tt", rank_in=8, rank_out=12)
    assert [options_of(c)["method"] for c in pair] == ["tucker", "tt"]
    assert all((options_of(c)["rank_in"], options_of(c)["rank_out"]) == (8, 12) for c in pair)
    every = offers(model, method=",".join(METHODS), rank=6)
    assert len(every) == len(METHODS)
    assert offers(model, method="tucker", rank=33) == []  # more than there are channels
    assert offers(model, method="cp", rank=10_000) == []


def test_the_better_axis_of_spatial_is_taken(rng):
    left = np.einsum("mry,rcx->mcxy", noise(rng, 24, 3, 3), noise(rng, 3, 20, 3))
    for axis, kernel in ((0, left), (1, np.swapaxes(left, 2, 3))):
        (one,) = offers(conv_of(np.ascontiguousarray(kernel)), FINE, method="spatial", ratio=0.2)
        assert options_of(one)["axis"] == axis
        assert one.error < 1e-6


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_weightings_by_what_is_known(op, rng):
    model = conv_of(noise(rng, 24, 24, 3, 3), op=op)

    def used(stats: LayerStatistics | None, weighting: str) -> set[str]:
        found = offers(model, FINE, stats, weighting=weighting, rank=8, method="channel-output,cp")
        return {str(options_of(candidate)["weighting"]) for candidate in found}

    whole = "patches" if op == "Conv" else "channels"
    patches = white(24, 9) if op == "Conv" else white(24)
    assert used(None, "auto") == {"none"}
    assert used(white(24), "auto") == {"channels"}
    assert used(white(24), "patches") == {"channels"}
    assert used(patches, "auto") == {whole}
    assert used(patches, "channels") == {"channels"}
    assert used(patches, "none") == {"none"}
    for weighting in ("channels", "patches"):
        with pytest.raises(InputError, match=f"weighting = {weighting} and no statistics"):
            used(None, weighting)


def test_large_kernels_are_fitted_by_patches_in_closed_form_only(rng, monkeypatch):
    model, stats = conv_of(noise(rng, 40, 32, 3, 3)), white(32, 9)
    for limit, expected in ((40 * 288**2, "patches"), (40 * 288**2 - 1, "channels")):
        monkeypatch.setattr(_conv_inputs, "_MOST_WORK", limit)
        found = offers(model, TARGET, stats, method="channel-output,spatial,tucker", ratio=0.5)
        used = {options_of(c)["method"]: options_of(c)["weighting"] for c in found}
        assert used == {"channel-output": "patches", "spatial": expected, "tucker": expected}


def test_auto_leaves_cp_of_large_kernels_out(rng, monkeypatch):
    monkeypatch.setattr(_conv_ranks, "_MOST_WORK", 40 * 32 * 9 * 40)
    model = conv_of(noise(rng, 40, 32, 3, 3))
    auto = [options_of(c)["rank"] for c in offers(model) if options_of(c)["method"] == "cp"]
    named = [options_of(c)["rank"] for c in offers(model, method="cp")]
    assert auto == [32, 16]
    assert max(named) > 40


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"rank": 3, "ratio": 0.5}, "got rank and ratio"),
        ({"rank_in": 3}, "got rank_in alone"),
        ({"rank_in": 3, "rank_out": 0}, "rank_out = 0"),
        ({"rank_in": 3, "rank_out": 3, "ratio": 0.5}, "got rank_in and ratio"),
        ({"method": "whitened-svd"}, "method = 'whitened-svd'"),
        ({"method": "tucker,svd"}, "method = 'tucker,svd'"),
        ({"method": ""}, "method = ''"),
        ({"weighting": "inputs"}, "weighting = 'inputs'"),
        ({"rule": "aic"}, "rule = 'aic'"),
    ],
)
def test_options_are_checked(options, reason):
    with pytest.raises(InputError, match=f"factorize-conv .*{reason}"):
        FactorizeConv(**options)
