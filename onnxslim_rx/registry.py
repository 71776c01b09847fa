"""Which passes there are: found through entry points, those of others like our own.

A distribution offers passes in the group `onnxslim_rx.passes`: `name = "module:Class"`.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import re
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeAlias

from onnxslim_rx.errors import InputError
from onnxslim_rx.passbase import CompressionPass, RewritePass

__all__ = [
    "GROUP",
    "Option",
    "Pass",
    "PassInfo",
    "PassType",
    "all_passes",
    "describe",
    "find",
    "find_class",
    "make",
    "offered",
]

GROUP = "onnxslim_rx.passes"
"""The entry point group that passes are registered in."""

Pass: TypeAlias = RewritePass | CompressionPass
PassType: TypeAlias = type[RewritePass] | type[CompressionPass]

_OWN = "onnxslim-rx"


@dataclasses.dataclass(frozen=True)
class Option:
    """One option of a pass.

    Args:
        name: the keyword of the constructor.
        type: its type, as written in the source.
        default: what holds where nothing is given.
        help: meaning, unit and range, from the docstring.
    """

    name: str
    type: str
    default: Any
    help: str


@dataclasses.dataclass(frozen=True)
class PassInfo:
    """What `onnxslim-rx passes` shows of one pass.

    Args:
        name: as registered.
        kind: "rewrite" (exact up to rounding) or "compression"; the command line says "optional" of
            rewrites that only `--also` uses.
        summary: first line of the docstring.
        options: in the order of the constructor.
        distribution: the installed package that offers it.
    """

    name: str
    kind: str
    summary: str
    options: tuple[Option, ...]
    distribution: str


@functools.cache
def offered() -> Mapping[str, EntryPoint]:
    """The entry points by name, in alphabetical order; nothing is loaded.

    Raises:
        InputError: two distributions offer passes of the same name.
    """
    found: dict[str, EntryPoint] = {}
    for entry in sorted(entry_points(group=GROUP), key=lambda e: (e.name, _distribution(e))):
        other = found.setdefault(entry.name, entry)
        if other.value != entry.value or _distribution(other) != _distribution(entry):
            raise InputError(
                f"the pass {entry.name!r} is offered by {_distribution(other)} and by "
                f"{_distribution(entry)}",
                expected="one distribution",
                advice="uninstall one of them",
            )
    return found


def find(name: str) -> PassType:
    """The class of the pass that is registered as `name`; no other pass is loaded.

    Raises:
        InputError: there is none, or it cannot be loaded.
    """
    entry = offered().get(name)
    if entry is None:
        near = difflib.get_close_matches(name, offered(), n=3, cutoff=0.5)
        raise InputError(
            f"there is no pass {name!r}",
            expected="one of " + (", ".join(near or offered()) or "none: no pass is installed"),
            advice="`onnxslim-rx passes` lists all; a pass added since needs a reinstall",
        )
    return _load(entry)


def find_class(class_name: str) -> PassType | None:
    """The pass whose class has this name, or None; no other pass is loaded.

    Raises:
        InputError: several distributions have one, or it cannot be loaded.
    """
    named = [entry for entry in offered().values() if entry.attr == class_name]
    if len(named) > 1:
        raise InputError(
            f"several passes have the class name {class_name}",
            advice="use the registered names: " + ", ".join(entry.name for entry in named),
        )
    return _load(named[0]) if named else None


def all_passes() -> dict[str, PassType]:
    """Every registered pass by name, in alphabetical order.

    Raises:
        InputError: one of them cannot be loaded.
    """
    return {name: _load(entry) for name, entry in offered().items()}


def make(name: str, options: Mapping[str, Any] | None = None) -> Pass:
    """An instance of the pass `name` with `options`, all others at their defaults.

    Raises:
        InputError: no such pass or option, or a value outside its range.
    """
    cls = find(name)
    known = [field.name for field in dataclasses.fields(cls) if field.init]
    for key in options or {}:
        if key not in known:
            raise InputError(
                f"the pass {name!r} has no option {key!r}",
                expected="one of " + ", ".join(known) if known else "no options",
            )
    return cls(**(options or {}))


def describe() -> list[PassInfo]:
    """What each registered pass is and which options it has, in alphabetical order.

    Raises:
        InputError: a pass cannot be loaded.
    """
    return [
        PassInfo(
            name=name,
            kind="rewrite" if issubclass(cls, RewritePass) else "compression",
            summary=(inspect.getdoc(cls) or "").partition("\n")[0],
            options=_options(cls),
            distribution=_distribution(offered()[name]),
        )
        for name, cls in all_passes().items()
    ]


def _load(entry: EntryPoint) -> PassType:
    try:
        cls = entry.load()
    except Exception as error:  # any code may run while a third party's module is imported
        raise InputError(
            f"the pass {entry.name!r} of {_distribution(entry)} does not load: "
            f"{type(error).__name__}: {error}",
            advice=_reinstall(entry),
        ) from error
    if not (isinstance(cls, type) and issubclass(cls, (RewritePass, CompressionPass))):
        raise InputError(
            f"the entry point {entry.name!r} of {_distribution(entry)} is no pass",
            expected="a subclass of RewritePass or CompressionPass",
        )
    if cls.name != entry.name:
        raise InputError(
            f"the pass {entry.name!r} of {_distribution(entry)} calls itself {cls.name!r}",
            expected="the same name in the entry point and in the class",
            advice=_reinstall(entry),
        )
    return cls


def _distribution(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else "an unknown distribution"


def _reinstall(entry: EntryPoint) -> str:
    name = _distribution(entry)
    how = "pip install -e ." if name == _OWN else f"pip install --force-reinstall {name}"
    return f"reinstall it ({how})"


def _options(cls: PassType) -> tuple[Option, ...]:
    texts = _argument_texts(inspect.getdoc(cls) or "")
    return tuple(
        Option(
            field.name,
            field.type if isinstance(field.type, str) else field.type.__name__,
            _default(field),
            texts.get(field.name, ""),
        )
        for field in dataclasses.fields(cls)
        if field.init
    )


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if field.default is dataclasses.MISSING else field.default


def _argument_texts(docstring: str) -> dict[str, str]:
    """The section `Args:` of a docstring in Google's form, by argument."""
    section = re.search(r"^Args:\n((?:[ ]+.*\n?|\n)*)", docstring, re.MULTILINE)
    items = re.findall(
        r"^ {4}(\w+): (.*(?:\n {8}.*)*)", section[1] if section else "", re.MULTILINE
    )
    return {name: " ".join(text.split()) for name, text in items}
