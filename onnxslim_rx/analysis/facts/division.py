"""Quotients, minima and maxima of formulas."""

from __future__ import annotations

import math
from collections.abc import Iterable

from onnxslim_rx.analysis.facts.bounds import is_natural, low
from onnxslim_rx.analysis.facts.dims import Atom, Dim, Expr, Monomial, polynomial, variable

__all__ = [
    "broadcast",
    "ceil_div",
    "divide",
    "floor_div",
    "largest",
    "smallest",
    "vanishes_with",
]

_MOST_STEPS = 32


def divide(a: Dim, b: Dim) -> Dim | None:
    """The quotient of a polynomial division without remainder, or None where there is one.

    Holds where `b` is not 0.
    """
    if isinstance(b, int):
        if b == 0:
            return None
        if isinstance(a, int):
            return a // b if a % b == 0 else None
        if any(factor % b for _, factor in a.terms):
            return None
        return Expr(tuple((monomial, factor // b) for monomial, factor in a.terms))
    if a == b:
        return 1
    if isinstance(a, int):
        return 0 if a == 0 else None
    quotient: Dim = 0
    lead = b.terms[-1]
    for _ in range(_MOST_STEPS):
        step = _over(a.terms[-1], lead)
        if step is None:
            return None
        part = polynomial(dict([step]))
        quotient = quotient + part
        rest = a - part * b
        if isinstance(rest, int):
            return quotient if rest == 0 else None
        a = rest
    return None


def _over(term: tuple[Monomial, int], by: tuple[Monomial, int]) -> tuple[Monomial, int] | None:
    if term[1] % by[1]:
        return None
    left = list(term[0])
    for atom in by[0]:
        if atom not in left:
            return None
        left.remove(atom)
    return tuple(left), term[1] // by[1]


def floor_div(a: Dim, b: Dim) -> Dim:
    """`a / b` rounded down, where `b` is not 0."""
    if isinstance(a, int) and isinstance(b, int) and b != 0:
        return a // b
    exact = divide(a, b)
    if exact is not None:
        return exact
    if isinstance(b, int) and b > 0 and isinstance(a, Expr):
        return _floor_by_number(a, b)
    a, b = _cancelled(a, b)
    exact = divide(a, b)
    if exact is not None:
        return exact
    return _floor(a, b)


def _floor_by_number(a: Expr, b: int) -> Dim:
    """Multiples of `b` stand outside, common factors cancel, and quotients of quotients join."""
    outside: dict[Monomial, int] = {}
    inside: dict[Monomial, int] = {}
    for monomial, factor in a.terms:
        if factor % b == 0:
            outside[monomial] = factor // b
        elif not monomial:
            outside[monomial], inside[monomial] = divmod(factor, b)
        else:
            inside[monomial] = factor
    varying = [factor for monomial, factor in inside.items() if monomial]
    common = math.gcd(b, *varying)
    if common > 1:  # floor((g*a + c) / (g*b)) is floor((a + floor(c / g)) / b)
        inside = {monomial: factor // common for monomial, factor in inside.items()}
        b //= common
        if b == 1:
            return polynomial(outside) + polynomial(inside)
    rest = polynomial(inside)
    if isinstance(rest, int):
        return polynomial(outside) + rest // b
    nested = [monomial for monomial in inside if monomial]
    if len(nested) == 1 and len(nested[0]) == 1 and inside[nested[0]] == 1:
        atom = nested[0][0]
        if (
            atom.operator == "floor"
            and isinstance(divisor := atom.operands[1], int)
            and divisor > 0
        ):
            numerator = atom.operands[0] + inside.get((), 0) * divisor
            return polynomial(outside) + floor_div(numerator, divisor * b)
    return polynomial(outside) + _floor(rest, b)


def _cancelled(a: Dim, b: Dim) -> tuple[Dim, Dim]:
    """Both without the variables and numbers that all their terms share."""
    terms = [
        term for dim in (a, b) for term in (dim.terms if isinstance(dim, Expr) else [((), dim)])
    ]
    shared = list(terms[0][0])
    for monomial, _ in terms[1:]:
        left = list(monomial)
        kept = []
        for atom in shared:
            if atom in left:
                left.remove(atom)
                kept.append(atom)
        shared = kept
    common = math.gcd(*(factor for _, factor in terms))
    by = polynomial({tuple(shared): max(common, 1)})
    found = divide(a, by), divide(b, by)
    if found[0] is None or found[1] is None:
        return a, b
    return found[0], found[1]


def _floor(a: Dim, b: Dim) -> Dim:
    least = low(a)
    divisor = low(b)
    bound = None
    if least is not None and least >= 0 and divisor is not None and divisor >= 0:
        bound = least // b if isinstance(b, int) else 0
    return variable(Atom(f"floor(({a})/({b}))", bound, "floor", (a, b)))


def ceil_div(a: Dim, b: Dim) -> Dim:
    """`a / b` rounded up, where `b` is not 0."""
    exact = divide(a, b)
    return exact if exact is not None else -floor_div(-a, b)


def smallest(dims: Iterable[Dim]) -> Dim:
    """The least of them; at least one is given."""
    return _extreme("min", dims)


def largest(dims: Iterable[Dim]) -> Dim:
    """The greatest of them; at least one is given."""
    return _extreme("max", dims)


def _extreme(operator: str, dims: Iterable[Dim]) -> Dim:
    kept: list[Dim] = []
    for dim in _flat(operator, dims):
        if any(_rules_out(operator, other, dim) for other in kept):
            continue
        kept = [other for other in kept if not _rules_out(operator, dim, other)]
        kept.append(dim)
    if len(kept) == 1:
        return kept[0]
    kept.sort(key=str)
    lows = [low(dim) for dim in kept]
    known = [least for least in lows if least is not None]
    if operator == "max":
        bound = max(known, default=None)
    else:
        bound = min(known) if len(known) == len(lows) else None
    text = f"{operator}({', '.join(map(str, kept))})"
    return variable(Atom(text, bound, operator, tuple(kept)))


def broadcast(a: Dim, b: Dim) -> Dim:
    """The size that sizes `a` and `b` are stretched to: they are equal, or one of them is 1."""
    if a == b or b == 1:
        return a
    if a == 1:
        return b
    if isinstance(a, int) or isinstance(b, int):
        if isinstance(a, int) and isinstance(b, int):
            raise ValueError(f"sizes {a} and {b} do not fit")
        return a if isinstance(a, int) else b
    for dim in (a, b):
        if (low(dim) or 0) > 1:
            return dim
    for dim, other in ((a, b), (b, a)):
        if _is_capped(other, dim):
            return dim
    kept = sorted(set(_flat("broadcast", (a, b))), key=str)
    if len(kept) == 1:
        return kept[0]
    bound = 0 if all(map(is_natural, kept)) else None
    text = f"broadcast({', '.join(map(str, kept))})"
    return variable(Atom(text, bound, "broadcast", tuple(kept)))


def _is_capped(a: Dim, dim: Dim) -> bool:
    """Whether `a` is the least of `dim` and sizes above 1: no other size fits both but `dim`."""
    if not isinstance(a, Expr) or len(a.terms) != 1:
        return False
    monomial, factor = a.terms[0]
    if factor != 1 or len(monomial) != 1 or monomial[0].operator != "min":
        return False
    others = [operand for operand in monomial[0].operands if operand != dim]
    return len(others) < len(monomial[0].operands) and all((low(one) or 0) > 1 for one in others)


def _flat(operator: str, dims: Iterable[Dim]) -> Iterable[Dim]:
    for dim in dims:
        if isinstance(dim, Expr) and len(dim.terms) == 1:
            monomial, factor = dim.terms[0]
            if factor == 1 and len(monomial) == 1 and monomial[0].operator == operator:
                yield from monomial[0].operands
                continue
        yield dim


def _rules_out(operator: str, a: Dim, b: Dim) -> bool:
    """Whether `b` need not be looked at where `a` is."""
    least = low(b - a if operator == "min" else a - b)
    return least is not None and least >= 0


def vanishes_with(total: Dim, dim: Dim) -> bool:
    """Whether it is proven that `total` is 0 wherever `dim` is."""
    least = low(dim)
    if least is not None and least > 0:
        return True
    if total == 0:
        return True
    if isinstance(dim, int) or isinstance(total, int):
        return not isinstance(dim, Expr) and dim != 0
    if divide(total, dim) is not None:
        return True
    if len(dim.terms) > 1:
        return False
    ((monomial, _),) = dim.terms  # it is 0 where one of its variables is
    return all(all(atom in term for term, _ in total.terms) for atom in monomial)
