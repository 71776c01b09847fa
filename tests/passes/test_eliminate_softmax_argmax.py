"""EliminateSoftmaxArgmax: the largest logit is the largest probability."""

from __future__ import annotations

import pytest

from onnxslim_rx_passes.eliminate_softmax_argmax import EliminateSoftmaxArgmax


@pytest.mark.parametrize("dtype", ["float", "double"])
@pytest.mark.parametrize("kind", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize("last", [0, 1])
@pytest.mark.parametrize("keeps", [0, 1])
def test_the_place_stays(rewrite, dtype, kind, last, keeps):
    shape = "N, 1, 5" if keeps else "N, 5"
    text = f"""g ({dtype}[N, 7, 5] x) => (int64[{shape}] y) {{ a = {kind}<axis=1>(x)
    y = ArgMax<axis=-2, keepdims={keeps}, select_last_index={last}>(a) }}"""

    assert rewrite(EliminateSoftmaxArgmax(), text).ops == ["ArgMax"]


KEPT = {
    "other axes": (17, "a = Softmax<axis=2>(x)  y = ArgMax<axis=1>(a)", "the axes differ"),
    "several axes": (
        11,
        "a = Softmax(x)  y = ArgMax<axis=1>(a)",
        "the Softmax takes several axes together",
    ),
}


@pytest.mark.parametrize("case", KEPT)
def test_other_axes_stay(rewrite, case):
    opset, body, why = KEPT[case]

    done = rewrite(
        EliminateSoftmaxArgmax(),
        f"g (float[N, 7, 5] x) => (int64[N, 1, 5] y) {{ {body} }}",
        opset=opset,
    )

    assert done.reasons == [why]


def test_the_last_axis_of_old_opsets(rewrite):
    text = """g (float[N, 7, 5] x) => (int64[N, 7, 1] y)
    { a = Softmax<axis=2>(x)  y = ArgMax<axis=-1>(a) }"""

    assert rewrite(EliminateSoftmaxArgmax(), text, opset=11).ops == ["ArgMax"]


def test_probabilities_that_are_read_and_sigmoids_stay(rewrite):
    text = """g (float[N, 5] x) => (int64[N, 1] y, float[N, 5] a)
    { a = Softmax(x)  y = ArgMax<axis=1>(a) }"""
    done = rewrite(EliminateSoftmaxArgmax(), text)
    assert done.reasons == ["the probabilities are read elsewhere too"]

    text = "g (float[N, 5] x) => (int64[N, 1] y) { a = Sigmoid(x)  y = ArgMax<axis=1>(a) }"
    assert not rewrite(EliminateSoftmaxArgmax(), text).entry.changed


def test_half_precision_inside_a_branch(rewrite):
    text = """g (float16[N, 5] x, bool c) => (int64[N, 1] y) {
    y = If (c) <
        then_branch = t () => (int64[N, 1] u) { a = Softmax(x)  u = ArgMax<axis=1>(a) },
        else_branch = e () => (int64[N, 1] u) { u = ArgMax<axis=1, keepdims=1>(x) }
    > }"""

    assert rewrite(EliminateSoftmaxArgmax(), text).ops == ["If", "ArgMax", "ArgMax"]
