"""CancelDequantizeQuantize: exact for all numbers, or refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxslim_rx.runtime import Runner
from onnxslim_rx_passes.cancel_dequantize_quantize import CancelDequantizeQuantize


def weights(scale=0.05, zero=128, dtype="u1", kind="f", **changed):
    found = {"s": np.asarray(scale, kind), "z": np.asarray(zero, dtype)}
    found |= {"s2": found["s"], "z2": found["z"]}
    return {**found, **changed}


def graph(kind="uint8", extra="", last="y = Identity(r)"):
    return f"""g ({kind}[N, 4] q) => ({kind}[N, 4] y{extra}) {{
        x = DequantizeLinear(q, s, z)  r = QuantizeLinear(x, s2, z2)  {last} }}"""


CASES = {
    "uint8": ("uint8", weights()),
    "int8": ("int8", weights(zero=-3, dtype="i1")),
    "uint16": ("uint16", weights(zero=7, dtype="u2")),
    "int16": ("int16", weights(zero=-70, dtype="i2")),
    "by channel": ("int8", weights([0.1, 0.2, 3, 4], [1, 2, 3, 4], "i1")),
    "half": ("uint8", weights(kind="e")),
}


@pytest.mark.parametrize("case", CASES)
def test_cancelled_exactly(rewrite, case):
    kind, values = CASES[case]
    done = rewrite(CancelDequantizeQuantize(), graph(kind), values, opset=21, ir_version=10)
    assert done.ops == ["Identity"]
    limits = np.iinfo(kind)
    numbers = np.arange(limits.min, limits.max + 1, dtype=kind).reshape(-1, 4)
    np.testing.assert_array_equal(Runner(done.before)({"q": numbers})["y"], numbers)


@given(st.floats(2.0**-126, 2.0**100, width=32), st.integers(0, 65535))
def test_float_keeps_numbers_apart(scale, zero):
    scale, numbers = np.float32(scale), np.arange(0, 65536, 17) - zero
    products = (numbers.astype("f") * scale) / scale
    np.testing.assert_array_equal(np.rint(products), numbers)


@given(st.floats(2.0**-14, 2.0**7, width=16))
def test_half_keeps_numbers_apart(scale):
    scale, numbers = np.float16(scale), np.arange(-255, 256)
    products = (numbers.astype("e") * scale) / scale
    np.testing.assert_array_equal(np.rint(products), numbers)


def test_dequantization_stays_where_it_is_read(rewrite):
    text = graph(extra=", float[N, 4] x")
    done = rewrite(CancelDequantizeQuantize(), text, weights())
    assert done.ops == ["DequantizeLinear", "Identity"]


REFUSED = {
    "scale": (weights(s2=np.float32(0.06)), "scales or zero points differ"),
    "zero": (weights(z2=np.uint8(127)), "scales or zero points differ"),
    "negative": (weights(-0.05), "a scale is not positive, or out of the range of its type"),
    "zero scale": (weights(0), "a scale is not positive, or out of the range of its type"),
    "large": (weights(2e36), "a scale is not positive, or out of the range of its type"),
    "small": (weights(1e-40), "a scale is not positive, or out of the range of its type"),
    "half and 16 bits": (weights(dtype="u2", kind="e"), "float16 does not keep numbers of 16 bits"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(rewrite, case):
    values, why = REFUSED[case]
    kind = "uint16" if "16" in case else "uint8"
    done = rewrite(
        CancelDequantizeQuantize(), graph(kind), values, opset=21, ir_version=10, runs=False
    )
    assert not done.entry.changed
    assert why in done.reasons[0]


def test_types_axes_and_computed_scales(rewrite):
    text = graph().replace("uint8[N, 4] y", "int8[N, 4] y")
    done = rewrite(CancelDequantizeQuantize(), text, weights(z2=np.int8(0)))
    assert done.reasons == ["the types of the quantized numbers differ"]

    square = graph("int8").replace("[N,", "[4,").replace("(x, s2, z2)", "<axis = 0>(x, s2, z2)")
    values = weights([1, 2, 3, 4], [0, 0, 0, 0], "i1")
    done = rewrite(CancelDequantizeQuantize(), square, values)
    assert done.reasons == ["scales or zero points differ"]

    text = graph().replace("(uint8[N, 4] q)", "(uint8[N, 4] q, float s)")
    values = weights()
    del values["s"]
    done = rewrite(CancelDequantizeQuantize(), text, values)
    assert done.reasons == ["a scale or zero point is no constant"]


def test_the_other_order_rounds_and_stays(rewrite):
    text = """g (float[N, 4] x) => (float[N, 4] y) {
        q = QuantizeLinear(x, s, z)  y = DequantizeLinear(q, s2, z2) }"""
    assert not rewrite(CancelDequantizeQuantize(), text, weights()).entry.changed


def test_names_of_outputs_stay(rewrite):
    text = graph(last="").replace("r = Quant", "y = Quant")
    done = rewrite(CancelDequantizeQuantize(), text, weights())
    assert done.reasons == ["the graph returns it under a name of its own"]


def test_defaults_and_branches(rewrite):
    text = """g (bool on, uint8[N, 4] q) => (uint8[N, 4] y) {
        y = If(on) <then_branch = t () => (uint8[N, 4] k) {
                        x = DequantizeLinear(q, s)  r = QuantizeLinear(x, s2)  k = Identity(r) },
                    else_branch = e () => (uint8[N, 4] j) { j = Identity(q) }>
    }"""
    values = {name: value for name, value in weights().items() if name[0] == "s"}
    done = rewrite(CancelDequantizeQuantize(), text, values)
    assert "QuantizeLinear" not in done.ops
