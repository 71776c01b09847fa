"""TensorizeGemm: what it offers, and whether errors are what it says, by plain float64 numpy."""

from __future__ import annotations

import dataclasses
from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from onnxslim_rx.errors import InputError
from onnxslim_rx.passbase import Candidate, Layer, LayerStatistics, Stage
from onnxslim_rx.targets import load_target
from onnxslim_rx_passes._tensor_fits import Fits
from onnxslim_rx_passes._tensor_forms import Form, compose, form_of
from onnxslim_rx_passes.tensorize_gemm import TensorizeGemm
from tests.passes.conftest import build

Matrix = npt.NDArray[np.float64]

TARGET = load_target("ort-cpu")


def form(method: str, k: int, n: int, split: int | None = None) -> Form:
    """One that there is."""
    found = form_of(method, k, n, split)
    assert isinstance(found, Form), found
    return found


def inputs(rng: np.random.Generator, k: int, rows: int = 4000) -> Matrix:
    """Correlated columns of very different sizes."""
    mix = rng.standard_normal((k, k)) * np.logspace(0, -1, k)
    return rng.standard_normal((rows, k)) @ mix * np.logspace(0, -1, k)


def statistics(x: Matrix) -> LayerStatistics:
    return LayerStatistics(x.T @ x, None, len(x), x[:8], x.shape)


def layer_of(weight: npt.NDArray[Any]) -> Layer:
    """`x @ weight` as a layer."""
    k, n = weight.shape
    text = f"g (float[a, {k}] x) => (float[a, {n}] y) {{ y = MatMul(x, w) }}"
    model: ir.Model = build(text, {"w": weight.astype(np.float32)})
    (layer,) = TensorizeGemm(min_elements=1, method="tucker").layers(model)
    assert isinstance(layer, Layer)
    return layer


def offers(
    weight: npt.NDArray[Any], stats: LayerStatistics | None = None, **options: Any
) -> list[Candidate]:
    """Candidates for `x @ weight`."""
    one = TensorizeGemm(min_elements=1, **options)
    return list(one.candidates(layer_of(weight), stats, TARGET))


def ranks_of(candidates: list[Candidate]) -> list[tuple[int, ...]]:
    """Without the splits."""
    names = ("rank", "rank_in", "rank_out")
    found = [candidate.stages[0].options for candidate in candidates]
    return [tuple(int(one[name]) for name in names if name in one) for one in found]


def kron_like(rng: np.random.Generator, k: int, n1: int, n2: int, rank: int) -> Matrix:
    """A weight whose columns vary little along n2, and some noise."""
    p = rng.standard_normal((k, n1, rank))
    weight: Matrix = np.einsum("kir,rj->kij", p, rng.standard_normal((rank, n2)))
    return weight.reshape(k, n1 * n2) + 1e-2 * rng.standard_normal((k, n1 * n2))


def lost(weight: Matrix, stands: Matrix, x: Matrix | None) -> float:
    """Relative error of the output, or of the weight."""
    left, whole = weight - stands, weight
    if x is not None:
        left, whole = x @ left, x @ whole
    return float(np.linalg.norm(left) / np.linalg.norm(whole))


def truncated(weight: Matrix, x: Matrix | None, n1: int, ranks: tuple[int, int]) -> float:
    """Error of the HOSVD along the rows and the last axis, by LAPACK alone."""
    outputs = weight if x is None else x @ weight
    tensor = outputs.reshape(len(outputs), n1, -1)
    u = np.linalg.svd(outputs, full_matrices=False)[0][:, : ranks[0]]
    side = np.moveaxis(tensor, 2, 0).reshape(tensor.shape[2], -1)
    v = np.linalg.svd(side, full_matrices=False)[0][:, : ranks[1]]
    near = np.einsum("ma,na,nij,jb,lb->mil", u, u, tensor, v, v, optimize=True)
    return float(np.linalg.norm(tensor - near) / np.linalg.norm(tensor))


@pytest.mark.parametrize("shape", [(30, 24), (17, 40), (24, 24)])
@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("ranks", [(3, 2), (7, 5), (1, 1), (12, 3)])
def test_trains_are_no_worse_than_the_truncated_hosvd(shape, known, ranks, rng):
    k, n = shape
    weight, x = rng.standard_normal(shape), inputs(rng, k) if known else None
    fits = Fits(weight) if x is None else Fits(weight, x.T @ x, len(x))
    one = form("tt", k, n, 4)
    stands = compose(n, fits.factors(one, ranks))
    bound = truncated(weight, x, 4, ranks)
    table = float(fits.errors(one, np.array([ranks]))[0])
    # the ridge is 1e-4 of the mean energy of a channel
    assert table == pytest.approx(bound, rel=1e-2 if known else 1e-7)
    assert lost(weight, stands, x) <= bound * (1.01 if known else 1.0 + 1e-9)
    floor = float(fits.floors(one, np.array([ranks]))[0])
    assert floor <= lost(weight, stands, x) * (1.01 if known else 1.0 + 1e-9)


