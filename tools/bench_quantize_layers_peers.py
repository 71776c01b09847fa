"""Other tools round single layers under their activations: a part of bench_quantize_layers.py.

    PYTHON tools/bench_quantize_layers_peers.py LAYERS RESULT

LAYERS is an .npz with a weight `w0` (K, N), the rows it is fitted to `x0` and those it is measured
on `y0`, and so on; RESULT becomes JSON: relative errors of the outputs by tool, NaN where a tool
fails, and why it does.
"""

from __future__ import annotations

import json
import logging
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.parser
import onnxruntime
from onnx import numpy_helper

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # before what is installed there

from tools.bench_quantize_peers import FEW, STEPS, Peer, onnxsim_peer

__all__ = ["METHODS", "one_layer", "relative_error"]

Matrix = npt.NDArray[Any]

_HQQ = "ORT HQQ INT4 g32"


def with_whole_zeros(
    model: onnx.ModelProto, before: onnx.ModelProto, samples: Sequence[Any]
) -> onnx.ModelProto:
    """`before`, changed in place, with real zero points rounded: what 4 bits each can store."""
    names = {node.input[3] for node in before.graph.node if node.op_type == "MatMulNBits"}
    for tensor in before.graph.initializer:
        if tensor.name in names:
            zeros = np.clip(np.rint(numpy_helper.to_array(tensor)), 0, 15).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(zeros, tensor.name))
    return before


_SIM_INT4 = "onnxsim INT4"
METHODS: dict[str, Peer] = {
    "ORT nearest": STEPS["ORT MatMulNBits INT4 g32, symmetric"],
    "ORT nearest, zero points": STEPS["ORT MatMulNBits INT4 g32"],
    "ORT HQQ, real zero points": STEPS[_HQQ],
    "ORT HQQ": Peer(with_whole_zeros, _HQQ),
    "ORT GPTQ": STEPS["ORT GPTQ INT4 g32"],
    "onnxsim nearest": STEPS[_SIM_INT4],
    "onnxsim HQQ": onnxsim_peer(lambda sim, model, *_: sim.quantize_weight_only_int4_hqq(model)),
    "onnxsim AWQ": onnxsim_peer(
        lambda sim, model, before, data: sim.apply_awq(model, before, data), _SIM_INT4
    ),
    "onnxsim GPTQ": STEPS["onnxsim INT4, GPTQ"],
    "onnxsim LQER 8": onnxsim_peer(
        lambda sim, model, before, data: sim.apply_lqer(model, before, 8, data), _SIM_INT4
    ),
}
"""All with 4 bits and groups of 32."""


def one_layer(weight: Matrix) -> onnx.ModelProto:
    """`y = MatMul(x, w)` with a weight (K, N)."""
    k, n = weight.shape
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": 21]> layer (float[rows, {k}] x)'
        f" => (float[rows, {n}] y) {{ y = MatMul (x, w) }}"
    )
    tensor = numpy_helper.from_array(np.ascontiguousarray(weight, np.float32), "w")
    model.graph.initializer.append(tensor)
    return model


def relative_error(model: onnx.ModelProto, weight: Matrix, rows: Matrix) -> float:
    """`||Y' - X W||_F / ||X W||_F` of what a model of one layer gives, computed in floats."""
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "accuracy_level":
                attribute.i = 0  # rounding of activations is not at issue
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    (found,) = session.run(None, {"x": rows.astype(np.float32)})
    wanted = rows @ weight
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def main(argv: Sequence[str]) -> int:
    """Round every layer by every tool."""
    logging.disable(logging.WARNING)
    errors: dict[str, list[float]] = {name: [] for name in METHODS}
    failed: dict[str, str] = {}
    with np.load(argv[0]) as arrays:
        for number in range(len(arrays.files) // 3):
            weight, fitted, held = (arrays[f"{letter}{number}"] for letter in "wxy")
            batches = [{"x": part} for part in np.array_split(fitted.astype(np.float32), FEW)]
            for name, peer in METHODS.items():
                found, why = _tried(peer, weight, batches, held)
                errors[name].append(found)
                failed |= {name: why} if why else {}
    told = {"errors": errors, "failed": failed}
    Path(argv[1]).write_text(json.dumps(told), encoding="utf-8")
    return 0


def _tried(peer: Peer, weight: Matrix, batches: Sequence[Any], held: Matrix) -> tuple[float, str]:
    """The error, or NaN and why there is none."""
    try:
        return relative_error(_made(peer, one_layer(weight), batches), weight, held), ""
    except Exception as error:  # noqa: BLE001  # tools raise about anything
        return math.nan, " ".join(str(error).split())[:200]


def _made(peer: Peer, model: onnx.ModelProto, batches: Sequence[Any]) -> onnx.ModelProto:
    before = _made(STEPS[peer.after], model, batches) if peer.after else model
    copy, start = onnx.ModelProto(), onnx.ModelProto()
    copy.CopyFrom(model)
    start.CopyFrom(before)
    return peer.make(copy, start, batches)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
