"""Peak memory of rewriting a mapped model, against what the largest of its parts take."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from onnxslim_rx.ir import save

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="tells memory of maps apart on Linux only"
)

SIDE, LAYERS = 1024, 80
CHILD = """
import json, sys, threading, time
import numpy as np
from onnxslim_rx import registry
from onnxslim_rx.ir import digest, load, save, size_bytes, spool
from onnxslim_rx.passbase import Layer
from onnxslim_rx.pipeline import clean
from onnxslim_rx.planner import CostLimits, Judge
from onnxslim_rx.plans import Budget
from onnxslim_rx.runtime import Runner
from onnxslim_rx.stages import apply_treatments
from onnxslim_rx.targets import load_target

def anonymous():
    with open("/proc/self/status") as status:
        lines = dict(line.split(":", 1) for line in status)
    return sum(int(lines[key].split()[0]) * 1024 for key in ("RssAnon", "RssShmem"))

def watch():
    global peak
    while True:
        peak = max(peak, anonymous())
        time.sleep(0.002)

path, large, side, output = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
spool.LARGE_BYTES = large
rng = np.random.default_rng(0)
data = [{"x": rng.standard_normal((4, side)).astype(np.float32)} for _ in range(2)]
start = peak = anonymous()
threading.Thread(target=watch, daemon=True).start()

original = load(path)
digest(original)
budget = Budget(min_cosine=0.99)
judge = Judge(Runner(path), budget, data, None, careful=False)
model = clean(original, verify="end").model
one = registry.all_passes()["quantize-weights"]()
treatments = []
for layer in one.layers(model):
    if isinstance(layer, Layer):
        candidate = next(iter(one.candidates(layer, None, load_target("ort-cpu"))))
        treatments.append((layer, candidate.stages, None))
apply_treatments(model, treatments, {one.name: one})
verdict = judge(Runner(model))
limits = CostLimits(path, size_bytes(original), budget, data, lambda model: None)
before, after = limits.time(model, seconds=0.01)
save(model, output)
print(json.dumps({"peak": peak - start, "passed": verdict.passed, "layers": len(treatments),
                  "note": limits.note, "before": size_bytes(original), "after": size_bytes(model)}))
"""


def network(rng: np.random.Generator) -> ir.Model:
    """Layers `y = x + relu(x W)` of equal width."""
    value = x = ir.Value(
        name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["n", SIDE])
    )
    nodes, weights = [], []
    for number in range(LAYERS):
        array = rng.standard_normal((SIDE, SIDE), dtype=np.float32) / np.float32(SIDE)
        w = ir.Value(name=f"w{number}", const_value=ir.tensor(array, name=f"w{number}"))
        weights.append(w)
        product = ir.node("MatMul", [value, w], name=f"m{number}")
        relu = ir.node("Relu", product.outputs, name=f"r{number}")
        add = ir.node("Add", [value, relu.outputs[0]], name=f"a{number}")
        nodes += [product, relu, add]
        (value,) = add.outputs
        for kind, node in (("m", product), ("r", relu), ("a", add)):
            node.outputs[0].name = f"{kind}{number}.y"
    value.type, value.shape = x.type, x.shape
    graph = ir.Graph(
        [x], [value], nodes=nodes, initializers=weights, opset_imports={"": 17}, name="g"
    )
    return ir.Model(graph, ir_version=8)


def test_weights_take_no_memory(tmp_path, rng) -> None:
    save(network(rng), tmp_path / "m.onnx", external=True)
    whole, one = 4 * LAYERS * SIDE**2, 4 * SIDE**2
    found = subprocess.run(
        [sys.executable, "-c", CHILD, tmp_path / "m.onnx", str(whole), str(SIDE),
         tmp_path / "o.onnx"],
        capture_output=True, text=True, check=True, timeout=600,
    )  # fmt: skip
    told = json.loads(found.stdout)
    assert told["passed"]
    assert told["layers"] == LAYERS
    assert told["after"] < 0.3 * told["before"]
    assert "without packed copies" in told["note"]
    # Rounding takes three blocks of 2^20 float64. Folding takes a weight as integers, as they are
    # cast, as they are scaled and as they leave. All else is code that is loaded on first use,
    # sessions of 80 layers, and what the allocator keeps.
    bound = 3 * 8 * 2**20 + 4 * one + (96 << 20)
    assert bound < whole / 2
    assert told["peak"] <= bound