@pytest.mark.parametrize("method", ["tucker", "tt", "cp"])
def test_the_first_factor_is_the_best_there_is_for_the_others(method, rng):
    k, n = 26, 21
    weight, x = rng.standard_normal((k, n)), inputs(rng, k)
    one = form(method, k, n)
    ranks = (6,) if method == "cp" else (6, 4)
    p, middle, last = Fits(weight, x.T @ x, len(x)).factors(one, ranks)
    eye = compose(n, (np.eye(p.shape[1]), middle, last))
    best = np.linalg.lstsq(eye.T, weight.T, rcond=None)[0].T  # whatever the inputs are
    assert lost(weight, p @ eye, x) <= lost(weight, best @ eye, x) * (1.0 + 1e-2)


@pytest.mark.parametrize("k", [30, 18])
def test_tucker_is_two_factors_of_the_smaller_rank(k, rng):
    weight, n = rng.standard_normal((k, 24)), 24
    values = np.linalg.svd(weight, compute_uv=False)
    least = np.sqrt(np.sum(values[4:] ** 2) / np.sum(values**2))
    for ranks in ((4, 9), (9, 4), (4, 4)):
        fits, one = Fits(weight), form("tucker", k, n)
        factors = fits.factors(one, ranks)
        assert [f.shape for f in factors] == [(k, ranks[0]), ranks, (ranks[1], n)]
        assert lost(weight, compose(n, factors), None) == pytest.approx(least, rel=1e-6)
        assert fits.errors(one, np.array([ranks]))[0] == pytest.approx(least, rel=1e-6)


def test_errors_of_cp_are_those_of_the_weight_that_it_stands_for(rng):
    weight, x = kron_like(rng, 40, 6, 8, 2), inputs(rng, 40)
    found = offers(weight, statistics(x), method="cp", ratio=0.5)
    one = TensorizeGemm()
    layer = layer_of(weight)
    single = weight.astype(np.float32).astype(np.float64)
    for candidate in found:
        factors = one.transform(layer, candidate.stages[0], (single,), statistics(x))
        (stands,) = one.restore(layer, factors)
        assert candidate.error == pytest.approx(lost(single, stands, x), rel=2e-2)
        sizes = [np.linalg.norm(f, axis=axis) for f, axis in zip(factors, (0, 0, 1), strict=True)]
        np.testing.assert_allclose(sizes[0], sizes[1], rtol=1e-9)
        np.testing.assert_allclose(sizes[0], sizes[2], rtol=1e-9)
    assert len(found) == 1


@pytest.mark.parametrize("method", ["tt", "cp"])
def test_data_lowers_the_error_of_the_output(method, rng):
    weight, x = rng.standard_normal((32, 24)), inputs(rng, 32)
    options = {"rank": 6, "method": method, "split": 4, "min_saving": 0.0}
    errors = {}
    for weighting in ("none", "channels"):
        (candidate,) = offers(weight, statistics(x), weighting=weighting, **options)
        one, layer = TensorizeGemm(), layer_of(weight)
        factors = one.transform(layer, candidate.stages[0], (weight,), statistics(x))
        errors[weighting] = lost(weight, one.restore(layer, factors)[0], x)
        assert candidate.stages[0].options["weighting"] == weighting
    assert errors["channels"] < 0.9 * errors["none"]


def test_weighting_follows_the_statistics(rng):
    weight = rng.standard_normal((32, 24))
    (plain,) = offers(weight, None, rank=3, method="tt")
    assert plain.stages[0].options["weighting"] == "none"
    (known,) = offers(weight, statistics(inputs(rng, 32)), rank=3, method="tt")
    assert known.stages[0].options["weighting"] == "channels"
    with pytest.raises(InputError, match="no statistics"):
        offers(weight, None, rank=3, method="tt", weighting="channels")
    with pytest.raises(InputError, match="no statistics"):
        TensorizeGemm().transform(layer_of(weight), known.stages[0], (weight,), None)


def test_stages_spell_everything_out_and_sizes_are_counted(rng):
    weight = rng.standard_normal((64, 48)).astype(np.float32)
    wanted: dict[str, tuple[dict[str, Any], int, int]] = {
        "tucker": ({"rank_in": 8, "rank_out": 6}, 64 * 8 + 48 + 6 * 48, 64 * 8 + 48 + 6 * 48),
        "tt": ({"rank_in": 8, "rank_out": 6, "split": 4},
               64 * 8 + 8 * 4 * 6 + 6 * 12, 64 * 8 + 8 * 4 * 6 + 4 * 6 * 12),
        "cp": ({"rank": 9, "split": 4}, 9 * (64 + 4 + 12), 9 * (64 + 4 + 48)),
    }  # fmt: skip
    for method, (options, parameters, macs) in wanted.items():
        (found,) = offers(weight, method=method, **{"split": 4, **options})
        stated = {"method": method, **options, "weighting": "none"}
        assert found.stages == (Stage("tensorize-gemm", stated),)
        assert (found.bytes, found.flops) == (4 * parameters, 2 * macs)


