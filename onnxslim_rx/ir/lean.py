"""Reading a large file whose weights lie inside, without the weights.

Parsing copies all that is in the file. So the raw data of large initializers is left out, found
in the encoded message itself: a message is a row of fields, each a number and a type, followed by
the length and the content where the type is 2 (Protocol Buffers, "Encoding").
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import onnx

__all__ = ["Field", "fields", "without_data"]

_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9  # of ModelProto, GraphProto and TensorProto
_BYTES = 2
_FIXED = {1: 8, 5: 4}  # bytes of the types that have no length


class Field(NamedTuple):
    """Where a field lies: from its key, from its content, to its end."""

    number: int
    kind: int
    start: int
    content: int
    end: int


def without_data(content: memoryview, least: int, location: str) -> bytes | None:
    """The encoded model with large raw data as external data in `location`, its own file.

    None where the encoding is not one that is known here: the whole file must be parsed then.

    Args:
        content: the file.
        least: raw data of initializers of the main graph with at least so many bytes is left out.
        location: name of the file.
    """
    try:
        parts: list[bytes | memoryview] = []
        for field in fields(content, 0, len(content)):
            if (field.number, field.kind) == (_GRAPH, _BYTES):
                graph = b"".join(_lean_graph(content, field, least, location))
                parts += [_key(_GRAPH), _varint(len(graph)), graph]
            else:
                parts.append(content[field.start : field.end])
        return b"".join(parts)
    except (IndexError, ValueError):
        return None


def _lean_graph(
    content: memoryview, graph: Field, least: int, location: str
) -> Iterator[bytes | memoryview]:
    for field in fields(content, graph.content, graph.end):
        if (field.number, field.kind) != (_INITIALIZER, _BYTES) or field.end - field.start < least:
            yield content[field.start : field.end]
            continue
        lean = _lean_tensor(content, field, least, location)
        yield from (_key(_INITIALIZER), _varint(len(lean)), lean)


def _lean_tensor(content: memoryview, tensor: Field, least: int, location: str) -> bytes:
    parts: list[bytes | memoryview] = []
    last = b""  # of a field that is there twice the last counts
    for field in fields(content, tensor.content, tensor.end):
        length = field.end - field.content
        if (field.number, field.kind) != (_RAW_DATA, _BYTES) or length < least:
            parts.append(content[field.start : field.end])
            continue
        about = onnx.TensorProto(data_location=onnx.TensorProto.EXTERNAL)
        for key, value in (
            ("location", location),
            ("offset", str(field.content)),
            ("length", str(length)),
        ):
            about.external_data.add(key=key, value=value)
        last = about.SerializeToString()
    return b"".join([*parts, last])


def fields(content: memoryview, start: int, end: int) -> Iterator[Field]:
    """The fields of a message.

    Raises:
        ValueError, IndexError: it is damaged, or has groups, which ONNX does not use.
    """
    while start < end:
        key, after = _read_varint(content, start)
        number, kind = key >> 3, key & 7
        if kind == _BYTES:
            length, after = _read_varint(content, after)
            stop = after + length
        elif kind == 0:
            _, stop = _read_varint(content, after)
        elif kind in _FIXED:
            stop = after + _FIXED[kind]
        else:
            raise ValueError(f"field {number} has the type {kind}")
        if stop > end:
            raise ValueError(f"field {number} ends at {stop}, its message at {end}")
        yield Field(number, kind, start, after, stop)
        start = stop


def _read_varint(content: memoryview, start: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[start]
        start += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, start
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than ten bytes")


def _varint(value: int) -> bytes:
    found = bytearray()
    while value >= 0x80:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def _key(number: int) -> bytes:
    return _varint(number << 3 | _BYTES)
