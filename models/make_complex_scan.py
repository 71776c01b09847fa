"""Write a small recursive network with complex values, and data to calibrate it on.

    python models/make_complex_scan.py [FOLDER]

A linear recurrence with a diagonal, as the cores of state space models have it, in a Scan:

    h[t] = lambda * h[t-1] + B x[t]        64 complex states, |lambda| < 1
    y[t] = Re(C h[t]) + D x[t]             32 real inputs, 16 real outputs

All tensors are real; complex ones hold real and imaginary parts along a last axis of size 2: lambda
(64, 2), B (64, 32, 2), the state (batch, 64, 2). C holds them in pairs along the axis that its
product sums over, (64 * 2, 16), the imaginary part with its sign turned. Imaginary parts of B, and
so of the state, are 50 times smaller than real ones; those of C are 50 times larger, so that the
output has as much of either: whoever rounds both parts with one scale loses one of them.

Inputs `x` (batch, time, 32) and `state`, outputs `y` (batch, time, 16) and `next_state`: with the
state handed on, it runs step by step as well. Opset 17. Weights are random; one seed writes the
same numbers. There is nothing that the network could know: it is for tests.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnx.checker
import onnx.numpy_helper
import onnx.parser

sys.path.append(str(Path(__file__).resolve().parent.parent))

from models.manifest import HERE, write_manifest

Array = npt.NDArray[np.float32]

STATES, INPUTS, OUTPUTS = 64, 32, 16
RATIO = 50  # of the magnitudes of real and imaginary parts
SAMPLES, STEPS = 32, 16

GRAPH = f"""
<ir_version: 8, opset_import: ["" : 17], producer_name: "onnxslim_rx models/make_complex_scan.py">
complex_scan (float[batch, time, {INPUTS}] x, float[batch, {STATES}, 2] state)
    => (float[batch, time, {OUTPUTS}] y, float[batch, {STATES}, 2] next_state)
<int64 real = {{0}}, int64 imaginary = {{1}}, int64[1] last = {{-1}},
 int64[2] pairs = {{-1, {2 * STATES}}}>
{{
    lambda_re = Gather <axis = -1> (lambda, real)
    lambda_im = Gather <axis = -1> (lambda, imaginary)
    x_by_time = Transpose <perm = [1, 0, 2]> (x)
    next_state, y_by_time = Scan <num_scan_inputs = 1, body = step (
        float[batch, {STATES}, 2] h, float[batch, {INPUTS}] x_t
    ) => (float[batch, {STATES}, 2] h_t, float[batch, {OUTPUTS}] y_t) {{
        h_re = Gather <axis = -1> (h, real)
        h_im = Gather <axis = -1> (h, imaginary)
        re_re = Mul (lambda_re, h_re)
        im_im = Mul (lambda_im, h_im)
        re_im = Mul (lambda_re, h_im)
        im_re = Mul (lambda_im, h_re)
        kept_re = Sub (re_re, im_im)
        kept_im = Add (re_im, im_re)
        column_re = Unsqueeze (kept_re, last)
        column_im = Unsqueeze (kept_im, last)
        kept = Concat <axis = -1> (column_re, column_im)
        entering = Einsum <equation = "bd,ndp->bnp"> (x_t, B)
        h_t = Add (kept, entering)
        h_pairs = Reshape (h_t, pairs)
        leaving = MatMul (h_pairs, C)
        direct = MatMul (x_t, D)
        y_t = Add (leaving, direct)
    }}> (state, x_by_time)
    y = Transpose <perm = [1, 0, 2]> (y_by_time)
}}
"""


def weights(rng: np.random.Generator) -> dict[str, Array]:
    """The weights by name."""
    radius = rng.uniform(0.5, 0.99, STATES)
    # turned so little that the real parts do not drown the imaginary ones
    turn = (1 - radius) / (4 * RATIO) * rng.uniform(-1, 1, STATES)
    b = rng.standard_normal((STATES, INPUTS, 2)) / math.sqrt(INPUTS) * [1, 1 / RATIO]
    c = rng.standard_normal((STATES, 2, OUTPUTS)) / math.sqrt(STATES) * [[1], [RATIO]]
    d = rng.standard_normal((INPUTS, OUTPUTS)) / math.sqrt(INPUTS)
    found = {
        "lambda": np.stack([radius, turn], axis=-1),
        "B": b,
        "C": c.reshape(2 * STATES, OUTPUTS),
        "D": d,
    }
    return {name: array.astype("<f4") for name, array in found.items()}


def network(*, seed: int = 0) -> onnx.ModelProto:
    """The network."""
    model = onnx.parser.parse_model(GRAPH)
    bodies = [a.g for node in model.graph.node for a in node.attribute if a.name == "body"]
    for graph in (model.graph, *bodies):
        for node in graph.node:
            node.name = node.output[0]
    for name, array in weights(np.random.default_rng(seed)).items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    onnx.checker.check_model(model, full_check=True)
    return model


def samples(*, seed: int = 1) -> dict[str, Array]:
    """Inputs to calibrate on: 32 sequences of 16 steps, each from a state of zeros."""
    x = np.random.default_rng(seed).standard_normal((SAMPLES, STEPS, INPUTS))
    return {
        "x": x.astype("<f4"),
        "state": np.zeros((SAMPLES, STATES, 2), "<f4"),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Write network and data; in this folder, the manifest as well."""
    parser = argparse.ArgumentParser(description="Write a complex recurrence as ONNX.")
    parser.add_argument("folder", type=Path, nargs="?", default=HERE)
    folder: Path = parser.parse_args(argv).folder
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(network(), folder / "complex_scan.onnx")
    data = samples()
    np.savez_compressed(folder / "complex_scan_calibration.npz", x=data["x"], state=data["state"])
    if folder.resolve() == HERE.resolve():
        write_manifest()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
