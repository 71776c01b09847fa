"""One small node of each operator, with its exact result: what tests of the library's ways run."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnxruntime

from onnxslim_rx.runtime import native
from tests.native.operators import DOMAIN, Array, Blocks, bound, model_of
from tests.native.reference import convolved

DEVICES = ("cpu", "opencl")
F32 = np.float32


@dataclass
class Node:
    """A node whose only input from outside is the first one.

    Args:
        op: its name.
        inputs: names and arrays.
        attributes: of the node.
        linear: the exact result without its bias, as a function of the first input in float64.
        size: sum of the absolute terms, for the absolute first input.
        terms: of a sum.
        activation: "" or "Relu", as in `attributes`.
    """

    op: str
    inputs: Sequence[tuple[str, Array | None]]
    attributes: dict[str, Any]
    linear: Callable[[Array], Array]
    size: Callable[[Array], Array]
    terms: int
    activation: str = ""
    fed: str = field(init=False)

    def __post_init__(self) -> None:
        gather = self.op == "QuantGather"
        self.fed = self.inputs[1 if gather else 0][0]
        if self.activation:
            self.attributes = {**self.attributes, "activation": self.activation}

    @property
    def given(self) -> Array:
        """The first input."""
        found = next(array for name, array in self.inputs if name == self.fed)
        assert found is not None
        return found

    def model(self) -> bytes:
        """The node alone."""
        return model_of(self.op, self.inputs, self.attributes, fed=(self.fed,), name="it")

    def exact(self, given: Array) -> Array:
        """The result in float64, as IEEE 754 has it where the input is not finite."""
        wide = given.astype(np.float64) if given.dtype.kind == "f" else given
        with np.errstate(invalid="ignore"):
            y = self.linear(wide)
            return np.maximum(y, 0.0) if self.activation == "Relu" else y

    def allowed(self, given: Array) -> Array:
        """What a result may differ from the exact one."""
        wide = given.astype(np.float64) if given.dtype.kind == "f" else given
        return bound(self.exact(given), self.size(wide), self.terms, F32)

    def check(self, found: Array, given: Array) -> None:
        """Compare a result with the exact one; both finite."""
        exact = self.exact(given)
        assert found.shape == exact.shape
        error = np.abs(found - exact)
        assert (error <= self.allowed(given)).all(), f"error {error.max():.3g}"


def session(node: Node | bytes, device: str, threads: int = 1, **entries: Any) -> Any:
    """A session of ONNX Runtime alone.

    Args:
        node: or a model.
        device: "cpu" or one of OpenCL.
        threads: of ONNX Runtime.
        entries: of the configuration, without the domain in front: `cache`, `opencl`.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    for key, value in entries.items():
        options.add_session_config_entry(f"{DOMAIN}.{key}", os.fspath(value))
    native.register(options, device)
    model = node.model() if isinstance(node, Node) else node
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run(opened: Any, given: Array) -> Array:
    """The output of a session of one input and one output."""
    found: Array = opened.run(None, {opened.get_inputs()[0].name: given})[0]
    return found


def product(rng: np.random.Generator, m: int = 3, k: int = 40, n: int = 6, act: str = "") -> Node:
    """Y = X W^T, W in blocks of 4 bits."""
    weight = Blocks(rng, n, k, bits=4, block=16, zeros=True, dtype=F32)
    w = weight.values.T
    inputs = [("A", rng.standard_normal((m, k)).astype(F32)), ("B", weight.data),
              ("scales", weight.scales), ("zeros", weight.zeros)]  # fmt: skip
    given = {"K": k, "N": n, "bits": 4, "block_size": 16}
    return Node("QuantMatMul", inputs, given, lambda a: a @ w, lambda a: np.abs(a) @ np.abs(w),
                k + 8, act)  # fmt: skip


