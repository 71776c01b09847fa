"""QuantizeWeights in blocks: what is offered for which weight, and what is refused."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxslim_rx.errors import InputError
from onnxslim_rx.passbase import LayerStatistics, Skip, Stage
from onnxslim_rx_passes._block_options import BlockOptions, Wanted
from onnxslim_rx_passes._block_weights import BlockWeight
from tests.passes.blocks import (
    LOOK_UP,
    PRODUCTS,
    TIED,
    layers_of,
    modelled,
    of_weight,
    offers,
    quantizer,
    run,
    stage_of,
)

MATMUL = "g (float[5, 128] x) => (float[5, 96] y) { y = MatMul(x, w) }"


def weight(rng, shape=(128, 96), scale=1.0):
    return (scale * rng.standard_normal(shape)).astype(np.float32)


def statistics(rng, k=128, rows=500):
    x = rng.standard_normal((rows, k)) * rng.uniform(0.1, 3.0, k)
    return {"w": LayerStatistics(x.T @ x, None, rows, None, (1, k))}


def found_options(candidates):
    options = [BlockOptions.of(candidate.stages[0]) for candidate in candidates]
    return [one for one in options if one is not None]


def test_int8_comes_first_then_blocks_from_the_mildest_on(rng):
    candidates = offers(modelled(MATMUL, weight(rng)))
    first, second = candidates[:2]
    options = [dict(candidate.stages[0].options) for candidate in (first, second)]
    assert options == [
        {"bits": 8, "form": form, "method": "clip"} for form in ("cast-mul", "dequantize-linear")
    ]
    assert (first.folds, second.folds) == (True, False)
    blocks = candidates[2:]
    assert [(o.bits, o.group) for o in found_options(blocks)] == [
        (4, 16), (4, 32), (4, 64), (4, 128), (2, 16),
    ]  # fmt: skip
    assert [c.error for c in blocks] == sorted(c.error for c in blocks)
    assert [c.bytes for c in blocks] == sorted((c.bytes for c in blocks), reverse=True)
    assert not any(candidate.folds for candidate in blocks)
    assert {(o.method, o.rank, o.form, o.scales) for o in found_options(blocks)} == {
        ("clip", 0, "nbits", "float16")
    }


def test_one_way_in_blocks_follows_what_others_make_of_a_layer(rng):
    candidates = offers(modelled(MATMUL, weight(rng)), stats=statistics(rng))
    chained = [candidate.stages[0] for candidate in candidates if candidate.follows]
    assert dict(chained[0].options) == {"bits": 8, "form": "cast-mul", "method": "gptq"}
    ((bits, group, rank),) = [(o.bits, o.group, o.rank) for o in map(BlockOptions.of, chained) if o]
    assert (bits, group, rank) == (4, 32, 0)


def test_statistics_settle_the_method_and_the_error(rng):
    w, stats = weight(rng), statistics(rng)
    candidates = offers(modelled(MATMUL, w), stats=stats, bits=4, group=32, rank=0)
    (one,) = candidates
    (options,) = found_options(candidates)
    assert options.method == "gptq"
    model = modelled(MATMUL, w)
    layer = layers_of(model, quantizer())[0]
    (dense,) = quantizer().transform(layer, one.stages[0], (w.astype(np.float64),), stats["w"])
    gram = stats["w"].gram
    wrong, norm = (np.sqrt(np.trace(e.T @ gram @ e)) for e in (dense - w, w.astype(np.float64)))
    assert one.error == pytest.approx(wrong / norm, rel=1e-6)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"bits": 4, "group": 64, "rank": 0}, [(4, 64, True, 0)]),
        ({"group": 32, "rank": 0, "symmetric": False}, [(4, 32, False, 0), (2, 32, False, 0)]),
        ({"bits": 8, "form": "nbits"}, [(8, 32, True, 0), (8, 128, True, 0)]),
        ({"bits": 3, "form": "nbits"}, []),
        ({"bits": 4, "group": 0}, []),
        ({"group": 256, "bits": 4}, [(4, 256, True, 0)]),
    ],
)
def test_options_narrow_the_offer(options, expected, rng):
    w = weight(rng, (256, 96))
    text = MATMUL.replace("128", "256")
    found = found_options(offers(modelled(text, w), **options))
    assert [(o.bits, o.group, o.symmetric, o.rank) for o in found] == expected


def test_standard_operators_are_offered_where_the_version_has_them(rng):
    w = weight(rng)
    assert found_options(offers(modelled(MATMUL, w), "dequantize-linear")) == []
    newer = modelled(MATMUL, w, form="dequantize-linear")
    found = found_options(offers(newer, "dequantize-linear"))
    assert {(o.form, o.bits) for o in found} == {("dequantize-linear", 4)}
    assert offers(newer, "dequantize-linear", form="nbits") == []
    blocks = of_weight(modelled(MATMUL, w))
    assert isinstance(blocks, BlockWeight)
    why = blocks.why_not(BlockOptions(4, 32, form="dequantize-linear"))
    assert "opset 21" in str(why)
    assert "raise-opset" in str(why)


@pytest.mark.parametrize(
    ("text", "shape", "why"),
    [
        ("g (float[64, 5] x) => (float[96, 5] y) { y = MatMul(w, x) }", (96, 64), "left"),
        ("g (float[3, 5, 64] x) => (float[3, 5, 9] y) { y = MatMul(x, w) }", (3, 64, 9), "rank 3"),
        ("g (float[1, 8, 9, 9] x) => (float[1, 16, 9, 9] y) { y = Conv(x, w) }",
         (16, 8, 1, 1), "MatMul, Gemm and Gather alone"),
        ("g (float[5, 64] x) => (float[5, 64] y) { a = Gemm(x, w)  y = Gemm<transB = 1>(a, w) }",
         (64, 64), "different axes"),
        ("g (double[5, 64] x) => (double[5, 96] y) { y = MatMul(x, w) }", (64, 96), "type DOUBLE"),
        ("g (int64[5] x) => (float[5, 64] y) { e = Gather(w, x)  y = MatMul(e, w) }",
         (64, 64), "different axes"),
    ],
)  # fmt: skip
def test_weights_that_blocks_cannot_hold_get_int8_alone(text, shape, why, rng):
    dtype = np.float64 if "double" in text else np.float32
    model = modelled(text, rng.standard_normal(shape).astype(dtype))
    found = of_weight(model)
    assert isinstance(found, str)
    assert why in found
    candidates = offers(model)
    assert candidates
    assert found_options(candidates) == []
    layer, tape = layers_of(model, quantizer())[0], ir.tape.Tape()
    stage = stage_of(BlockOptions(4, 32))
    refused = quantizer().apply(layer, stage, None, tape)
    assert isinstance(refused, Skip)
    assert why in refused.why
    with pytest.raises(InputError, match=why):
        quantizer().transform(layer, stage, (np.ones(shape),), None)


def test_readers_in_several_graphs_are_refused(rng):
    text = """g (bool c, float[5, 64] x) => (float[5, 64] y) {
        a = MatMul(x, w)
        y = If (c) <
            then_branch = t () => (float[5, 64] p) { p = MatMul(a, w) },
            else_branch = e () => (float[5, 64] q) { q = Identity(a) }
        >
    }"""
    found = of_weight(modelled(text, weight(rng, (64, 64))))
    assert isinstance(found, str)
    assert "several graphs" in found


@pytest.mark.parametrize(
    ("text", "shape", "options", "why"),
    [
        (LOOK_UP[0], (100, 96), BlockOptions(4, 32, rank=4, method="gptq"), "are for products"),
        (LOOK_UP[0].replace("96", "95"), (100, 95), BlockOptions(4, 32), "no whole bytes"),
        (TIED[0].replace("96", "80"), (100, 80), BlockOptions(4, 32), "no whole groups"),
        (MATMUL, (128, 96), BlockOptions(2, 32, form="dequantize-linear"), "opset"),
        (MATMUL.replace("float", "float16"), (128, 96), BlockOptions(4, 32, scales="float32"),
         "float16 network"),
    ],
)  # fmt: skip
def test_ways_that_do_not_suit_a_weight(text, shape, options, why, rng):
    dtype = np.float16 if "float16" in text else np.float32
    model = modelled(text, rng.standard_normal(shape).astype(dtype))
    found = of_weight(model)
    assert isinstance(found, BlockWeight)
    assert why in str(found.why_not(options))
    layer = layers_of(model, quantizer())[0]
    refused = quantizer().apply(layer, stage_of(options), None, ir.tape.Tape())
    assert isinstance(refused, Skip)
    assert why in refused.why


def test_two_bits_are_no_standard_type(rng):
    found = of_weight(modelled(MATMUL, weight(rng), form="dequantize-linear"))
    assert isinstance(found, BlockWeight)
    assert "2 bits" in str(found.why_not(BlockOptions(2, 32, form="dequantize-linear")))


def test_rows_that_calibration_hardly_read_are_not_rounded_far(rng):
    model = modelled(LOOK_UP[0], weight(rng, LOOK_UP[1]))

    def number(ceiling, counts=None):
        stats = {} if counts is None else {"w": LayerStatistics(None, counts, 200, None, (7,))}
        return len(offers(model, stats=stats, max_row_error=ceiling, bits=2, group=32))

    assert (number(10.0), number(0.2)) == (1, 0)  # rows are off by about 0.33
    counts = np.full(100, 2)
    assert number(0.2, counts) == 1
    counts[7] = 1
    assert number(0.2, counts) == 0


def test_rows_that_are_read_often_count_more(rng):
    table = weight(rng, LOOK_UP[1])
    table[:50] = np.sign(table[:50])  # comes back exactly
    model = modelled(LOOK_UP[0], table)
    counts = np.array([1] * 50 + [1000] * 50)
    plain = offers(model, bits=4, group=32)[0].error
    known = {"w": LayerStatistics(None, counts, 50050, None, (7,))}
    weighed = offers(model, stats=known, bits=4, group=32)[0].error
    assert weighed > plain * 1.2


@pytest.mark.parametrize("method", ["nearest", "clip", "auto"])
@pytest.mark.parametrize("text", [MATMUL, LOOK_UP[0]])
def test_weights_that_are_not_finite_get_no_candidate(text, method, rng):
    for bad in (np.nan, np.inf):
        w = weight(rng, LOOK_UP[1] if "Gather" in text else (128, 96))
        w[3, 5] = bad
        model = modelled(text, w)
        assert offers(model, bits=4, group=32, method=method) == []
        layer = layers_of(model, quantizer())[0]
        stage = stage_of(BlockOptions(4, 32, method="clip"))
        refused = quantizer().apply(layer, stage, None, ir.tape.Tape())
        assert isinstance(refused, Skip)
        assert "NaN" in refused.why


@pytest.mark.parametrize("value", [0.0, 1.0, -2.5, 1e-6, 3e4])
def test_constant_weights_come_back(value, rng):
    w = np.full((128, 96), value, np.float32)
    model = modelled(MATMUL, w)
    (one,) = offers(model, bits=4, group=32)
    assert one.error <= 2.0**-10
    layer = layers_of(model, quantizer())[0]
    (dense,) = quantizer().transform(layer, one.stages[0], (w.astype(np.float64),), None)
    np.testing.assert_allclose(dense, w, rtol=2.0**-10)


@pytest.mark.parametrize(
    ("scale", "scales"), [(1e8, "float32"), (1e-8, "float32"), (1.0, "float16")]
)
def test_scales_that_float16_does_not_hold_are_float32(scale, scales, rng):
    w = weight(rng, scale=scale)
    (options,) = found_options(offers(modelled(MATMUL, w), bits=4, group=32, method="nearest"))
    assert options.scales == scales
    asked = offers(modelled(MATMUL, w), bits=4, group=32, method="nearest", scales="float16")
    assert len(asked) == (0 if scale == 1e8 else 1)


def test_scales_that_overflow_are_refused_with_the_reason(rng):
    model = modelled(MATMUL, weight(rng, scale=1e8))
    layer = layers_of(model, quantizer())[0]
    stage = stage_of(BlockOptions(4, 32, method="nearest"))
    refused = quantizer().apply(layer, stage, None, ir.tape.Tape())
    assert isinstance(refused, Skip)
    assert "overflow float16" in refused.why


def test_small_and_empty_weights_get_no_candidate(rng):
    small = modelled(
        "g (float[5, 8] x) => (float[5, 8] y) { y = MatMul(x, w) }", weight(rng, (8, 8))
    )
    assert offers(small) == []
    empty = modelled(
        "g (float[5, 0] x) => (float[5, 96] y) { y = MatMul(x, w) }", np.ones((0, 96), np.float32)
    )
    assert layers_of(empty, quantizer()) == []
    np.testing.assert_array_equal(
        run(empty, {"x": np.ones((5, 0), np.float32)})["y"], np.zeros((5, 96))
    )


def test_methods_that_need_statistics_say_so(rng):
    model = modelled(PRODUCTS["matmul"][0], weight(rng, (70, 33)))
    layer = layers_of(model, quantizer())[0]
    for options in (BlockOptions(4, 32, method="gptq"), BlockOptions(4, 32, rank=4)):
        with pytest.raises(InputError, match="calibration data"):
            quantizer().apply(layer, stage_of(options), None, ir.tape.Tape())
        with pytest.raises(InputError, match="calibration data"):
            quantizer().transform(layer, stage_of(options), (np.ones((70, 33)),), None)


def test_what_is_left_of_a_weight_does_without_the_statistics_of_the_whole(rng):
    model, stats = modelled(MATMUL, weight(rng)), statistics(rng, k=160)
    assert {o.method for o in found_options(offers(model, stats=stats))} == {"clip"}
    layer, tape = layers_of(model, quantizer())[0], ir.tape.Tape()
    stage = stage_of(BlockOptions(4, 32, method="gptq"))
    assert not isinstance(quantizer().apply(layer, stage, stats["w"], tape), Skip)
    assert [node.op_type for node in tape.nodes] == ["Reshape", "Cast", "MatMulNBits"]


@pytest.mark.parametrize(
    "options",
    [{"group": 8}, {"group": 48}, {"group": 512}, {"method": "round"}, {"scales": "bfloat16"},
     {"form": "qdq"}, {"rank": -1}, {"max_row_error": 0.0}, {"bits": 9}, {"bits": 1}],
)  # fmt: skip
def test_options_out_of_range_are_refused(options):
    with pytest.raises(InputError, match="quantize-weights"):
        quantizer(**options)


@pytest.mark.parametrize(
    "options",
    [{"group": 0}, {"group": 24}, {"bits": 3, "group": 32}, {"group": 32, "rank": -1},
     {"group": 32, "method": "x"}, {"group": 32, "form": "x"}, {"group": 32, "scales": "x"}],
)  # fmt: skip
def test_stages_out_of_range_are_refused(options):
    with pytest.raises(InputError, match="stage in blocks"):
        BlockOptions.of(Stage("quantize-weights", {"bits": 4, **options}))


@given(
    st.sampled_from([2, 4, 8]),
    st.sampled_from([16, 32, 64, 128, 256]),
    st.booleans(),
    st.integers(0, 64),
    st.sampled_from(["nbits", "dequantize-linear"]),
)
def test_options_survive_a_plan(bits, group, symmetric, rank, form):
    options = BlockOptions(bits, group, symmetric, "gptq", rank, form, "float32")
    assert BlockOptions.of(stage_of(options)) == options


def test_what_is_offered_is_told_apart():
    wanted = Wanted(None, None, None, "auto", None, None, None)
    found = list(wanted.offers("gptq", "nbits", lambda bits: "float16"))
    assert len(set(found)) == len(found)
    assert {(o.bits, o.group) for o in found if o.rank} == {(4, 32), (4, 128)}
