"""Dataclasses to JSON values and back, strict about keys and types.

Only what the report needs: nested dataclasses, lists, dictionaries with string keys, tuples of
one type, optional values and plain values.
"""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Mapping
from typing import Any, Union, get_args, get_origin, get_type_hints

from onnxslim_rx.errors import InputError

__all__ = ["decode", "encode"]


def encode(value: Any) -> Any:
    """`value` as JSON values: NaN and infinities become None, NumPy scalars plain numbers."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {field.name: encode(getattr(value, field.name)) for field in fields}
    if isinstance(value, Mapping):
        return {str(key): encode(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [encode(item) for item in value]
    if hasattr(value, "item") and not isinstance(value, (str, bool, int, float)):
        value = value.item()  # a NumPy scalar, without importing NumPy
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, bool, int)):
        return value
    return str(value)


def decode(wanted: Any, value: Any, where: str) -> Any:
    """`value`, made of JSON values, as an object of the type `wanted`.

    Args:
        wanted: a dataclass, or a type from the ones that the module names.
        value: what `json.loads` returned.
        where: where the value stands, for messages.

    Raises:
        InputError: an unknown or missing key, or a value of another type.
    """
    if wanted is Any:
        return value
    if dataclasses.is_dataclass(wanted):
        return _decode_dataclass(wanted, value, where)
    origin, args = get_origin(wanted), get_args(wanted)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return decode(next(arg for arg in args if arg is not type(None)), value, where)
    if origin is dict:
        items = _checked(dict, value, where).items()
        return {key: decode(args[1], item, f"{where}.{key}") for key, item in items}
    if origin in (list, tuple):
        items = enumerate(_checked(list, value, where))
        return origin(decode(args[0], item, f"{where}[{index}]") for index, item in items)
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if wanted is int and isinstance(value, float) and value.is_integer():
        return int(value)  # JSON has one kind of number: other tools may write 4.0
    return _checked(wanted, value, where)


def _checked(wanted: type, value: Any, where: str) -> Any:
    wrong_bool = isinstance(value, bool) and wanted is not bool  # True is an int for Python
    if wrong_bool or not isinstance(value, wanted):
        found = "nothing" if value is None else type(value).__name__
        raise InputError(f"the report has {found} at {where}", expected=wanted.__name__)
    return value


def _decode_dataclass(wanted: Any, value: Any, where: str) -> Any:
    table = _checked(dict, value, where)
    fields = {field.name: field for field in dataclasses.fields(wanted)}
    for key in table:
        if key not in fields:
            raise InputError(
                f"the report has an unknown key {key!r} at {where}",
                expected="one of " + ", ".join(fields),
            )
    missing = [
        name
        for name, field in fields.items()
        if name not in table
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise InputError(f"the report lacks {', '.join(missing)} at {where}")
    hints = get_type_hints(wanted)
    return wanted(
        **{key: decode(hints[key], item, f"{where}.{key}") for key, item in table.items()}
    )
