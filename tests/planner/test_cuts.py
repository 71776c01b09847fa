"""What crosses a cut, and which cuts are best."""

from __future__ import annotations

import itertools
from typing import Any

import onnx_ir as ir
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxslim_rx.planner.damage.cuts import Layout, choose_cuts

TEXT = """<ir_version: 8, opset_import: ["": 17]>
g (float[n, 4] x) => (float[n, 4] early, float[n, 4] y)
<float[4, 4] w0 = ZEROS, float[4, 4] w1 = ZEROS, float[4, 4] w2 = ZEROS, float[4, 4] dead = ZEROS> {
    a = MatMul(x, w0)
    early = Tanh(a)
    t = Transpose(w1)
    c = MatMul(early, t)
    d = Add(c, early)
    e = MatMul(d, w0)
    unused = MatMul(e, dead)
    y = MatMul(e, w2)
}""".replace("ZEROS", "{" + ", ".join(["0"] * 16) + "}")


def layout():
    model = ir.from_onnx_text(TEXT)
    return Layout(model, list(model.graph.outputs), {"x": (3, 4)})


def names(values):
    return [value.name for value in values]


def test_constants_are_found_behind_what_is_computed_from_them():
    found = {value.name: place for value, place in layout().first_readers().items()}
    # MatMul, Tanh, MatMul, Add, MatMul, MatMul: what is constant or unused does not count
    assert len(layout()) == 6
    assert {name: found.get(name) for name in ("w0", "w1", "w2", "dead")} == {
        "w0": 0, "w1": 2, "w2": 5, "dead": None,
    }  # fmt: skip


def test_what_crosses_a_cut_is_made_before_and_read_behind_it():
    cut = layout()
    assert [names(cut.crossing(place)) for place in range(6)] == [
        [], ["a"], ["early"], ["early", "c"], ["d"], ["e"],
    ]  # fmt: skip
    # 3 x 4 float32, and what crosses may be limited
    assert [cut.allows(3, size) for size in (96, 95)] == [True, False]
    assert cut.remaining(0) > cut.remaining(3) > cut.remaining(5) > cut.remaining(6) == 0


class Line:
    """A layout of nodes that take so much work."""

    def __init__(self, work, forbidden=()):
        self.work, self.forbidden = work, forbidden

    def __len__(self):
        return len(self.work)

    def remaining(self, place):
        return sum(self.work[place:])

    def allows(self, place, most_bytes):
        return place not in self.forbidden


def cost(line, cuts, probes, samples):
    total = 0.0
    for begin, end in zip(cuts, [*cuts[1:], len(line) + 1], strict=True):
        runs = samples * sum(n for place, n in probes.items() if begin <= place < end)
        total += (25 + samples + runs) * line.remaining(begin) if runs else 0
    return total


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 50), min_size=1, max_size=7),
    st.dictionaries(st.integers(0, 6), st.integers(0, 9), max_size=5),
    st.integers(1, 32),
    st.sets(st.integers(1, 6)),
)
def test_no_other_set_of_cuts_is_cheaper(work, probes, samples, forbidden):
    probes = {place: n for place, n in probes.items() if place < len(work)}
    line: Any = Line(work, forbidden)
    found = choose_cuts(line, probes, samples, 0)
    assert found == sorted(set(found))
    assert not forbidden & set(found)
    places = [p for p in probes if p and p not in forbidden]
    if not any(probes.values()):
        assert found == [0]
        return
    # everything that is probed lies behind a cut
    assert min(found) <= min(place for place, n in probes.items() if n)
    others = [
        cost(line, [0, *sorted(some)], probes, samples)
        for size in range(len(places) + 1)
        for some in itertools.combinations(places, size)
    ]
    assert cost(line, found, probes, samples) <= min(others) * (1 + 1e-12)
