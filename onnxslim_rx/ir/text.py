"""Check of the text in a model: names, types of operators, comments, metadata."""

from __future__ import annotations

import onnx
from google.protobuf.descriptor import FieldDescriptor  # type: ignore[import-untyped]
from google.protobuf.message import Message  # type: ignore[import-untyped]

from onnxslim_rx.ir.invalid import DAMAGED, invalid

__all__ = ["check_text"]


def check_text(message: Message) -> None:
    """Check that all text is UTF-8; protobuf reads other bytes, and then refuses to write them.

    Raises:
        InputError: some text is not.
    """
    if isinstance(message, onnx.TensorProto):  # whose data is long, and is no text
        _check("name", message.name)
        _check("doc_string", message.doc_string)
        for entry in message.metadata_props:
            check_text(entry)
        return
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for part in (value,) if isinstance(value, Message) else value:
                check_text(part)
        elif field.type == FieldDescriptor.TYPE_STRING:
            for text in (value,) if isinstance(value, (str, bytes)) else value:
                _check(field.name, text)


def _check(what: str, text: str | bytes) -> None:
    if isinstance(text, bytes):
        raise invalid(
            f"a {what} in the model is {text[:100]!r}", expected="text in UTF-8", advice=DAMAGED
        )
