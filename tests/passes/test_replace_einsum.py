"""ReplaceEinsum: against numpy's einsum, by way of ONNX Runtime's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onnxslim_rx.ir import nodes
from onnxslim_rx.manager import PassManager
from onnxslim_rx.runtime import Runner
from onnxslim_rx_passes.replace_einsum import ReplaceEinsum

TOLERANCE = 2e-6  # the runtime may sum up to 6 products in another order

SIZES = {"a": 2, "b": 3, "i": 4, "j": 5, "k": 6, "h": 7}
EQUATIONS = {
    "bik,bkj->bij": "MatMul",
    "abik,abkj->abij": "MatMul",
    "bik,kj->bij": "MatMul",
    "ik,bkj->bij": "MatMul",
    "bkj,bik->bij": "MatMul",
    "bik,k->bi": "MatMul",
    "k,bkj->bj": "MatMul",
    "k,k->": "MatMul",
    "ik,kj": "MatMul",
    "b i k , b k j -> b i j": "MatMul",
    "ik,jk->ij": "Gemm",
    "ki,jk->ij": "Gemm",
    "ki,kj->ji": "Gemm",
    "bij,bij->bij": "Mul",
    "ij,bij->bij": "Mul",
    "bij,j->bij": "Mul",
    "bij->jbi": "Transpose",
    "ji": "Transpose",
    "bij->bj": "ReduceSum",
    "bij->": "ReduceSum",
}
STAYS = {
    "bik,bjk->bij": "it is no matrix product without a Transpose more",
    "bik,bkj->bji": None,
    "bhi,bij->bhij": "it is no matrix product",
    "bij->ji": "it sums and transposes",
    "ii->i": "a letter is repeated",
    "...ik,...kj->...ij": "the equation has an ellipsis, or more than two operands",
    "ij,jk,ka->ia": "the equation has an ellipsis, or more than two operands",
    "bik,bkj->ij": "it is no matrix product",
}


def text_of(equation, dtype="float"):
    """Einsum of inputs x0, x1; the result has an axis more, or the text could not state it."""
    terms = equation.replace(" ", "").partition("->")[0].split(",")
    names = [f"x{index}" for index in range(len(terms))]
    sizes = [", ".join(str(SIZES.get(c, 2)) for c in term.replace("...", "a")) for term in terms]
    inputs = ", ".join(f"{dtype}[{s}] {name}" for s, name in zip(sizes, names, strict=True))
    rank = len(result_of(equation).replace("...", "a"))
    made = ", ".join(f"O{axis}" for axis in range(rank + 1))
    return f"""g ({inputs}) => ({dtype}[{made}] y) {{
    o = Constant<value_ints = [0]>()  e = Einsum<equation = "{equation}">({", ".join(names)})
    y = Unsqueeze(e, o) }}"""


def result_of(equation):
    terms, arrow, result = equation.replace(" ", "").partition("->")
    if arrow:
        return result
    return "".join(sorted(c for c in set(terms) - {","} if terms.count(c) == 1))


@pytest.mark.parametrize("equation", EQUATIONS)
def test_one_operator(rewrite, equation):
    done = rewrite(ReplaceEinsum(), text_of(equation), tolerance=TOLERANCE)
    assert done.ops == ["Constant", EQUATIONS[equation], "Unsqueeze"]


@pytest.mark.parametrize("equation", STAYS)
def test_what_stays(rewrite, equation):
    done = rewrite(ReplaceEinsum(), text_of(equation), tolerance=TOLERANCE)
    if STAYS[equation] is not None:
        assert not done.entry.changed
        assert done.reasons == [STAYS[equation]]


@pytest.mark.parametrize(
    ("dtype", "equation", "ops"),
    [
        ("float16", "bik,bkj->bij", ["MatMul"]),
        ("int32", "bik,bkj->bij", ["MatMul"]),
        ("int32", "ik,jk->ij", ["Einsum"]),
        ("double", "ik,jk->ij", ["Gemm"]),
    ],
)
def test_types(rewrite, dtype, equation, ops):
    done = rewrite(ReplaceEinsum(), text_of(equation, dtype), tolerance=2e-3)
    assert done.ops == ["Constant", *ops, "Unsqueeze"]


def test_constants_and_transposes_in_front_take_the_order(rewrite, rng):
    weights = {"w": rng.standard_normal((5, 6)).astype("f")}
    text = """g (float[N, 4, 6] x) => (float[N, 4, 5] y) {
    y = Einsum<equation = "bik,jk->bij">(x, w) }"""
    assert rewrite(ReplaceEinsum(), text, weights, tolerance=TOLERANCE).ops == ["MatMul"]
    tied = text.replace(" }", "  z = Neg(w) }").replace(" y)", " y, float[5, 6] z)")
    assert not rewrite(ReplaceEinsum(), tied, weights, tolerance=TOLERANCE).entry.changed

    text = """g (float[N, 6, 4] x, float[N, 6, 5] z) => (float[N, 4, 5] y) {
    t = Transpose<perm = [0, 2, 1]>(z)  y = Einsum<equation = "bki,bjk->bij">(x, t) }"""
    done = rewrite(ReplaceEinsum(), text, tolerance=TOLERANCE)
    assert not done.entry.changed
    done = rewrite(
        ReplaceEinsum(), text.replace("bki", "bik").replace("6, 4]", "4, 6]"), tolerance=TOLERANCE
    )
    assert done.ops == ["MatMul"]


def test_sizes_that_may_be_one(rewrite):
    text = """g (float[N, 4, K] x, float[N, L, 5] z) => (float[N, 4, 5] y) {
    y = Einsum<equation = "bik,bkj->bij">(x, z) }"""
    done = rewrite(ReplaceEinsum(), text, runs=False)
    assert done.reasons == ["sizes of the summed axes are not proven equal"]
    text = text.replace("L", "K")
    assert rewrite(ReplaceEinsum(), text, runs=False).ops == ["MatMul"]


def test_nothing_to_do_and_bodies(rewrite):
    text = """g (bool k, float[2, 3] x) => (float[A, B] y) { y = If(k)
    <then_branch = t () => (float[2, 3] u) { r = Relu(x)  u = Einsum<equation = "ij->ij">(r) },
     else_branch = e () => (float[3, 2] v) { v = Einsum<equation = "ij->ji">(x) }> }"""
    assert rewrite(ReplaceEinsum(), text).ops == ["If", "Relu", "Transpose"]


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_random_orders_of_letters(data, build_model, rng):
    terms = [data.draw(st.permutations(term)) for term in ("bik", "bkj")]
    result = data.draw(st.permutations("bij"))
    equation = f"{''.join(terms[0])},{''.join(terms[1])}->{''.join(result)}"
    model = build_model(text_of(equation))
    feeds = {
        f"x{index}": rng.standard_normal([SIZES[c] for c in term]).astype("f")
        for index, term in enumerate(terms)
    }

    after = PassManager([ReplaceEinsum()], verify=None).run(model).model

    assert len(list(nodes(after))) == 3
    expected = np.einsum(equation, *(array.astype(np.float64) for array in feeds.values()))
    np.testing.assert_allclose(Runner(after)(feeds)["y"][0], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("equation", ["ij,ji->ij", "ij,ji->ji", "bki,jbk->jbi", "jbk,bki->jbi"])
def test_operands_of_one_length_in_another_order_are_no_product(build_model, rng, equation):
    model = build_model(text_of(equation))
    terms = equation.partition("->")[0].split(",")
    feeds = {
        f"x{index}": rng.standard_normal([SIZES[c] for c in term]).astype("f")
        for index, term in enumerate(terms)
    }

    after = PassManager([ReplaceEinsum()], verify=None).run(model).model

    expected = np.einsum(equation, *(array.astype(np.float64) for array in feeds.values()))
    np.testing.assert_allclose(Runner(after)(feeds)["y"][0], expected, rtol=0, atol=1e-5)
