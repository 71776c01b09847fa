#!/usr/bin/env python3
"""Calibration: time, memory and accuracy on networks of wide layers.

    python3 tools/bench_calibration.py [--width 8192] [--depth 2] [--samples 32 128] [--rows 64]
        [--memory 1024 256] [--model FILE.onnx] [--json FILE]

For each number of samples and each bound of memory (MiB), in a process of its own: seconds, peak
memory above that of the same process before the call, the largest error of a Gram matrix against
numpy in float64 as a share of its largest entry. With --model, a model of yours on made-up inputs
instead of the wide one.

Exit code 0 where the peak stays within the bound, the activations and weights of a block, and
120 MiB, and does not grow with the samples by more than 32 MiB; else 1.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim_rx import calibration
from onnxslim_rx.analysis import weight_uses
from onnxslim_rx.ir import load
from onnxslim_rx.passbase import Layer
from onnxslim_rx.verify import generate_inputs

OVERHEAD = 120  # MiB of Python, BLAS and ONNX Runtime
GROWTH = 32  # MiB by which the peak may differ between numbers of samples
RANK = 16  # of the weights between wide activations, so that these take the memory
CHECKED = 64  # rows of a Gram matrix that are compared


@dataclasses.dataclass(frozen=True)
class Case:
    """One measurement: sizes of the network and of the data, and the bound in MiB."""

    width: int
    depth: int
    samples: int
    rows: int
    memory: int
    model: str = ""


class Rows(Sequence[dict[str, npt.NDArray[Any]]]):
    """Random samples, made when they are asked for."""

    def __init__(self, case: Case) -> None:
        self.case = case

    def __len__(self) -> int:
        return self.case.samples

    def __getitem__(self, number: Any) -> Any:
        if number >= self.case.samples:
            raise IndexError
        shape = (self.case.rows, self.case.width)
        return {"x": np.random.default_rng(number).standard_normal(shape).astype(np.float32)}


def wide_network(case: Case) -> ir.Model:
    """`depth` residual blocks of `width` with a bottleneck of `RANK`."""
    rng = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> ir.Value:
        array = (rng.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)
        return ir.Value(name=name, const_value=ir.tensor(array, name=name))

    shape = ir.Shape(["N", case.width])
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=shape)
    tape, weights, h = ir.tape.Tape(), [], x
    for number in range(case.depth):
        down = weight(f"down{number}", case.width, RANK)
        up = weight(f"up{number}", RANK, case.width)
        weights += [down, up]
        inner = tape.op("Tanh", [tape.op("MatMul", [h, down])])
        h = tape.op("Add", [tape.op("MatMul", [inner, up]), h])
    h.name = "y"
    graph = ir.Graph(
        [x], [h], nodes=tape.nodes, initializers=weights, opset_imports={"": 17}, name="wide"
    )
    for number, node in enumerate(graph):
        node.outputs[0].name = node.outputs[0].name or f"v{number}"
    return ir.Model(graph, ir_version=8)


def layers_of(model: ir.Model) -> list[Layer]:
    """Every linear layer of the model."""
    return [
        Layer(str(number), use.node.op_type, "linear", use.node, use.index, use.activation_index)
        for number, use in enumerate(weight_uses(model))
        if use.compressible and use.kind == "linear" and use.activation_index is not None
    ]


def peak_mib() -> float:
    """The most memory that this process has taken."""
    status = Path("/proc/self/status").read_text()
    return next(int(s.split()[1]) / 1024 for s in status.splitlines() if s.startswith("VmHWM"))


def measure(case: Case) -> dict[str, Any]:
    """Calibrate in this process, which has done nothing else."""
    model = load(case.model) if case.model else wide_network(case)
    made: Any = generate_inputs(model, samples=case.samples) if case.model else Rows(case)
    layers = layers_of(model)
    calibration.collect(model, layers[:1], [made[0]], memory_bytes=1)  # libraries are loaded
    before, begin, cpu = peak_mib(), time.perf_counter(), time.process_time()
    found = calibration.collect(model, layers, made, memory_bytes=case.memory << 20)
    seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
    peak = peak_mib() - before
    error = 0.0
    if not case.model:
        x = np.concatenate([sample["x"] for sample in made]).astype(np.float64)
        gram = found[layers[0].name].gram
        assert gram is not None
        expected = x[:, :CHECKED].T @ x
        error = float(np.abs(gram[:CHECKED] - expected).max() / np.abs(expected).max())
    return {
        **dataclasses.asdict(case),
        "layers": len(found),
        "seconds": seconds,
        "cpu_seconds": cpu,
        "peak_mib": peak,
        "error": error,
    }


def within(row: dict[str, Any]) -> bool:
    """Whether the peak is what was promised."""
    # a sample as it comes, inside ONNX Runtime's arena, and as it leaves
    activations = 8 * 4 * row["rows"] * row["width"] / 2**20
    return bool(row["peak_mib"] <= row["memory"] + activations + OVERHEAD)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure all cases and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--width", type=int, default=8192)
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--samples", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--memory", type=int, nargs="+", default=[1024, 256])
    parser.add_argument("--model", default="")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.case:
        print(json.dumps(measure(Case(**json.loads(args.case)))))
        return 0
    rows = []
    for memory in args.memory:
        for samples in args.samples:
            case = Case(args.width, args.depth, samples, args.rows, memory, args.model)
            text = json.dumps(dataclasses.asdict(case))
            command = [sys.executable, __file__, "--case", text]
            found = subprocess.run(command, stdout=subprocess.PIPE, check=True)
            rows.append(json.loads(found.stdout))
            print(
                "{memory:5} MiB {samples:5} samples {layers:3} layers {seconds:7.1f} s"
                " {cpu_seconds:7.1f} s CPU  peak {peak_mib:6.0f} MiB  error {error:.1e}".format(
                    **rows[-1]
                )
            )
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))
    peaks = {
        memory: [r["peak_mib"] for r in rows if r["memory"] == memory] for memory in args.memory
    }
    steady = all(max(found) - min(found) <= GROWTH for found in peaks.values())
    return 0 if args.model or (steady and all(map(within, rows))) else 1


if __name__ == "__main__":
    sys.exit(main())
