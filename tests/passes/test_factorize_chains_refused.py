"""FactorizeChains: what is no chain, and what cannot be cut."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from onnxslim_rx.errors import InputError
from onnxslim_rx.passbase import Stage
from onnxslim_rx.stages import apply_treatments
from onnxslim_rx_passes.factorize_chains import FactorizeChains
from tests.passes.chains import chain_of, model_of, offers, reasons
from tests.passes.conftest import build

Rng = np.random.Generator


OTHERS = {
    "an activation between": ("m = MatMul(x, w)  n = Relu(m)  y = MatMul(n, v)", None),
    "read elsewhere": ("m = MatMul(x, w)  n = MatMul(m, v)  y = Concat<axis = 1>(m, n)", None),
    "the other axis": ("m = MatMul(x, w)  y = MatMul(v, m)", None),
    "one weight twice": ("m = MatMul(x, w)  y = MatMul(m, w)", None),
    "times zero": ("m = Gemm<alpha = 0.0>(x, w)  y = MatMul(m, v)", "it is multiplied by zero"),
    "a bias of another shape": (
        "m = Gemm(x, w, s)  y = MatMul(m, v)",
        "the bias of its first part is no row",
    ),
    "a bias inside": (
        "m = MatMul(x, w)  n = Gemm(m, v, b)  y = MatMul(n, u)",
        "a bias is added inside",
    ),
    "a shared bias": (
        "m = Gemm(x, w, b)  n = MatMul(m, v)  y = Add(n, b)",
        "the bias of its first part is computed, or shared",
    ),
}


@pytest.mark.parametrize("case", OTHERS)
def test_what_is_no_chain(case: str, rng: Rng) -> None:
    nodes, why = OTHERS[case]
    sizes: dict[str, tuple[int, ...]] = {
        "w": (8, 8),
        "v": (8, 8),
        "u": (8, 8),
        "b": (8,),
        "s": (1,),
    }
    used = {name: rng.standard_normal(size).astype("f") for name, size in sizes.items()}
    used = {
        name: array for name, array in used.items() if f", {name}" in nodes or f"({name}" in nodes
    }
    model = build(f"g (float[8, 8] x) => (float[?, ?] y) {{ {nodes} }}", used)
    (*found,) = FactorizeChains(min_elements=1).layers(model)
    assert len(found) == (0 if why is None else 1)
    if why is not None:
        assert why in reasons(model)[0]


def test_long_rows_are_taken_apart(rng: Rng) -> None:
    sizes = {"a": (9, 8, 1), "b": (8, 8, 3), "c": (8, 1, 3), "d": (9, 8, 1), "e": (8, 9, 3)}
    weights = {name: rng.standard_normal(size).astype("f") for name, size in sizes.items()}
    nodes = (
        "p = Conv(x, a)  q = Conv(p, b)  r = Conv<group = 8>(q, c)  s = Conv(r, d) y = Conv(s, e)"
    )
    weights["a"] = weights["a"][:8]
    model = build(f"g (float[1, 8, 20] x) => (float[?, ?, ?] y) {{ {nodes} }}", weights)
    chain = chain_of(model)
    assert chain.name == "b * c * d"  # a and e are left over
    assert chain.method == "cp"


def test_refusals(rng: Rng) -> None:
    model = model_of("matmuls", rng)
    assert reasons(model, min_elements=500) == ["chain of 2: 456 entries, below 500"]
    assert reasons(model, max_side=19) == ["chain of 2: reads 20, above 19"]
    chain, one = chain_of(model), FactorizeChains(min_elements=1)
    stages: dict[str, dict[str, int | float | str | bool]] = {
        "rank 13 does not fit: expected 1 to 12": {"rank": 13},
        "rank is missing": {},
        "no statistics": {"rank": 3, "weighting": "channels"},
    }
    for why, options in stages.items():
        (refused,) = apply_treatments(
            model, [(chain, (Stage(FactorizeChains.name, options),), None)], {one.name: one}
        )
        assert why in refused.why
    with pytest.raises(InputError, match="no statistics"):
        offers(model, weighting="channels")
    model.graph.initializers["w1"].const_value = ir.tensor(np.full((12, 18), np.nan, "f"))
    assert offers(model) == []
    (refused,) = apply_treatments(
        model, [(chain, (Stage(FactorizeChains.name, {"rank": 3}),), None)], {one.name: one}
    )
    assert "NaN" in refused.why


@pytest.mark.parametrize(
    "options",
    [
        {"ratio": 1.0},
        {"max_rel_error": -0.1},
        {"weighting": "patches"},
        {"min_saving": 1.0},
        {"min_elements": 0},
        {"max_side": 0},
        {"ratio": 0.5, "max_rel_error": 0.5},
    ],
)
def test_options_outside_their_range(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="factorize-chains"):
        FactorizeChains(**options)
