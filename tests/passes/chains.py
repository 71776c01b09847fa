"""Models of one chain of products, and what they compute."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim_rx.passbase import Candidate, LayerStatistics, Skipped, Stage
from onnxslim_rx.runtime import Runner
from onnxslim_rx.stages import apply_treatments
from onnxslim_rx.targets import load_target
from onnxslim_rx_passes._chain_parts import Chain
from onnxslim_rx_passes.factorize_chains import FactorizeChains
from tests.passes.conftest import build

Array = npt.NDArray[Any]
FINE = dataclasses.replace(load_target("ort-cpu"), rank_multiple=1, min_rank=1)

# nodes; shapes of the weights in them; shape of x. "b" is the bias of the first, "c" of the last
LINEAR: dict[str, tuple[str, dict[str, tuple[int, ...]], tuple[int, ...]]] = {
    "matmuls": ("m = MatMul(x, w0)  y = MatMul(m, w1)", {"w0": (20, 12), "w1": (12, 18)}, (7, 20)),
    "gemms": (
        "m = Gemm<alpha = 0.5, beta = 2.0>(x, w0, b)  y = Gemm<transB = 1, alpha = 3.0>(m, w1, c)",
        {"w0": (20, 12), "w1": (18, 12), "b": (12,), "c": (18,)},
        (7, 20),
    ),
    "on the left": (
        "m = MatMul(w0, x)  y = Gemm(w1, m)",
        {"w0": (12, 20), "w1": (18, 12)},
        (20, 7),
    ),
    "upright": (
        "m = MatMul(w0, x)  y = Gemm<transA = 1>(m, w1, c)",
        {"w0": (12, 20), "w1": (12, 18), "c": (18,)},
        (20, 7),
    ),
    "three axes": (
        "m = MatMul(x, w0)  y = MatMul(m, w1)",
        {"w0": (20, 12), "w1": (12, 18)},
        (2, 3, 20),
    ),
    "wide middle": (
        "m = MatMul(x, w0)  y = MatMul(m, w1)",
        {"w0": (10, 30), "w1": (30, 12)},
        (7, 10),
    ),
}
CONV: dict[str, tuple[str, dict[str, tuple[int, ...]], tuple[int, ...]]] = {
    "channel-output": (
        "m = Conv<pads = [1, 1, 1, 1], strides = [2, 1]>(x, w0, b)  y = Conv(m, w1, c)",
        {"w0": (8, 5, 3, 3), "b": (8,), "w1": (9, 8, 1, 1), "c": (9,)},
        (2, 5, 8, 8),
    ),
    "channel-input": (
        "m = Conv(x, w0, b)  y = Conv<pads = [1, 1, 1, 1], dilations = [2, 1]>(m, w1, c)",
        {"w0": (8, 9, 1, 1), "b": (8,), "w1": (5, 8, 3, 3), "c": (5,)},
        (2, 9, 8, 8),
    ),
    "spatial": (
        "m = Conv<pads = [1, 0, 1, 0]>(x, w0)  y = Conv<pads = [0, 1, 0, 1]>(m, w1)",
        {"w0": (8, 5, 3, 1), "w1": (7, 8, 1, 3)},
        (2, 5, 8, 8),
    ),
    "two windows": (
        "m = Conv<pads = [1, 1, 1, 1]>(x, w0, b)  y = Conv<auto_pad = 'SAME_UPPER'>(m, w1)",
        {"w0": (8, 5, 3, 3), "b": (8,), "w1": (7, 8, 3, 3)},
        (2, 5, 8, 8),
    ),
    "groups": (
        "m = Conv<group = 2, pads = [1, 1]>(x, w0, b)  y = Conv<group = 2>(m, w1, c)",
        {"w0": (16, 5, 3), "b": (16,), "w1": (18, 8, 1), "c": (18,)},
        (2, 10, 8),
    ),
    "tucker": (
        "m = Conv(x, w0, b)  n = Conv<pads = [1, 1, 1, 1]>(m, w1)  y = Conv(n, w2, c)",
        {
            "w0": (7, 9, 1, 1),
            "b": (7,),
            "w1": (8, 7, 3, 3),
            "w2": (10, 8, 1, 1),
            "c": (10,),
        },
        (2, 9, 8, 8),
    ),
    "grouped tucker": (
        "m = Conv<group = 2>(x, w0)  n = Conv<group = 2>(m, w1)  y = Conv<group = 2>(n, w2)",
        {"w0": (14, 9, 1), "w1": (16, 7, 3), "w2": (20, 8, 1)},
        (2, 18, 8),
    ),
    "cp": (
        "m = Conv(x, w0, b)  n = Conv<group = 8, pads = [1, 1, 1, 1]>(m, w1)  y = Conv(n, w2, c)",
        {"w0": (8, 9, 1, 1), "b": (8,), "w1": (8, 1, 3, 3), "w2": (10, 8, 1, 1), "c": (10,)},
        (2, 9, 8, 8),
    ),
    "cp-separable": (
        "m = Conv(x, w0)  n = Conv<group = 8, strides = [2, 1]>(m, w1)"
        "  o = Conv<group = 8>(n, w2)  y = Conv(o, w3)",
        {"w0": (8, 9, 1, 1), "w1": (8, 1, 3, 1), "w2": (8, 1, 1, 3), "w3": (10, 8, 1, 1)},
        (2, 9, 8, 8),
    ),
    "transposed": (
        "m = Conv(x, w0)  n = ConvTranspose<strides = [2, 2]>(m, w1)  y = Conv(n, w2, c)",
        {"w0": (7, 9, 1, 1), "w1": (7, 8, 3, 3), "w2": (10, 8, 1, 1), "c": (10,)},
        (2, 9, 5, 5),
    ),
    "transposed first": (
        "m = ConvTranspose<strides = [2, 2], group = 2>(x, w0, b)  y = Conv<group = 2>(m, w1)",
        {"w0": (10, 8, 3, 3), "b": (16,), "w1": (18, 8, 1, 1)},
        (2, 10, 5, 5),
    ),
}


def model_of(case: str, rng: np.random.Generator, kind: str = "float") -> ir.Model:
    """The model of a case, with independent weights."""
    nodes, shapes, entering = (LINEAR | CONV)[case]
    dtype = np.float16 if kind == "float16" else np.float32
    weights = {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}
    leaving = ", ".join(["?"] * len(entering))
    text = f"g ({kind}{list(entering)} x) => ({kind}[{leaving}] y) {{ {nodes} }}"
    return build(text.replace("'", '"'), weights)


def chain_of(model: ir.Model, one: FactorizeChains | None = None) -> Chain:
    """The one chain of a model."""
    (found,) = (one or FactorizeChains(min_elements=1)).layers(model)
    assert isinstance(found, Chain), found
    return found


def offers(
    model: ir.Model, stats: LayerStatistics | None = None, **options: Any
) -> list[Candidate]:
    """Candidates of the only chain."""
    one = FactorizeChains(**{"min_elements": 1, **options})
    return list(one.candidates(chain_of(model, one), stats, FINE))


def reasons(model: ir.Model, **options: Any) -> list[str]:
    """Why chains of a model are refused."""
    found = FactorizeChains(**{"min_elements": 1, **options}).layers(model)
    return [one.why for one in found if isinstance(one, Skipped)]


def constants(chain: Chain) -> tuple[Array, ...]:
    """What the chain's constants hold, in float64."""
    tensors = [value.const_value for value in chain.weights]
    return tuple(t.numpy().astype(np.float64) for t in tensors if t is not None)


def output(model: ir.Model, x: Array) -> Array:
    """y for x."""
    found: Array = Runner(model)({"x": x})["y"]
    return found


def restored(model: ir.Model, stage: Stage, stats: LayerStatistics | None = None) -> None:
    """Put what the planner probes a stage with into the model."""
    chain, one = chain_of(model), FactorizeChains(min_elements=1)
    arrays = one.restore(chain, one.transform(chain, stage, constants(chain), stats))
    for value, array in zip(chain.weights, arrays, strict=True):
        tensor = value.const_value
        assert tensor is not None
        value.const_value = ir.tensor(array.astype(tensor.numpy().dtype), name=value.name)


def carried_out(model: ir.Model, stage: Stage, stats: LayerStatistics | None = None) -> None:
    """Apply a stage to the model's chain."""
    one = FactorizeChains(min_elements=1)
    assert apply_treatments(model, [(chain_of(model), (stage,), stats)], {one.name: one}) == []
