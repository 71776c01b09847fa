"""SliceCountedGather: rows one after the other are cut out."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_rx.errors import OnnxslimError
from onnxslim_rx.runtime import Runner
from onnxslim_rx_passes.slice_counted_gather import SliceCountedGather

RANGE = "t = Gather(s, one)  r = Range(zero, t, one)"
CUT = "t = Shape<start = 1, end = 2>(x)  r = Slice(counter, a0, t, a1)"
SUM = "g = Gather(table, i)  y = Add(x, g)"


def run(rewrite, body, *, dtype="float", head="N, M, 4", weights=None, **options):
    found = {
        "table": np.arange(24).reshape(6, 4).astype("f2" if dtype == "float16" else "f4"),
        "counter": np.arange(6)[None],
        "zero": np.int64(0),
        "one": np.int64(1),
        "two": np.int64(2),
        "a0": np.array([0]),
        "a1": np.array([1]),
    }
    found.update(weights or {})
    body = f"s = Shape(x)  {body}" if "(s," in body else body
    words = body.replace(",", " ").replace(")", " ").replace("(", " ").split()
    found = {name: array for name, array in found.items() if name in words}
    text = f"g ({dtype}[{head}] x) => ({dtype}[A, B, 4] y) {{ {body} }}"
    return rewrite(SliceCountedGather(), text, found, **options)


@pytest.mark.parametrize("dtype", ["float", "float16"])
@pytest.mark.parametrize("lead", ["i = Identity(r)", "i = Unsqueeze(r, a0)"])
def test_a_range(rewrite, dtype, lead):
    body = f"{RANGE}  {lead}  {SUM}" if "Un" in lead else f"{RANGE}  {SUM}".replace("e, i", "e, r")

    done = run(rewrite, body, dtype=dtype)

    assert done.ops == ["Shape", "Gather", "Unsqueeze", "Slice", "Add"]


@pytest.mark.parametrize("dtype", ["float", "float16"])
def test_a_cut_counter(rewrite, dtype):
    done = run(rewrite, f"{CUT}  {SUM}".replace("e, i", "e, r"), dtype=dtype)

    assert done.ops == ["Shape", "Slice", "Add"]


def test_old_opsets(rewrite):
    body = f"{RANGE}  g = Gather(table, r)  y = Add(x, g)"

    assert run(rewrite, body, opset=12).ops[-3:] == ["Unsqueeze", "Slice", "Add"]


KEPT = {
    "from 1 to one more": (
        "u = Gather(s, one)  t = Add(u, one)  i = Range(one, t, one)  " + SUM,
        {},
    ),
    "from 1 on": ("t = Gather(s, one)  i = Range(one, t, one)  " + SUM, {}),
    "every other": ("t = Gather(s, one)  i = Range(zero, t, two)  " + SUM, {}),
    "other numbers": (
        f"{CUT}  {SUM}".replace("e, i", "e, r"),
        {"counter": np.arange(6)[None, ::-1]},
    ),
    "a longer counter": (f"{CUT}  {SUM}".replace("e, i", "e, r"), {"counter": np.arange(7)[None]}),
    "others read the indices": (
        f"{RANGE}  g = Gather(table, r)  h = Gather(table, r)  a = Add(x, g)  y = Sub(a, h)",
        {},
    ),
    "others need the rows": (f"{CUT}  y = Gather(table, r)", {}),
}


@pytest.mark.parametrize("case", KEPT)
def test_what_stays(rewrite, case):
    body, weights = KEPT[case]

    done = run(rewrite, body, weights=weights, runs=False)

    assert not done.entry.changed
    assert done.reasons


def test_rows_that_run_out_still_fail(rewrite):
    done = run(rewrite, f"{CUT}  {SUM}".replace("e, i", "e, r"))

    feeds = {"x": np.zeros((2, 7, 4), "f")}
    for model in (done.before, done.after):
        with pytest.raises(OnnxslimError):
            Runner(model)(feeds)
