"""Graphs in ONNX's text form, through one pass, checked from outside."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper, parser

from onnxslim_rx.ir import load, nodes, serialize
from onnxslim_rx.manager import JournalEntry, PassManager
from onnxslim_rx.runtime import Runner


@dataclasses.dataclass
class Rewritten:
    """A model before and after a pass, and what the pass says."""

    before: ir.Model
    after: ir.Model
    entry: JournalEntry

    @property
    def ops(self) -> list[str]:
        """Operators of all nodes, in order."""
        return [node.op_type for node in nodes(self.after)]

    @property
    def reasons(self) -> list[str]:
        """Why places were refused."""
        return [skipped.why for skipped in self.entry.skipped]


def build(text, weights=None, *, opset=17, ir_version=8, functions="") -> ir.Model:
    """A model from `graph (inputs) => (outputs) { nodes }`; `weights` become initializers."""
    imports = f'"": {opset}, "ai.onnx.ml": 3, "local": 1, "custom": 1'
    proto = parser.parse_model(
        f"<ir_version: {ir_version}, opset_import: [{imports}]>\n{text}\n{functions}"
    )
    for name, array in (weights or {}).items():
        proto.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    return load(proto)


def feeds_of(model, rng, sizes) -> dict[str, Any]:
    """Arrays for the inputs: standard normal floats, small integers; symbols have `sizes`."""
    feeds = {}
    for value in model.graph.inputs:
        if value.is_initializer():
            continue
        shape = [dim if isinstance(dim, int) else sizes[str(dim.value)] for dim in value.shape]
        dtype = value.dtype.numpy()
        array = rng.standard_normal(shape) * 3
        feeds[value.name] = np.asarray(
            array > 0 if value.dtype == ir.DataType.BOOL else array, dtype=dtype
        )
    return feeds


def assert_same(before, after, feeds, tolerance):
    """Both compute the same on `feeds`, `tolerance` being relative to the largest element."""
    right, other = Runner(before)(feeds), Runner(after)(feeds)
    assert list(right) == list(other)
    for name, array in right.items():
        assert other[name].dtype == array.dtype
        assert other[name].shape == array.shape
        scale = max(1.0, float(np.abs(np.nan_to_num(array)).max(initial=0)))
        np.testing.assert_allclose(
            other[name], array, rtol=0, atol=tolerance * scale, equal_nan=True
        )


@pytest.fixture
def rewrite(rng):
    """Run a pass on a text until it settles; compare results, structure and second run."""

    def run(one, text, weights=None, *, tolerance=0.0, sizes=None, runs=True, **options):
        before = build(text, weights, **options)
        content = serialize(before)
        result = PassManager([one], verify=None).run(before)
        assert serialize(before) == content  # the input is left as it was
        assert result.journal[0].changed == (serialize(result.model) != content)
        onnx.checker.check_model(serialize(result.model), full_check=runs)
        for chosen in [sizes or {"N": 2, "M": 3}, {"N": 1, "M": 1}]:
            if runs:
                feeds = feeds_of(before, rng, chosen)
                assert_same(before, result.model, feeds, tolerance)
        again = PassManager([one], verify=None).run(result.model)
        assert not again.journal[0].changed
        assert serialize(again.model) == serialize(result.model)
        return Rewritten(before, result.model, result.journal[0])

    return run


@pytest.fixture
def build_model():
    """`build`, for tests that change the model before the pass sees it."""
    return build
