"""Our declarations of ONNX Runtime's C interface hold on the version installed, and on old ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from onnxslim_rx.ir import serialize
from onnxslim_rx.runtime import native
from tests.native.operators import DOMAIN, Blocks, model_of, need

SCRIPT = Path(__file__).with_name("probe.py")
FLOAT = ir.TensorType(ir.DataType.FLOAT)
# in the order of door/probe.cpp
READINGS = [
    7, 2.5, 1, 123, 34.5,  # attributes: integer, number, text, lists
    2, 1, 1, 1, 1, 3, 0, 1, 20,  # counts, names, type and size of c, what is constant, its value
    9, 1,  # a status that was made: its code and its message
    2, 1, 7.5, 4950,  # counts again, the sum of x, the sum of 0..99 over the pool
]  # fmt: skip


def probe_model() -> bytes:
    x = ir.Value(name="x", type=FLOAT, shape=ir.Shape(["n"]))
    c = ir.tensor(np.array([10, 20, 30], np.float32), name="c")
    constant = ir.Value(name="c", type=FLOAT, shape=ir.Shape([3]), const_value=c)
    attributes: dict[str, Any] = {
        "integer": 7, "number": 2.5, "text": "probe me", "integers": [1, 2, 3],
        "numbers": [3.0, 4.5],
    }  # fmt: skip
    node = ir.node("Probe", [x, constant], attributes, domain=DOMAIN, name="the_probe")
    node.outputs[0].name = "y"
    node.outputs[0].type = FLOAT
    graph = ir.Graph(
        [x], node.outputs, nodes=[node], initializers=[constant], name="probe",
        opset_imports={"": 17, DOMAIN: 1},
    )  # fmt: skip
    return serialize(ir.Model(graph, ir_version=9))


def said_by(python_path: Path | None, place: Path, weight: Blocks) -> dict[str, Any]:
    """What the script says, with the onnxruntime of a folder, or the installed one."""
    inputs = [("A", np.zeros((2, 20), np.float32)), ("B", weight.data), ("scales", weight.scales),
              ("zeros", None), ("bias", np.ones(3, np.float32))]  # fmt: skip
    attributes = {"K": 20, "N": 3, "bits": 4, "block_size": 16}
    (place / "probe.onnx").write_bytes(probe_model())
    model = model_of("QuantMatMul", inputs, attributes, fed=("A",))
    (place / "product.onnx").write_bytes(model)
    library = native.library_path()
    command = [sys.executable, SCRIPT, library, place / "probe.onnx", place / "product.onnx"]
    env = {**os.environ, **({"PYTHONPATH": str(python_path)} if python_path else {})}
    done = subprocess.run(
        [str(part) for part in command], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def check(said: dict[str, Any], weight: Blocks) -> None:
    assert said["readings"] == READINGS
    a = np.arange(40, dtype=np.float64).reshape(2, 20)
    # integers times scales: 20 terms of at most 19.5 * 8 * 0.2 each, in float32
    np.testing.assert_allclose(said["product"], a @ weight.values.T + 1, rtol=0, atol=1e-3)


@pytest.fixture
def weight(rng) -> Blocks:
    need("cpu")
    return Blocks(rng, 3, 20, bits=4, block=16, zeros=False, dtype=np.float32)


def test_every_slot_says_what_is_known(tmp_path, weight):
    said = said_by(None, tmp_path, weight)
    check(said, weight)
    if tuple(map(int, said["version"].split(".")[:2])) >= (1, 24):
        assert said["shape"] == [7]  # as inferred: the value of `integer`


@pytest.mark.parametrize("version", ["1.17.3", "1.23.2"])
def test_older_runtimes_work_too(tmp_path, weight, version):
    place = tmp_path / "packages"
    wanted = [f"onnxruntime=={version}", "numpy<2"]
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--only-binary", ":all:",
               "--disable-pip-version-check", "--target", str(place), *wanted]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"pip cannot install onnxruntime {version} here")
    said = said_by(place, tmp_path, weight)
    assert said["version"] == version
    check(said, weight)
