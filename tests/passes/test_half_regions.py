"""The minimum cut between half and float32, against every other choice."""

from __future__ import annotations

import itertools

import onnx_ir as ir
from hypothesis import given
from hypothesis import strategies as st

from onnxslim_rx_passes._half_regions import Carried, nodes_in_half


@st.composite
def networks(draw: st.DrawFn) -> tuple[list[Carried], dict[ir.Node, bool | None]]:
    count = draw(st.integers(1, 7))
    made = [ir.Node("", "Op", []) for _ in range(count)]
    settled = {node: draw(st.sampled_from([None, None, True, False])) for node in made}
    values = []
    for place in range(-1, count):
        later = made[place + 1 :]
        readers = frozenset(draw(st.sets(st.sampled_from(later)))) if later else frozenset()
        maker = made[place] if place >= 0 else None
        values.append(Carried(maker, readers, draw(st.booleans())))
    return values, settled


@given(networks(), st.booleans())
def test_no_other_choice_leaves_fewer_casts(
    network: tuple[list[Carried], dict[ir.Node, bool | None]], outside: bool
) -> None:
    values, settled = network
    free = [node for node, half in settled.items() if half is None]
    fixed = {node for node, half in settled.items() if half}

    def cost(half: set[ir.Node]) -> int:
        total = 0
        for value in values:
            made = outside if value.maker is None else value.maker in half
            read = {node in half for node in value.readers} | (
                {outside} if value.outside else set()
            )
            total += bool(read - {made})
        return total

    chosen = nodes_in_half(values, settled.__getitem__, outside=outside)
    choices = [set(some) for n in range(len(free) + 1) for some in itertools.combinations(free, n)]
    best = min(cost(fixed | some) for some in choices)
    assert cost(fixed | chosen) == best
    # and of all that are as good, none has fewer nodes in half
    assert len(chosen) == min(len(some) for some in choices if cost(fixed | some) == best)
