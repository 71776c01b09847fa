"""Checks of the names in a graph: each value defined once, before or beside those who use it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import onnx

from onnxslim_rx.ir.invalid import invalid
from onnxslim_rx.ir.operators import describe

__all__ = ["Body", "Visit", "bodies", "check_names"]

Body = onnx.GraphProto | onnx.FunctionProto
Visit = Callable[[onnx.NodeProto], None]


def bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The subgraphs of a node."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def check_names(body: Body, visit: Visit, outer: Sequence[set[str]] = ()) -> bool:
    """Check that every name is defined once and that what is used is defined.

    Args:
        body: a graph or the body of a function; subgraphs are checked with it.
        visit: called with every node.
        outer: names that the graphs around `body` define.

    Returns:
        Whether all nodes are in topological order.

    Raises:
        InputError: a name is missing, is defined twice or not at all.
    """
    return _check(body, visit, outer, set())


def _check(body: Body, visit: Visit, outer: Sequence[set[str]], used: set[str]) -> bool:
    """`check_names`, which also adds to `used` what `body` uses from outside."""
    where = f"graph {body.name!r}" if isinstance(body, onnx.GraphProto) else f"function {body.name}"
    defined = _entering(body, where)
    own = _defined(body, defined, where)
    is_sorted = True
    for node in body.node:
        visit(node)
        needed = {name for name in node.input if name}
        for inner in bodies(node):
            is_sorted &= _check(inner, visit, [*outer, own], needed)
        for name in needed - own:
            if not any(name in names for names in outer):
                raise invalid(
                    f"{describe(node)} uses the value {name!r}, which nothing makes",
                    expected="an input, an initializer or the output of a node",
                )
        is_sorted &= not (needed & own) - defined
        defined.update(node.output)
        used |= needed - own
    for name in _names(body.output):
        if name not in own:
            raise invalid(
                f"{where} has the output {name!r}, which nothing in it makes",
                expected="the output of a node",
            )
    return is_sorted


def _names(values: Iterable[onnx.ValueInfoProto | str]) -> list[str]:
    return [value if isinstance(value, str) else value.name for value in values]


def _entering(body: Body, where: str) -> set[str]:
    """Names of inputs and initializers; an initializer may be the default of an input."""
    inputs = _names(body.input)
    initializers = (
        [tensor.name for tensor in body.initializer] if isinstance(body, onnx.GraphProto) else []
    )
    for what, names in (("input", inputs), ("initializer", initializers)):
        if not all(names):
            raise invalid(f"{where} has an {what} without a name")
        if twice := _twice(names):
            raise invalid(f"{where} defines the {what} {twice!r} twice")
    return {*inputs, *initializers}


def _defined(body: Body, entering: set[str], where: str) -> set[str]:
    """All names that a graph defines itself."""
    outputs = [name for node in body.node for name in node.output if name]
    if twice := _twice([*outputs, *entering]):
        raise invalid(
            f"{where} defines the value {twice!r} twice", expected="each value to be made once"
        )
    return {*outputs, *entering}


def _twice(names: Iterable[str]) -> str | None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None
