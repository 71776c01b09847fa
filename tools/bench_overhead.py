#!/usr/bin/env python3
"""What our operators cost beside their arithmetic: host time of a launch, and of a session.

    python3 tools/bench_overhead.py [--device opencl] [--rounds 7] [--runs 2000] [--json FILE]

A launch: a chain of one tiny QuantMatMul after another, each a kernel of a few work-items. Of the
time that a run takes, the share of a node is the slope over the number of nodes; the slope of a
chain of stock operators (Neg) is what ONNX Runtime itself takes for a node. The bar is for the
difference: it has the transfers of the node's input and output and the wait for its end, since
every custom operator is a run of its own. Of it, `launch_us` is the host time of the launch alone,
as the library's profile counts it.

A session: the time to make it and run it once, for a stock MatMul of the same weights, for ours
with an empty folder of compiled programs (and of what the driver keeps), and with a full one. Each
is a process of its own, which reports what its session took; loading Python is not in it.

Kinds take turns, so that other work on the machine meets all alike; the best time counts, and the
median is given too. Exit code 0 where both bars are met, else 1.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime

from onnxslim_rx.ir import serialize
from onnxslim_rx.runtime import native

LAUNCH_BAR = 30.0
"""Microseconds of a node with one launch, above a stock node."""
SESSION_BAR = 0.5
"""Seconds that a session with a full folder may take more than a stock one."""
SIZE, BITS, BLOCK = 16, 4, 16
CHAINS = (1, 33)
FLOAT = ir.TensorType(ir.DataType.FLOAT)


def chain(nodes: int, ours: bool, size: int = SIZE, stock: str = "Neg") -> bytes:
    """Nodes one after the other, of a square weight each where they have one.

    Args:
        nodes: how many.
        ours: QuantMatMul, or `stock`.
        size: rows and columns of a weight.
        stock: "Neg" or "MatMul".
    """
    rng = np.random.default_rng(0)
    value = first = ir.Value(name="x", type=FLOAT, shape=ir.Shape([1, size]))
    made: list[ir.Node] = []
    weights: list[ir.Value] = []

    def constant(name: str, array: npt.NDArray[Any]) -> ir.Value:
        found = ir.Value(name=name, const_value=ir.tensor(array, name=name))
        found.type = ir.TensorType(ir.DataType.from_numpy(array.dtype))
        found.shape = ir.Shape(array.shape)
        weights.append(found)
        return found

    for i in range(nodes):
        inputs = [value]
        if ours:
            packed = rng.integers(0, 256, (size, size // BLOCK, BLOCK * BITS // 8), dtype=np.uint8)
            scales = np.full((size, size // BLOCK), 0.01, np.float32)
            inputs += [constant(f"w{i}", packed), constant(f"s{i}", scales)]
            given = {"K": size, "N": size, "bits": BITS, "block_size": BLOCK}
            node = ir.node("QuantMatMul", inputs, given, domain=native.DOMAIN, name=f"node{i}")
        else:
            if stock == "MatMul":
                array = rng.standard_normal((size, size)).astype(np.float32) * np.float32(0.1)
                inputs.append(constant(f"w{i}", array))
            node = ir.node(stock, inputs, name=f"node{i}")
        value = node.outputs[0]
        value.name, value.type, value.shape = f"y{i}", FLOAT, ir.Shape([1, size])
        made.append(node)
    graph = ir.Graph([first], [value], nodes=made, initializers=weights, name="chain",
                     opset_imports={"": 17, native.DOMAIN: 1})  # fmt: skip
    return serialize(ir.Model(graph, ir_version=9))


def session(model: bytes, device: str | None, cache: str | None = None) -> Any:
    """A session on one thread; `device` None: without our library.

    Stock nodes are kept as they are: two Neg would cancel.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if cache is not None:
        options.add_session_config_entry(f"{native.DOMAIN}.cache", cache)
    if device is not None:
        native.register(options, device)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def best_of(runs: Mapping[str, Callable[[], object]], rounds: int, each: int) -> dict[str, float]:
    """Microseconds of one run: the least median of `each` runs in any round; they take turns."""
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(rounds):
        for name, run in runs.items():
            times = []
            for _ in range(each):
                start = time.perf_counter()
                run()
                times.append(time.perf_counter() - start)
            best[name] = min(best[name], statistics.median(times) * 1e6)
    return best


def launches(device: str, rounds: int, each: int) -> dict[str, float]:
    """Microseconds of a node of ours and of a stock one, and of a launch alone."""
    x = {"x": np.ones((1, SIZE), np.float32)}
    kinds = {("ours", n): session(chain(n, True), device) for n in CHAINS}
    kinds |= {("stock", n): session(chain(n, False), None) for n in CHAINS}
    runs = {f"{kind} {n}": functools.partial(one.run, None, x) for (kind, n), one in kinds.items()}
    found = best_of(runs, rounds, each // CHAINS[-1] + 20)
    few, many = CHAINS
    share = {
        kind: (found[f"{kind} {many}"] - found[f"{kind} {few}"]) / (many - few)
        for kind in ("ours", "stock")
    }
    result = {"node_us": share["ours"], "stock_node_us": share["stock"],
              "above_stock_us": share["ours"] - share["stock"]}  # fmt: skip
    if device != "cpu":
        again = functools.partial(kinds["ours", many].run, None, x)
        result["launch_us"] = min(launch(again, each // many + 20) for _ in range(rounds))
    return result


def launch(run: Callable[[], object], times: int) -> float:
    """Microseconds of host time of a launch, as the library counts it."""
    with native.Profiler() as profiler:
        for _ in range(times):
            run()
    rows = profiler.read().kernels
    return sum(row.host_seconds for row in rows) / sum(row.launches for row in rows) * 1e6


def created(kind: str, device: str, cache: str) -> float:
    """Seconds that a session takes in this process, with its first run."""
    size = 256
    model = chain(4, kind == "ours", size, "MatMul")
    start = time.perf_counter()
    made = session(model, device if kind == "ours" else None, cache if kind == "ours" else None)
    made.run(None, {"x": np.ones((1, size), np.float32)})
    return time.perf_counter() - start


def creations(device: str, rounds: int) -> dict[str, float]:
    """Seconds of a stock session, and of ours cold and warm: the best of each."""
    best = dict.fromkeys(("stock", "cold", "warm"), float("inf"))
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as place:
            env = {**os.environ, "POCL_CACHE_DIR": f"{place}/driver"}
            Path(f"{place}/driver").mkdir()
            for name in best:
                kind = "stock" if name == "stock" else "ours"
                command = [sys.executable, __file__, "--device", device, "--created", kind,
                           f"{place}/programs"]  # fmt: skip
                said = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
                best[name] = min(best[name], float(said.stdout))
    return {f"{name}_s": seconds for name, seconds in best.items()}


def main() -> int:
    """Measure, print, and compare with the bars."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="opencl", help="opencl (default), opencl:P:D or cpu")
    parser.add_argument("--rounds", type=int, default=7, help="the best of so many counts")
    parser.add_argument("--runs", type=int, default=2000, help="launches in a round")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--created", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.created is not None:
        print(created(args.created[0], args.device, args.created[1]))
        return 0
    found = launches(args.device, args.rounds, args.runs) | creations(args.device, args.rounds)
    found["warm_above_stock_s"] = found["warm_s"] - found["stock_s"]
    for name, value in found.items():
        print(f"{name:20} {value:10.3f}")
    if args.json is not None:
        args.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return int(found["above_stock_us"] > LAUNCH_BAR or found["warm_above_stock_s"] > SESSION_BAR)


if __name__ == "__main__":
    sys.exit(main())
