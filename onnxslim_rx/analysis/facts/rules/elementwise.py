"""Operators that work element by element, with broadcasting."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import onnx_ir as ir

from onnxslim_rx.analysis.facts.division import broadcast
from onnxslim_rx.analysis.facts.known import Known, Rule, Shape, Site
from onnxslim_rx.analysis.facts.rules import numbers

__all__ = ["RULES", "broadcast_shapes"]

_BROADCASTS_FROM = 7
"""The opset from which pairs broadcast as numpy does; before, to the shape of the first."""

_VARIADIC_FROM = 8


def broadcast_shapes(a: Shape | None, b: Shape | None) -> Shape | None:
    """The shape that two shapes are stretched to.

    Raises:
        ValueError: they do not fit.
    """
    if a is None or b is None:
        return None
    if a == b:
        return a
    if len(a) < len(b):
        a, b = b, a
    lead = len(a) - len(b)
    if not lead:
        return tuple(map(broadcast, a, b))
    return (*a[:lead], *map(broadcast, a[lead:], b))


def _same(site: Site) -> Sequence[Known]:
    """Type and shape of the first input."""
    first = site.get(0)
    return (Known(first.dtype, first.shape),)


def _identity(site: Site) -> Sequence[Known]:
    return (site.get(0),)


def _dropout(site: Site) -> Sequence[Known]:
    """Inference copies the input; training zeroes some of it."""
    first = site.get(0)
    training = site.has(2) or site.version < 7
    mask = ir.DataType.BOOL if site.version >= 10 else first.dtype
    return (first._replace(contents=None) if training else first, Known(mask, first.shape))


def _like_first(result: ir.DataType) -> Rule:
    def rule(site: Site) -> Sequence[Known]:
        return (Known(result, site.get(0).shape),)

    return rule


def _pair(operate: numbers.Operation | None, result: ir.DataType | None = None) -> Rule:
    """A binary operator; `result` is its type where that is not the type of the inputs."""

    def rule(site: Site) -> Sequence[Known]:
        a, b = site.get(0), site.get(1)
        dtype = result or a.dtype or b.dtype
        if site.version < _BROADCASTS_FROM:
            return (Known(dtype, a.shape),)
        shape = broadcast_shapes(a.shape, b.shape)
        contents = None
        if operate is not None and a.contents is not None and b.contents is not None:
            contents = numbers.combine(operate, dtype, [a, b])
        return (Known(dtype, shape, contents),)

    return rule


_WHOLE_DIVISION = _pair(numbers.divide_truncating)
_EXACT_DIVISION = _pair(numbers.divide_exactly)
_FLOORED_MODULO = _pair(numbers.modulo)


def _divide(site: Site) -> Sequence[Known] | None:
    dtype = site.get(0).dtype or site.get(1).dtype
    whole = dtype is not None and dtype.is_integer()
    return _WHOLE_DIVISION(site) if whole else _EXACT_DIVISION(site)


def _modulo(site: Site) -> Sequence[Known] | None:
    return _pair(None)(site) if site.attribute("fmod", 0) else _FLOORED_MODULO(site)


def _single(operate: numbers.Operation) -> Rule:
    def rule(site: Site) -> Sequence[Known]:
        first = site.get(0)
        contents = None
        if first.contents is not None:
            contents = numbers.combine(operate, first.dtype, [first])
        return (Known(first.dtype, first.shape, contents),)

    return rule


def _variadic(operate: numbers.Operation | None) -> Rule:
    def rule(site: Site) -> Sequence[Known]:
        dtype = next((known.dtype for known in site.inputs if known.dtype), None)
        if site.version < _VARIADIC_FROM:
            return (Known(dtype, site.get(0).shape),)
        shape = reduce(broadcast_shapes, (known.shape for known in site.inputs))
        contents = None
        if operate is not None and all(known.contents is not None for known in site.inputs):
            contents = numbers.combine(operate, dtype, site.inputs)
        return (Known(dtype, shape, contents),)

    return rule


def _where(site: Site) -> Sequence[Known]:
    condition, a, b = (site.get(index) for index in range(3))
    shape = broadcast_shapes(broadcast_shapes(condition.shape, a.shape), b.shape)
    return (Known(a.dtype or b.dtype, shape, numbers.choose(condition, a, b)),)


def _pow(site: Site) -> Sequence[Known]:
    a, b = site.get(0), site.get(1)
    if site.version < _BROADCASTS_FROM:
        return (Known(a.dtype, a.shape),)
    return (Known(a.dtype, broadcast_shapes(a.shape, b.shape)),)


def _cast(site: Site) -> Sequence[Known] | None:
    to = site.attribute("to")
    if isinstance(to, str):  # opset 1 names the type
        return None
    dtype = ir.DataType(to)
    first = site.get(0)
    return (Known(dtype, first.shape, numbers.cast(first, dtype)),)


def _cast_like(site: Site) -> Sequence[Known]:
    first, dtype = site.get(0), site.get(1).dtype
    contents = None if dtype is None else numbers.cast(first, dtype)
    return (Known(dtype, first.shape, contents),)


_UNARY = [
    "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BitwiseNot", "Celu", "Clip", "Cos",
    "Cosh", "CumSum", "Elu", "Erf", "Exp", "Gelu", "GroupNormalization", "HardSigmoid",
    "HardSwish", "Hardmax", "InstanceNormalization", "LRN", "LeakyRelu", "Log", "LogSoftmax",
    "LpNormalization", "MeanVarianceNormalization", "Mish", "PRelu", "Reciprocal", "Relu",
    "ReverseSequence", "Round", "Scatter", "ScatterElements", "ScatterND", "Selu", "Shrink",
    "Sigmoid", "Sign", "Sin", "Sinh", "Softmax", "Softplus", "Softsign", "Sqrt", "Swish", "Tan",
    "Tanh", "TensorScatter", "ThresholdedRelu", "Trilu",
]  # fmt: skip

_BOOL = ir.DataType.BOOL

RULES: dict[str, Rule] = {
    **dict.fromkeys(_UNARY, _same),
    "Identity": _identity,
    "Dropout": _dropout,
    "IsNaN": _like_first(_BOOL),
    "IsInf": _like_first(_BOOL),
    "Add": _pair(numbers.add),
    "Sub": _pair(numbers.subtract),
    "Mul": _pair(numbers.multiply),
    "Div": _divide,
    "Mod": _modulo,
    "BitShift": _pair(None),
    "BitwiseAnd": _pair(None),
    "BitwiseOr": _pair(None),
    "BitwiseXor": _pair(None),
    "And": _pair(numbers.both, _BOOL),
    "Or": _pair(numbers.either, _BOOL),
    "Xor": _pair(None, _BOOL),
    "Not": _single(numbers.negate_truth),
    "Equal": _pair(numbers.equal, _BOOL),
    "Less": _pair(numbers.less, _BOOL),
    "LessOrEqual": _pair(numbers.less_or_equal, _BOOL),
    "Greater": _pair(numbers.greater, _BOOL),
    "GreaterOrEqual": _pair(numbers.greater_or_equal, _BOOL),
    "Pow": _pow,
    "Neg": _single(numbers.negate),
    "Abs": _single(numbers.absolute),
    "Floor": _single(numbers.unchanged),
    "Ceil": _single(numbers.unchanged),
    "Sum": _variadic(None),
    "Mean": _variadic(None),
    "Max": _variadic(numbers.greatest),
    "Min": _variadic(numbers.least),
    "Where": _where,
    "Cast": _cast,
    "CastLike": _cast_like,
}
