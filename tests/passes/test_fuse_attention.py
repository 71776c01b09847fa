"""FuseAttention: what ONNX Runtime's kernel computes the same way."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_rx.runtime import Runner
from onnxslim_rx_passes.fuse_attention import FuseAttention

TAIL = "p = Softmax(s) y = MatMul(p, v)"
KT = "kt = Transpose<perm = [0, 1, 3, 2]>(k) "
SPELLINGS = {
    "behind": KT + "a = MatMul(q, kt) s = Mul(a, scale) " + TAIL,
    "divided": KT + "a = MatMul(q, kt) s = Div(a, root) " + TAIL,
    "query": KT + "b = Mul(scale, q) s = MatMul(b, kt) " + TAIL,
    "both": KT + "b = Mul(q, part) c = Mul(kt, part) s = MatMul(b, c) " + TAIL,
    "none": KT + "s = MatMul(q, kt) " + TAIL.replace("(s)", "<axis = 3>(s)"),
}
MASKED = KT + "a = MatMul(q, kt) b = Mul(a, scale) s = Add(b, mask) " + TAIL


def weights(kind="f", **changed):
    found = {"scale": 0.3, "root": 3.3, "part": 0.55, **changed}
    return {name: np.asarray(value, kind) for name, value in found.items()}


def graph(body, kind="float", q="N, 2, 5, 8", k="N, 2, 7, 8", v="N, 2, 7, 6", extra=""):
    return f"""g ({kind}[{q}] q, {kind}[{k}] k, {kind}[{v}] v{extra}) => ({kind}[N, 2, 5, 6] y)
        {{ {body} }}"""


def attend(feeds, scale, mask=0.0):
    """The reference, in float64."""
    q, k, v = (feeds[name].astype("d") for name in "qkv")
    scores = scale * q @ k.swapaxes(-1, -2) + mask
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    return scores / scores.sum(-1, keepdims=True) @ v


def random_feeds(rng, dtype="f"):
    sizes = {"q": (2, 2, 5, 8), "k": (2, 2, 7, 8), "v": (2, 2, 7, 6)}
    return {name: rng.standard_normal(size).astype(dtype) for name, size in sizes.items()}


@pytest.mark.parametrize("case", SPELLINGS)
def test_scales(rewrite, rng, case):
    done = rewrite(FuseAttention(), graph(SPELLINGS[case]), weights(), opset=23, tolerance=3e-6)
    assert done.ops == ["Attention"]
    scale = {"divided": 1 / 3.3, "both": 0.55**2, "none": 1.0}.get(case, 0.3)
    feeds = random_feeds(rng)
    np.testing.assert_allclose(Runner(done.after)(feeds)["y"], attend(feeds, scale), atol=3e-6)


@pytest.mark.parametrize("shape", [(5, 7), (1, 1, 5, 7), (2, 5, 7), (1, 2, 5, 7)], ids=str)
def test_constant_masks(rewrite, rng, shape):
    mask = np.where(rng.random(shape) > 0.5, 0, np.finfo("f").min)
    mask[..., 0] = 0
    values = weights(mask=mask)
    done = rewrite(FuseAttention(), graph(MASKED), values, opset=23, tolerance=3e-6)
    assert done.ops == ["Attention"]
    feeds = random_feeds(rng)
    right = attend(feeds, 0.3, mask)
    np.testing.assert_allclose(Runner(done.after)(feeds)["y"], right, atol=3e-6)


def test_half_precision(rewrite, rng):
    text = graph(SPELLINGS["behind"], "float16")
    done = rewrite(FuseAttention(), text, weights("e"), opset=23, tolerance=6e-3)
    assert done.ops == ["Attention"]
    feeds = random_feeds(rng, "e")
    right = attend(feeds, 0.3)
    np.testing.assert_allclose(Runner(done.after)(feeds)["y"], right, atol=6e-3)


def test_heads_split_by_one_transpose(rewrite):
    body = SPELLINGS["behind"].replace("0, 1, 3, 2", "0, 2, 3, 1")
    text = graph(body, k="N, 7, 2, 8")
    done = rewrite(FuseAttention(), text, weights(), opset=23, tolerance=3e-6)
    assert done.ops == ["Transpose", "Attention"]
    assert list(done.after.graph[0].attributes.get_ints("perm")) == [0, 2, 1, 3]


def masks(rng, **rows):
    mask = np.zeros((5, 7))
    for row, value in rows.items():
        mask[int(row[1:])] = value
    return mask


def test_masks_that_kernels_read_in_another_way(rewrite, rng):
    other = "which ONNX Runtime treats another way"
    lowest = float(np.finfo("f").min)
    cases = {
        "closed row": (masks(rng, r2=-np.inf), f"the mask masks whole rows, {other}"),
        "lowest row": (masks(rng, r2=lowest), f"the mask masks whole rows, {other}"),
        "nan": (masks(rng, r2=np.nan), f"the mask masks whole rows, {other}"),
        "columns": (np.zeros((2, 1, 1, 7)), "the mask is broadcast along the sequence"),
        "vector": (np.zeros(7), "the mask is broadcast along the sequence"),
    }
    for mask, why in cases.values():
        text = graph(MASKED, *[f"{kind}" for kind in ["float"]])
        text = text.replace("[N,", "[2,") if mask.ndim == 4 else text
        done = rewrite(FuseAttention(), text, weights(mask=mask), opset=23)
        assert done.reasons == [why]
    text = graph(MASKED, extra=", float[5, 7] mask")
    done = rewrite(FuseAttention(), text, weights(), opset=23)
    assert done.reasons == [f"the mask might mask whole rows, {other}"]


REFUSED = {
    "double": (graph(SPELLINGS["none"], "double"), {}, "no Attention for double"),
    "scale": (graph(SPELLINGS["behind"]), {"scale": -0.3}, "the scale is not a positive number"),
    "axis": (graph(SPELLINGS["none"].replace("3>(s)", "2>(s)")), {}, "not along the last axis"),
    "heads": (graph(SPELLINGS["none"], k="N, 1, 7, 8"), {}, "not proven to be the same"),
    "ranks": (graph(SPELLINGS["none"], v="7, 6"), {}, "there are not four axes"),
    "batch": (graph(SPELLINGS["none"], v="1, 2, 7, 6"), {}, "not proven to be the same"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(rewrite, case):
    text, changed, why = REFUSED[case]
    kind = "d" if case == "double" else "f"
    done = rewrite(FuseAttention(), text, weights(kind, **changed), opset=23)
    assert not done.entry.changed
    assert why in done.reasons[0]


def test_others_stay(rewrite):
    text = graph(SPELLINGS["none"])
    assert not rewrite(FuseAttention(), text, weights(), opset=22).entry.changed
    shared = text.replace(" y)", " y, float[N, 2, 5, 7] p)")
    done = rewrite(FuseAttention(), shared, weights(), opset=23)
    assert done.reasons == ["an intermediate result is read elsewhere too"]
    for other in (text.replace("Transpose<perm = [0, 1, 3, 2]>", "Identity"),):
        plain = other.replace("N, 2, 7, 8", "N, 2, 8, 7")
        assert not rewrite(FuseAttention(), plain, weights(), opset=23).entry.changed


def test_inside_a_branch(rewrite):
    body = SPELLINGS["behind"].replace("y =", "z =")
    text = f"""g (bool on, float[N, 2, 5, 8] q, float[N, 2, 7, 8] k, float[N, 2, 7, 8] v)
        => (float[N, 2, 5, 8] y) {{
        y = If(on) <then_branch = t () => (float[N, 2, 5, 8] z) {{ {body} }},
                   else_branch = e () => (float[N, 2, 5, 8] j) {{ j = Neg(q) }}>
    }}"""
    done = rewrite(FuseAttention(), text, weights(), opset=23, tolerance=3e-6)
    assert "Attention" in done.ops