def lookup(rng: np.random.Generator, rows: int = 50, act: str = "") -> Node:
    """Rows of a table in blocks of 4 bits."""
    table = Blocks(rng, rows, 40, bits=4, block=16, zeros=False, dtype=F32, flat=True)
    inputs = [("data", table.data), ("indices", rng.integers(0, rows, (3, 4))),
              ("scales", table.scales)]  # fmt: skip
    given = {"columns": 40, "bits": 4, "block_size": 16}
    return Node("QuantGather", inputs, given, lambda i: table.values[i],
                lambda i: np.abs(table.values[i]), 4, act)  # fmt: skip


def low_rank(rng: np.random.Generator, m: int = 3, r: int = 5, act: str = "") -> Node:
    """Y = (A P) Q."""
    p = rng.standard_normal((40, r)).astype(F32)
    q = rng.standard_normal((r, 7)).astype(F32)
    wide = p.astype(np.float64), q.astype(np.float64)
    inputs = [("A", rng.standard_normal((m, 40)).astype(F32)), ("P", p), ("Q", q)]
    return Node("LowRankMatMul", inputs, {}, lambda a: a @ wide[0] @ wide[1],
                lambda a: np.abs(a) @ np.abs(wide[0]) @ np.abs(wide[1]), 48 + r, act)  # fmt: skip


def convolution(rng: np.random.Generator, batch: int = 2, side: int = 9, act: str = "") -> Node:
    """3 by 3, two groups, padded, weights in blocks of 4 bits."""
    weight = Blocks(rng, 8, 27, bits=4, block=16, zeros=True, dtype=F32)
    filters = weight.values.reshape(8, 3, 3, 3)
    place = ([1, 1], [1, 1, 1, 1], [1, 1], 2)
    inputs = [("X", rng.standard_normal((batch, 6, side, side)).astype(F32)),
              ("W", weight.data), ("scales", weight.scales), ("zeros", weight.zeros)]  # fmt: skip
    given = {"bits": 4, "block_size": 16, "channels": 6, "group": 2, "kernel_shape": [3, 3],
             "pads": [1, 1, 1, 1]}  # fmt: skip
    return Node("QuantConv", inputs, given, lambda x: convolved(x, filters, *place),
                lambda x: convolved(np.abs(x), np.abs(filters), *place), 40, act)  # fmt: skip


def chain(rng: np.random.Generator, batch: int = 2, side: int = 9, act: str = "") -> Node:
    """1 by 1, then 3 by 3 on each channel, then 1 by 1."""
    shapes = ((5, 6, 1, 1), (5, 1, 3, 3), (4, 5, 1, 1))
    weights = [rng.standard_normal(shape).astype(F32) / 2 for shape in shapes]
    pads, groups = ([0] * 4, [1] * 4, [0] * 4), (1, 5, 1)

    def all_stages(x: Array, change: Callable[[Array], Array]) -> Array:
        for weight, pad, group in zip(weights, pads, groups, strict=True):
            x = convolved(x, change(weight.astype(np.float64)), [1, 1], pad, [1, 1], group)
        return x

    inputs = [("X", rng.standard_normal((batch, 6, side, side)).astype(F32)), ("bias", None),
              *((f"W{i}", weight) for i, weight in enumerate(weights))]  # fmt: skip
    given = {"stages": 3, "kernel_shapes": [1, 1, 3, 3, 1, 1], "strides": [1] * 6,
             "pads": [one for pad in pads for one in pad], "dilations": [1] * 6,
             "groups": list(groups)}  # fmt: skip
    return Node("ConvChain", inputs, given, lambda x: all_stages(x, lambda w: w),
                lambda x: all_stages(np.abs(x), np.abs), 6 + 9 + 5 + 12, act)  # fmt: skip


MAKERS: Mapping[str, Callable[..., Node]] = {
    "QuantMatMul": product, "QuantGather": lookup, "LowRankMatMul": low_rank,
    "QuantConv": convolution, "ConvChain": chain,
}  # fmt: skip