def test_ladders_descend_on_the_grid_of_the_target_and_save_enough(rng):
    weight = rng.standard_normal((256, 192))
    target = dataclasses.replace(TARGET, rank_multiple=16, min_rank=16)
    one = TensorizeGemm(method="tucker,tt,cp")
    found = list(one.candidates(layer_of(weight), None, target))
    for method in ("tucker", "tt", "cp"):
        own = [c for c in found if c.stages[0].options["method"] == method]
        assert len(own) >= 3
        flops = [candidate.flops for candidate in own]
        assert flops == sorted(flops, reverse=True)
        errors = [candidate.error for candidate in own]
        assert errors == sorted(errors)
        assert all(c.flops <= 0.9 * 2 * weight.size for c in own)
        for ranks in ranks_of(own):
            assert ranks[0] % 16 == 0
            # 192 = 12 * 16: twelve times the last rank of a train is a multiple, too
            assert ranks[-1] % (4 if method == "tt" else 16) == 0


def test_auto_offers_what_two_factors_of_as_many_parameters_do_not_reach(rng):
    assert offers(rng.standard_normal((192, 192))) == []
    found = offers(kron_like(rng, 192, 12, 16, 3))
    assert {candidate.stages[0].options["method"] for candidate in found} >= {"tt"}
    weight = kron_like(rng, 192, 12, 16, 3).astype(np.float32).astype(np.float64)
    values = np.linalg.svd(weight, compute_uv=False)
    for candidate in offers(weight):
        rank = candidate.bytes // 4 // (192 + 192)
        assert candidate.error < np.sqrt(np.sum(values[rank:] ** 2) / np.sum(values**2))


@pytest.mark.parametrize("method", ["tucker", "tt", "cp"])
def test_a_bound_is_kept_by_the_least_share_and_a_ratio_is_not_exceeded(method, rng):
    weight = kron_like(rng, 48, 6, 8, 2)
    (found,) = offers(weight, method=method, max_rel_error=0.3)
    one, layer = TensorizeGemm(), layer_of(weight)
    factors = one.transform(layer, found.stages[0], (weight,), None)
    assert lost(weight, one.restore(layer, factors)[0], None) <= 0.3
    (same,) = offers(weight, method=method, energy=1.0 - 0.3**2)
    (again,) = offers(weight, method=method, min_quality=np.sqrt(1.0 - 0.3**2))
    assert same.stages == again.stages == found.stages
    assert offers(weight, method=method, max_rel_error=1e-6) == []
    for ratio in (0.5, 0.25):
        (cut,) = offers(weight, method=method, ratio=ratio)
        assert cut.flops <= ratio * 2 * weight.size
        assert cut.bytes <= ratio * 4 * weight.size


def test_rules_count_what_stands_out_of_noise(rng):
    weight = kron_like(rng, 96, 8, 12, 2)
    ((first, last),) = ranks_of(offers(weight, method="tt", rule="evbmf"))
    assert (first, last) == (16, 2)
    target = dataclasses.replace(TARGET, rank_multiple=32)
    one = TensorizeGemm(method="tt", rule="mdl", min_elements=1)
    assert ranks_of(list(one.candidates(layer_of(weight), None, target))) == [(32, 4)]


def test_ranks_that_do_not_fit_or_save_are_not_offered(rng):
    weight = rng.standard_normal((48, 48))
    assert offers(weight, method="tt", rank_in=4, rank_out=9) == []  # the last side is 8
    assert offers(weight, method="cp", rank_in=4, rank_out=4) == []  # it has one rank
    assert offers(weight, method="tucker", rank=23) == []
    assert len(offers(weight, method="tucker", rank=12)) == 1


def test_the_most_balanced_divisors_are_the_sides():
    assert [form("tt", 9, n).split for n in (12, 36, 256, 1000, 26)] == [3, 6, 16, 25, 2]
    assert form_of("cp", 9, 13, None) == "its 13 columns are no product of two sides"
    assert form("tucker", 9, 13).split == 1


@hypothesis.given(
    method=st.sampled_from(["tucker", "tt", "cp"]),
    k=st.integers(2, 12),
    sides=st.tuples(st.integers(2, 5), st.integers(2, 5)),
    ranks=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    seed=st.integers(0, 99),
    scale=st.sampled_from([1e-150, 1e-20, 1.0, 1e20]),
)
@hypothesis.settings(max_examples=60, deadline=None)
def test_factors_have_their_sizes_and_no_fit_is_worse_than_zero(
    method: str, k: int, sides: tuple[int, int], ranks: tuple[int, int], seed: int, scale: float
) -> None:
    one = form(method, k, sides[0] * sides[1], sides[0])
    own = ranks[: len(one.rank_names)]
    hypothesis.assume(one.fits(np.array([own]))[0])
    weight = scale * np.random.default_rng(seed).standard_normal((k, one.n))
    fits = Fits(weight)
    factors = fits.factors(one, own)
    assert [f.shape for f in factors] == one.shapes(own)
    assert sum(f.size for f in factors) == one.parameters(np.array([own]))[0]
    error = lost(weight / scale, compose(one.n, factors) / scale, None)
    assert error <= 1.0 + 1e-9
    assert fits.error(one, own) == pytest.approx(error, abs=1e-9)
    assert fits.errors(one, np.array([own]))[0] >= error - 1e-7
