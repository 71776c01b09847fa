"""Rows of the benches as JSON, which has no NaN and no tuples, and back."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, TypeVar

__all__ = ["row_of", "table_of"]

Kind = TypeVar("Kind")


def table_of(row: Any) -> dict[str, Any]:
    """The fields of a dataclass as JSON values; NaN becomes None."""
    table: dict[str, Any] = _plain(dataclasses.asdict(row))
    return table


def row_of(kind: type[Kind], table: Mapping[str, Any]) -> Kind:
    """What `table_of` was made from; its sequences are tuples.

    None was NaN, but for fields whose default is None.
    """
    optional = {field.name for field in dataclasses.fields(kind) if field.default is None}  # type: ignore[arg-type]
    return kind(
        **{
            key: None if value is None and key in optional else _full(value)
            for key, value in table.items()
        }
    )


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _full(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _full(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return tuple(_full(entry) for entry in value)
    return math.nan if value is None else value
