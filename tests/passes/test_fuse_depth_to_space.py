"""FuseDepthToSpace: the three orders that operators have, where sizes are proven."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_rx_passes.fuse_depth_to_space import FuseDepthToSpace

OUT = ("[N, 12, 4, 5]", "[N, 3, 8, 10]", [-1, 3, 8, 10])
BACK = ("[N, 3, 8, 10]", "[N, 12, 4, 5]", [-1, 12, 4, 5])
KINDS = {
    "DCR": (*OUT, [-1, 2, 2, 3, 4, 5], "0, 3, 4, 1, 5, 2", "DepthToSpace"),
    "CRD": (*OUT, [0, 3, 2, 2, 4, 5], "0, 1, 4, 2, 5, 3", "DepthToSpace"),
    "back": (*BACK, [-1, 3, 4, 2, 5, 2], "0, 3, 5, 1, 2, 4", "SpaceToDepth"),
}


def graph(case, kind="float", extra=""):
    inputs, outputs, last, first, perm, op_type = KINDS[case]
    text = f"""g ({kind}{inputs} x) => ({kind}{outputs} y{extra}) {{
        a = Reshape(x, first)  b = Transpose<perm = [{perm}]>(a)  y = Reshape(b, last) }}"""
    return text, {"first": np.array(first), "last": np.array(last)}, op_type


@pytest.mark.parametrize("case", KINDS)
@pytest.mark.parametrize("kind", ["float", "float16", "double"])
def test_blocks_move(rewrite, case, kind):
    text, weights, op_type = graph(case, kind)
    done = rewrite(FuseDepthToSpace(), text, weights)
    assert done.ops == [op_type]
    mode = done.after.graph[0].attributes.get_string("mode", "")
    assert mode == ("" if case == "back" else case)


def test_a_plane_of_symbolic_size(rewrite):
    text = """g (float[N, 12, H, W] x) => (float[N, 3, P, Q] y) {
        s = Shape(x)
        n = Slice(s, zero, one)  h = Slice(s, two, three)  w = Slice(s, three, four)
        k = Concat<axis = 0>(n, front, h, w)  a = Reshape(x, k)
        b = Transpose<perm = [0, 1, 4, 2, 5, 3]>(a)
        p = Mul(h, two)  q = Mul(w, two)  l = Concat<axis = 0>(n, three, p, q)
        y = Reshape(b, l) }"""
    weights = dict(zip(("zero", "one", "two", "three", "four"), np.arange(5)[:, None], strict=True))
    weights["front"] = np.array([3, 2, 2])
    sizes = {"N": 2, "H": 3, "W": 4}
    done = rewrite(FuseDepthToSpace(), text, weights, sizes=sizes, runs=False)
    assert "DepthToSpace" in done.ops


@pytest.mark.parametrize(
    ("name", "changed", "reasons"),
    [
        ("last", [-1, 3, 10, 8], ["the sizes are not those of blocks, or not known"]),
        ("first", [-1, 2, 2, 3, 5, 4], ["the sizes are not those of blocks, or not known"]),
        ("first", [-1, 1, 4, 3, 4, 5], ["the sizes are not those of blocks, or not known"]),
        ("last", [-1, 6, 4, 10], ["the sizes are not those of blocks, or not known"]),
        ("last", [-1, 80], []),
    ],
)
def test_other_sizes_stay(rewrite, name, changed, reasons):
    text, weights, _ = graph("DCR")
    text = text.replace("[N, 3, 8, 10] y", "[A, B] y" if len(changed) == 2 else "[A, B, C, D] y")
    done = rewrite(FuseDepthToSpace(), text, weights | {name: np.array(changed)})
    assert not done.entry.changed
    assert done.reasons == reasons


def test_other_planes_stay(rewrite):
    text, weights, _ = graph("DCR")
    done = rewrite(FuseDepthToSpace(), text.replace("[N, 12, 4, 5]", "[N, 6, 8, 5]"), weights)
    assert done.reasons == ["the sizes are not those of blocks, or not known"]


def test_other_orders_and_opsets_stay(rewrite):
    text, weights, _ = graph("DCR")
    other = text.replace("0, 3, 4, 1, 5, 2", "0, 3, 4, 2, 5, 1")
    assert not rewrite(FuseDepthToSpace(), other, weights).entry.changed
    assert not rewrite(FuseDepthToSpace(), text, weights, opset=10).entry.changed


def test_refused(rewrite):
    text, weights, _ = graph("DCR", "int32")
    done = rewrite(FuseDepthToSpace(), text, weights)
    assert done.reasons == ["ONNX Runtime has no DepthToSpace for int32 on the CPU"]
    text, weights, _ = graph("DCR", extra=", float[N, 2, 2, 3, 4, 5] a")
    done = rewrite(FuseDepthToSpace(), text, weights)
    assert done.reasons == ["an intermediate result is read elsewhere too"]
    text, weights, _ = graph("DCR")
    text = text.replace("(float[N, 12, 4, 5] x", "(float[N, 12, 4, 5] x, int64[R] first")
    del weights["first"]
    done = rewrite(FuseDepthToSpace(), text, weights, runs=False)
    assert len(done.reasons) == 1


def test_inside_a_branch(rewrite):
    text, weights, _ = graph("CRD")
    inner = text.split("{", 1)[1].rsplit("}", 1)[0].replace("y =", "z =")
    text = f"""g (bool on, float[N, 12, 4, 5] x) => (float[N, 3, 8, 10] y) {{
        y = If(on) <then_branch = t () => (float[N, 3, 8, 10] z) {{ {inner} }},
                   else_branch = f () => (float[N, 3, 8, 10] k) {{ k = Reshape(x, last) }}>
    }}"""
    done = rewrite(FuseDepthToSpace(), text, weights)
    assert "DepthToSpace" in done.ops
