#!/usr/bin/env python3
"""One simplifier on one model in this very process: what it costs, and what comes out.

    python3 tools/bench_simplify_tools.py TOOL MODEL [OUTPUT]

prints one JSON object: `cpu_seconds` of the call that takes the path of a file and gives a model
in memory (the tool is imported and has simplified a tiny model before; short calls are repeated,
and the mean counts), `peak_mb` of the process after the first call, both once more when the result
is written, and `error`. Called by bench_simplify.py, once for every pair of tool and model.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import importlib.util
import json
import logging
import os
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

CPU_LIMIT = 300  # seconds of one call, so that a hang ends
LEAST, MOST_CALLS = 0.25, 20  # seconds that are measured at least, and calls to get there
_LARGEST = 2**31 - 1  # bytes of a protobuf

Call = Callable[[Any], Any]
Save = Callable[[Any, str], None]


@dataclasses.dataclass(frozen=True)
class Tool:
    """A simplifier.

    Args:
        name: as it is shown.
        package: what has to be installed, as it is imported.
        make: imports it; gives what simplifies the file at a path, and what writes the result.
        own: it is ours, and judged.
    """

    name: str
    package: str
    make: Callable[[], tuple[Call, Save]]
    own: bool = False

    @property
    def installed(self) -> bool:
        """Whether it can be used here."""
        return importlib.util.find_spec(self.package) is not None


def _rx() -> tuple[Call, Save]:
    import onnxslim_rx as rx
    from onnxslim_rx.ir import save

    return lambda path: rx.simplify(path, progress=False), save


def _rx_unverified() -> tuple[Call, Save]:
    import onnxslim_rx as rx
    from onnxslim_rx.ir import save

    return lambda path: rx.simplify(path, verify=None, progress=False), save


def _onnxslim() -> tuple[Call, Save]:
    slim: Call = importlib.import_module("onnxslim").slim
    return slim, save_proto


def _onnxsim() -> tuple[Call, Save]:
    simplify: Call = importlib.import_module("onnxsim").simplify
    return lambda path: simplify(path)[0], save_proto


def _onnxscript() -> tuple[Call, Save]:
    import onnx_ir

    optimize: Call = importlib.import_module("onnxscript.optimizer").optimize

    def call(path: str) -> Any:
        return optimize(onnx_ir.load(path))

    def save(model: Any, path: str) -> None:
        from onnxslim_rx.ir import save as save_ir

        save_ir(model, path)

    return call, save


def _onnxruntime() -> tuple[Call, Save]:
    import onnxruntime

    def call(path: str) -> str:
        folder = Path(tempfile.mkdtemp())
        output = str(folder / "basic.onnx")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = output
        key = "session.optimized_model_external_initializers_file_name"
        if _bytes(path) > _LARGEST:
            options.add_session_config_entry(key, "basic.onnx.data")
        onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return output

    def save(written: str, path: str) -> None:
        import onnx

        save_proto(onnx.load(written), path)

    return call, save


def _onnxoptimizer() -> tuple[Call, Save]:
    import onnx

    optimize: Call = importlib.import_module("onnxoptimizer").optimize
    return lambda path: optimize(onnx.load(path)), save_proto


TOOLS = {
    tool.name: tool
    for tool in (
        Tool("rx", "onnxslim_rx", _rx, own=True),
        Tool("rx-unverified", "onnxslim_rx", _rx_unverified, own=True),
        Tool("OnnxSlim", "onnxslim", _onnxslim),
        Tool("onnxsim", "onnxsim", _onnxsim),
        Tool("onnxscript", "onnxscript", _onnxscript),
        Tool("ORT basic", "onnxruntime", _onnxruntime),
        Tool("onnxoptimizer", "onnxoptimizer", _onnxoptimizer),
    )
}


def save_proto(model: Any, path: str) -> None:
    """Write a ModelProto; its weights beside it where they are too large for one file."""
    import onnx

    external = sum(len(tensor.raw_data) for tensor in model.graph.initializer) > 0.9 * _LARGEST
    name = f"{Path(path).name}.data"
    onnx.save(model, path, save_as_external_data=external, location=name)


def _bytes(path: str) -> int:
    """Of a model's files; data lies beside it as `PATH.data` or `PATH_data`."""
    return sum(file.stat().st_size for file in Path(path).parent.glob(Path(path).name + "*"))


def tiny(path: str) -> None:
    """Write a model that warms a tool up: Relu, Identity, a MatMul with weights."""
    import numpy as np
    import onnx_ir as ir

    text = """<ir_version: 8, opset_import: ["": 17]> g (float[1,4] x) => (float[1,4] y)
        { a = Relu(x) b = Identity(a) y = MatMul(b, w) }"""
    ir.save(ir.from_onnx_text(text, [ir.tensor(np.eye(4, dtype=np.float32), name="w")]), path)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Everything that tools print goes to stderr, so that stdout holds the JSON alone."""
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def peak_mb() -> float:
    """Of this process since it started."""
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / (1e6 if sys.platform == "darwin" else 1e3)


def measure(tool: Tool, model: str, output: str | None) -> dict[str, Any]:
    """Simplify `model` once, and write the result to `output`; CPU seconds, MB (10^6 bytes)."""
    found: dict[str, Any] = {"error": "", "cpu_seconds": None, "peak_mb": None}
    call, save = tool.make()
    with tempfile.TemporaryDirectory() as folder:
        small = str(Path(folder) / "tiny.onnx")
        tiny(small)
        call(small)
    start = time.process_time()
    try:
        result = call(model)
        spent, calls = time.process_time() - start, 1
        found["peak_mb"] = peak_mb()
        while spent < LEAST and calls < MOST_CALLS:  # clocks of some machines tick every 10 ms
            result = call(model)
            spent, calls = time.process_time() - start, calls + 1
        found["cpu_seconds"] = spent / calls
        start = time.process_time()
        if output is not None:
            save(result, output)
            found["cpu_seconds_saved"] = spent / calls + time.process_time() - start
            found["peak_mb_saved"] = peak_mb()
    except Exception as error:  # noqa: BLE001 - whatever a peer raises is a result
        found["error"] = message(error)
    return found


def message(error: BaseException) -> str:
    """The first line of what an error says."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Run one simplifier on one model.")
    parser.add_argument("tool", choices=TOOLS)
    parser.add_argument("model")
    parser.add_argument("output", nargs="?")
    args = parser.parse_args(argv)
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_LIMIT, CPU_LIMIT))
    with quiet():
        found = measure(TOOLS[args.tool], args.model, args.output)
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
