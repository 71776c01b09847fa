"""Which candidate for which layer: a ladder of plans from untouched to most compressed.

Each layer has options with a damage (what the choice costs end to end) and a cost (what it leaves
to pay). For a bound D on the sum of damages the least sum of costs is a multiple-choice knapsack.
Its linear relaxation is solved by the lower convex hull of each layer's options and one sorted
list of steps along all hulls (Sinha & Zoltners, Operations Research 27(3), 1979): the best plans
for rising D are the prefixes of that list. So one sort gives every plan that is worth trying, each
a step further than the one before, and a measurement that fails says how far to walk back.
"""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Iterable, Sequence

__all__ = ["Ladder", "Option", "greedy", "hull", "lagrangian", "uniform"]


@dataclasses.dataclass(frozen=True)
class Option:
    """A choice for one layer, in numbers.

    Args:
        damage: predicted loss of quality of the whole model, at least 0.
        cost: what is left to pay, at least 0; the unit is the caller's.
    """

    damage: float
    cost: float


def hull(options: Sequence[Option]) -> list[int]:
    """Numbers of the options on the lower convex hull, from the least damage on.

    Along it, damage rises, cost falls, and each step saves less per damage than the one before.
    """
    order = sorted(range(len(options)), key=lambda i: (options[i].damage, options[i].cost, i))
    chain: list[int] = []
    for i in order:
        if chain and options[i].cost >= options[chain[-1]].cost:
            continue
        while len(chain) > 1 and _rate(options, chain[-2], chain[-1]) <= _rate(
            options, chain[-2], i
        ):
            chain.pop()
        chain.append(i)
    return chain


def _rate(options: Sequence[Option], a: int, b: int) -> float:
    """Saving per damage of going from option a to option b, which damages at least as much."""
    damage = options[b].damage - options[a].damage
    saving = options[a].cost - options[b].cost
    return saving / damage if damage > 0 else float("inf")


def lagrangian(layers: Sequence[Sequence[Option]]) -> list[tuple[int, ...]]:
    """All optima of `damage + factor * cost` for rising factors: one option for each layer."""
    ranked = []
    for number, options in enumerate(layers):
        chain = hull(options)
        # where an option has no damage at all, it replaces the first
        for position, (a, b) in enumerate(zip([0, *chain], chain, strict=False)):
            if a != b:
                ranked.append((-_rate(options, a, b), number, position, b))
    return _rungs(len(layers), ((number, option) for _, number, _, option in sorted(ranked)))


def greedy(layers: Sequence[Sequence[Option]]) -> list[tuple[int, ...]]:
    """Always the next cheaper option of some layer, the one with the most saving per damage.

    For comparison: a small step that is dear bars the way to a good one behind it.
    """
    chains = []
    for options in layers:
        chain = [0]
        for i in sorted(range(len(options)), key=lambda i: (-options[i].cost, options[i].damage)):
            last = options[chain[-1]]
            if options[i].cost < last.cost and options[i].damage >= last.damage:
                chain.append(i)
        chains.append(chain)
    heap = [
        (-_rate(layers[n], chain[0], chain[1]), n, 1)
        for n, chain in enumerate(chains)
        if len(chain) > 1
    ]
    heapq.heapify(heap)
    taken = []
    while heap:
        _, number, position = heapq.heappop(heap)
        chain = chains[number]
        taken.append((number, chain[position]))
        if position + 1 < len(chain):
            rate = _rate(layers[number], chain[position], chain[position + 1])
            heapq.heappush(heap, (-rate, number, position + 1))
    return _rungs(len(layers), taken)


def uniform(layers: Sequence[Sequence[Option]]) -> list[tuple[int, ...]]:
    """The same share of its cost left to each layer, as nearly as its options allow.

    For comparison: what tools do that do not measure.
    """
    rungs = [(0,) * len(layers)]
    for percent in range(98, 0, -2):
        picks = tuple(_nearest(options, percent / 100 * options[0].cost) for options in layers)
        if picks != rungs[-1]:
            rungs.append(picks)
    return rungs


def _nearest(options: Sequence[Option], cost: float) -> int:
    """The option whose cost is nearest; of equals the one with less damage."""
    return min(range(len(options)), key=lambda i: (abs(options[i].cost - cost), options[i].damage))


def _rungs(layers: int, steps: Iterable[tuple[int, int]]) -> list[tuple[int, ...]]:
    """All prefixes of the steps, each a layer and its new option."""
    chosen = [0] * layers
    rungs = [tuple(chosen)]
    for number, option in steps:
        chosen[number] = option
        rungs.append(tuple(chosen))
    return rungs


class Ladder:
    """Plans from untouched to most compressed.

    Args:
        layers: for each layer its options; the first is to keep it, without damage.
        rungs: the options of each layer on each rung; None: those of `lagrangian`, which are
            optimal for their own damage.
    """

    def __init__(
        self,
        layers: Sequence[Sequence[Option]],
        rungs: Sequence[tuple[int, ...]] | None = None,
    ) -> None:
        self._rungs = lagrangian(layers) if rungs is None else rungs
        self._damages = [self._sum(layers, picks, "damage") for picks in self._rungs]
        self._costs = [self._sum(layers, picks, "cost") for picks in self._rungs]

    @staticmethod
    def _sum(layers: Sequence[Sequence[Option]], picks: Sequence[int], what: str) -> float:
        found = zip(layers, picks, strict=True)
        return sum(float(getattr(options[pick], what)) for options, pick in found)

    def __len__(self) -> int:
        """Number of the highest rung."""
        return len(self._rungs) - 1

    def choices(self, rung: int) -> tuple[int, ...]:
        """The option of each layer on a rung, 0 (all kept) to `len(self)`."""
        return self._rungs[rung]

    def changed(self, rung: int) -> list[int]:
        """The layers that the step from `rung` to the next one changes."""
        pairs = zip(self._rungs[rung], self._rungs[rung + 1], strict=True)
        return [number for number, (old, new) in enumerate(pairs) if old != new]

    def damage(self, rung: int) -> float:
        """Predicted damage of a rung: the sum over its layers."""
        return self._damages[rung]

    def cost(self, rung: int) -> float:
        """Cost of a rung: the sum over its layers."""
        return self._costs[rung]

    def highest(self, damage: float) -> int:
        """The highest rung up to which the predicted damage is at most `damage`."""
        for rung, found in enumerate(self._damages):
            if found > damage:
                return max(rung - 1, 0)
        return len(self)
