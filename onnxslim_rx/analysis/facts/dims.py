"""Sizes as formulas: integer polynomials over symbols, in a normal form.

Two formulas compare equal where their normal forms are the same, which proves that they agree for
all values of the symbols; formulas that differ may still agree. What is no polynomial (quotients
rounded down, minima and maxima) is a variable of its own, named after its operands.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from typing import TypeAlias

__all__ = [
    "Atom",
    "Dim",
    "Expr",
    "evaluate",
    "fresh",
    "polynomial",
    "product",
    "symbol",
    "variable",
]

_MOST_TERMS = 32
_MOST_FACTORS = 12
_MOST_TEXT = 400
"""Longer formulas become symbols: nobody proves anything about them, and they take time."""

_serial = itertools.count()


class Atom(str):
    """A variable of formulas: a symbol, or an operator with its operands.

    The text identifies it.

    Args:
        text: as it is written.
        low: it is never below this; None: not known.
        operator: "" for symbols, or "floor", "min", "max", "broadcast".
        operands: those of the operator.
    """

    __slots__ = ("low", "operands", "operator")

    low: int | None
    operator: str
    operands: tuple[Dim, ...]

    def __new__(
        cls,
        text: str,
        low: int | None = 0,
        operator: str = "",
        operands: tuple[Dim, ...] = (),
    ) -> Atom:
        """Make one; see the class."""
        self = super().__new__(cls, text)
        self.low = low
        self.operator = operator
        self.operands = operands
        return self


Monomial = tuple[Atom, ...]
"""A product of variables, sorted; a power is a repetition."""


class Expr:
    """A polynomial that is not a number: immutable, hashable.

    `+`, `-` and `*` with numbers and other formulas give a `Dim`. Use `Expr.terms` to read it.

    Args:
        terms: pairs of a product of variables and its factor, which is not 0; sorted.
    """

    __slots__ = ("_hash", "terms")

    def __init__(self, terms: tuple[tuple[Monomial, int], ...]) -> None:
        self.terms: Final = terms
        self._hash = hash(terms)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Expr):
            return False
        return self._hash == other._hash and self.terms == other.terms

    def __add__(self, other: Dim) -> Dim:
        if isinstance(other, int):
            if other == 0:
                return self
            return polynomial(self._plus([((), other)]))
        if not isinstance(other, Expr):
            return NotImplemented
        return polynomial(self._plus(other.terms))

    __radd__ = __add__

    def __neg__(self) -> Dim:
        return Expr(tuple((monomial, -factor) for monomial, factor in self.terms))

    def __sub__(self, other: Dim) -> Dim:
        if self == other:
            return 0
        return self + -other

    def __rsub__(self, other: int) -> Dim:
        return -self + other

    def __mul__(self, other: Dim) -> Dim:
        if isinstance(other, int):
            if other == 0:
                return 0
            return Expr(tuple((monomial, factor * other) for monomial, factor in self.terms))
        if not isinstance(other, Expr):
            return NotImplemented
        if len(self.terms) * len(other.terms) > 4 * _MOST_TERMS:
            return fresh(None)
        found: dict[Monomial, int] = {}
        for left, factor in self.terms:
            for right, other_factor in other.terms:
                both = tuple(sorted(left + right))
                found[both] = found.get(both, 0) + factor * other_factor
        if len(found) > _MOST_TERMS or max(map(len, found)) > _MOST_FACTORS:
            return fresh(None)
        return polynomial(found)

    __rmul__ = __mul__

    def _plus(self, terms: Iterable[tuple[Monomial, int]]) -> dict[Monomial, int]:
        found = dict(self.terms)
        for monomial, factor in terms:
            found[monomial] = found.get(monomial, 0) + factor
        return found

    @property
    def symbols(self) -> frozenset[str]:
        """Names of all symbols in it, also those in operands."""
        return frozenset(_symbols(self))

    def evaluate(self, values: Mapping[str, int]) -> int:
        """The number that it is where symbols have these values.

        Raises:
            KeyError: a symbol has no value.
            ZeroDivisionError: as the name says; no tensor has this size then.
        """
        return sum(
            factor * math.prod(_evaluate_atom(atom, values) for atom in monomial)
            for monomial, factor in self.terms
        )

    def __str__(self) -> str:
        text = ""
        for monomial, factor in sorted(self.terms, key=lambda term: not term[0]):
            sign = "-" if factor < 0 else "+"
            size = abs(factor)
            parts = ([] if size == 1 and monomial else [str(size)]) + list(monomial)
            lead = "-" if sign == "-" and not text else ""
            text += (f" {sign} " if text else lead) + "*".join(parts)
        return text

    __repr__ = __str__


Dim: TypeAlias = "int | Expr"
"""A number that is known, or a formula."""


def symbol(name: str) -> Expr:
    """The size that a model calls `name`; the same name gives the same symbol."""
    return _variable(Atom(name if name.isidentifier() else repr(name)))


def fresh(least: int | None = 0) -> Expr:
    """A symbol that is like no other.

    Args:
        least: it is never below this; None: not known (the content of a tensor, for example).
    """
    return _variable(Atom(f"?{next(_serial)}", least))


def variable(atom: Atom) -> Expr:
    """The formula that is this variable alone; a fresh symbol where its text is very long."""
    return _variable(atom) if len(atom) <= _MOST_TEXT else fresh(atom.low)


def _variable(atom: Atom) -> Expr:
    return Expr((((atom,), 1),))


def polynomial(terms: Mapping[Monomial, int]) -> Dim:
    """The sum of these products and factors."""
    kept = [item for item in terms.items() if item[1]]
    if not kept:
        return 0
    if len(kept) == 1 and not kept[0][0]:
        return kept[0][1]
    if len(kept) > _MOST_TERMS:
        return fresh(None)
    kept.sort()
    return Expr(tuple(kept))


def product(dims: Iterable[Dim]) -> Dim:
    """All multiplied; 1 if there are none."""
    result: Dim = 1
    for dim in dims:
        result = result * dim
    return result


def evaluate(dim: Dim, values: Mapping[str, int]) -> int:
    """The number that `dim` is where symbols have these values; see `Expr.evaluate`."""
    return dim if isinstance(dim, int) else dim.evaluate(values)


def _evaluate_atom(atom: Atom, values: Mapping[str, int]) -> int:
    if not atom.operator:
        return values[atom]
    operands = [evaluate(operand, values) for operand in atom.operands]
    if atom.operator == "floor":
        return operands[0] // operands[1]
    if atom.operator == "broadcast":
        return next((operand for operand in operands if operand != 1), 1)
    return min(operands) if atom.operator == "min" else max(operands)


def _symbols(dim: Dim) -> Iterator[str]:
    if isinstance(dim, int):
        return
    for monomial, _ in dim.terms:
        for atom in monomial:
            if atom.operator:
                for operand in atom.operands:
                    yield from _symbols(operand)
            else:
                yield str(atom)
