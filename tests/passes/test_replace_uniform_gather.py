"""ReplaceUniformGather: one row in the place of many equal ones."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_rx_passes.replace_uniform_gather import ReplaceUniformGather

INDICES = {
    "expanded": "i = Expand(k, s)",
    "filled": "i = ConstantOfShape<value = int64[1] {1}>(s)",
    "sliced": "c = Slice(l, a, s2, a)  d = Unsqueeze(c, a)  i = Expand(d, s)",
    "picked": "p = ConstantOfShape<value = int64[1] {0}>(s2)  c = Gather(l, p)  i = Expand(c, s)",
}


def run(rewrite, indices, use, *, dtype="float", result="A, B, 4", weights=None, **options):
    table = np.arange(12).reshape(3, 4).astype("f2" if dtype == "float16" else "f4")
    found = {"table": table, "k": np.int64(1), "l": np.ones(8, "i8"), "a": np.array([0])}
    found.update(weights or {})
    body = f"s = Shape<end = 2>(x)  s2 = Shape<start = 1, end = 2>(x)  {indices}  {use}"
    words = body.replace(",", " ").replace(")", " ").replace("(", " ").split()
    found = {name: array for name, array in found.items() if name in words}
    text = f"g ({dtype}[N, M, 4] x) => ({dtype}[{result}] y) {{ {body} }}"
    return rewrite(ReplaceUniformGather(), text, found, **options)


@pytest.mark.parametrize("case", INDICES)
@pytest.mark.parametrize("dtype", ["float", "float16"])
def test_one_row(rewrite, case, dtype):
    done = run(rewrite, INDICES[case], "g = Gather(table, i)  y = Add(x, g)", dtype=dtype)

    gather = done.after.graph[-1].inputs[1].producer()
    assert gather.inputs[1].const_value.numpy() == 1
    assert gather.inputs[1].shape == ()


KEPT = {
    "the rows are returned": ("y = Gather(table, i)", "A, B, 4"),
    "something else reads them": ("g = Gather(table, i)  y = Softmax(g)", "A, B, 4"),
    "they lengthen the result": ("g = Gather(table, i)  y = Add(g, r)", "A, B, 4"),
    "another axis": ("g = Gather<axis = 1>(table, i)  y = Neg(g)", "3, A, B"),
}


@pytest.mark.parametrize("case", KEPT)
def test_what_needs_all_rows_stays(rewrite, case):
    use, result = KEPT[case]

    done = run(rewrite, INDICES["expanded"], use, result=result, weights={"r": np.ones(4, "f")})

    assert not done.entry.changed


def test_rows_that_are_not_there_and_indices_that_differ_stay(rewrite):
    use = "g = Gather(table, i)  y = Add(x, g)"
    done = run(rewrite, INDICES["expanded"], use, weights={"k": np.int64(3)}, runs=False)
    assert done.reasons == ["the table may be too short"]

    mixed = {"l": np.array([0, 1, 0, 1, 0, 1, 0, 1])}
    assert not run(rewrite, INDICES["sliced"], use, weights=mixed, runs=False).entry.changed
