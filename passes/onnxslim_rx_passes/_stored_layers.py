"""The weights of every layer kind that can be stored in fewer bits, wherever they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import onnx_ir as ir

from onnxslim_rx.passbase import Layer, Skipped, weight_layers
from onnxslim_rx_passes._part_layers import part_layers
from onnxslim_rx_passes._picked_layers import picked_layers
from onnxslim_rx_passes._tables import table_layers

__all__ = ["stored_layers"]

_KINDS = {
    "linear": "linear",
    "linear-left": "linear",
    "linear-batched": "linear",
    "conv": "conv",
    "conv-transpose": "conv",
    "embedding": "embedding",
    "recurrent": "recurrent",
}


def stored_layers(
    model: ir.Model, min_elements: int, why_not: Callable[[Layer], str | None]
) -> Iterator[Layer | Skipped]:
    """Weights of every layer kind, in the main graph and in subgraphs.

    Args:
        model: not changed.
        min_elements: smaller weights are refused.
        why_not: what else speaks against a layer, or None.

    Yields:
        Layers. A table that products read as well, or that wrappers stand around, is one layer
        with all its readers. Constants that hold real and imaginary parts, and tables
        that rows are sliced from, come last.
    """
    tables = list(_tied_tables(model, min_elements))
    parts: list[Layer | Skipped] = list(part_layers(model, min_elements))
    known = {_name(part) for part in parts}
    parts += [one for one in picked_layers(model, min_elements) if one.name not in known]
    by_name = {table.name: table for table in tables}
    inner = {v.name for table in tables for node in table.nodes for v in node.inputs if v}
    inner |= {_name(part) for part in parts}
    for found in (*weight_layers(model, _KINDS, min_elements=min_elements), *parts):
        layer = by_name.get(found.where, found) if isinstance(found, Skipped) else found
        if isinstance(layer, Skipped):
            if layer.where not in inner or layer in parts:
                yield layer
        elif why := why_not(layer):
            yield Skipped(layer.name, f"{layer.op}: {why}")
        else:
            yield layer


def _name(found: Layer | Skipped) -> str:
    return found.where if isinstance(found, Skipped) else found.name


def _tied_tables(model: ir.Model, min_elements: int) -> Iterator[Layer]:
    for table in table_layers(model, min_elements=min_elements):
        if isinstance(table, Layer) and table.region:
            yield table
