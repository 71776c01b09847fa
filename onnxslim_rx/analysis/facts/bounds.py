"""Lowest values of formulas."""

from __future__ import annotations

import math
from collections.abc import Iterator

from onnxslim_rx.analysis.facts.dims import Atom, Dim, Expr, variable

__all__ = ["is_natural", "low"]


def low(dim: Dim) -> int | None:
    """A number that `dim` is never below; None where none was found."""
    return dim if isinstance(dim, int) else _low(dim, 4)


def is_natural(dim: Dim) -> bool:
    """Whether `dim` is proven to be 0 or more."""
    least = low(dim)
    return least is not None and least >= 0


def _low(dim: Expr, tries: int) -> int | None:
    total = 0
    for monomial, factor in dim.terms:
        if not monomial:
            total += factor
            continue
        least = 1
        for atom in monomial:
            if atom.low is None or atom.low < 0:
                least = -1
                break
            least *= atom.low
        if factor < 0 or least < 0:
            return max(
                (found for found in _low_of_less(dim, tries) if found is not None), default=None
            )
        total += factor * least
    return total


def _low_of_less(dim: Expr, tries: int) -> Iterator[int | None]:
    """Lowest values of formulas that are never above `dim`: operands in the place of operators."""
    if tries <= 0:
        return
    for monomial, factor in dim.terms:
        if len(monomial) != 1 or not monomial[0].operator:
            continue
        atom = monomial[0]
        rest = dim - factor * variable(atom)
        if atom.operator == "floor" and factor > 0:
            below = _below_floor(atom, factor)
            if below is not None:
                less = rest + below
                yield less if isinstance(less, int) else _low(less, tries - 1)
            continue
        if (atom.operator, factor < 0) not in {("min", True), ("max", False), ("floor", True)}:
            continue
        operands = atom.operands
        if atom.operator == "floor":
            if not _shrinks(operands[0], operands[1]):
                continue
            operands = operands[:1]
        for operand in operands:
            less = rest + factor * operand
            yield less if isinstance(less, int) else _low(less, tries - 1)


def _shrinks(numerator: Dim, divisor: Dim) -> bool:
    """Whether the quotient is proven to be at most the numerator."""
    return is_natural(numerator) and (low(divisor) or 0) >= 1


def _below_floor(atom: Atom, factor: int) -> Dim | None:
    """A formula that is never above `factor` quotients, with a smaller divisor; or None.

    With n = c * e, floor(a / n) is floor(q / c) of the quotient q = floor(a / e), and c of that
    are at least q - (c - 1).
    """
    from onnxslim_rx.analysis.facts.division import floor_div  # it imports this module

    a, n = atom.operands
    if not isinstance(n, int) or n <= 0:
        return None
    c = math.gcd(factor, n)
    return None if c == 1 else (factor // c) * (floor_div(a, n // c) - (c - 1))
