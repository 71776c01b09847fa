"""Devices that are not there, processes that forked, memory that a device lacks: clear errors."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnxruntime.capi import onnxruntime_pybind11_state as errors

from onnxslim_rx.errors import InputError
from onnxslim_rx.runtime import native
from tests.native import nodes
from tests.native.operators import DOMAIN, model_of, need

RAISED = (errors.Fail, errors.RuntimeException)
FORKED = "forked from one that used OpenCL"
FORKS = """
import os, signal, sys, traceback
import numpy as np
from tests.native import nodes
from onnxslim_rx.runtime import native

node = nodes.product(np.random.default_rng(0))
opened = nodes.session(node, "opencl")
wanted = nodes.run(opened, node.given)

def error_of(call):
    try:
        call()
    except Exception as error:
        return str(error)
    return "no error"

def in_child():
    print("run:", error_of(lambda: nodes.run(opened, node.given)))
    print("session:", error_of(lambda: nodes.session(node, "opencl")))
    print("another:", error_of(lambda: nodes.session(node, "opencl", cache="")))
    print("devices:", native.library().devices("")["error"])
    on_cpu = nodes.run(nodes.session(node, "cpu"), node.given)
    node.check(on_cpu, node.given)
    print("cpu: right")

sys.stdout.flush()
child = os.fork()
if child == 0:
    signal.alarm(40)  # a hang ends
    code = 1
    try:
        in_child()
        code = 0
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    os._exit(code)
_, status = os.waitpid(child, 0)
print("child:", os.waitstatus_to_exitcode(status))
again = nodes.run(opened, node.given)
fresh = nodes.run(nodes.session(node, "opencl", cache=""), node.given)
print("parent:", again.tobytes() == wanted.tobytes() == fresh.tobytes())
"""
NOWHERE = """
import sys
import onnxruntime
from onnxslim_rx.runtime import native

options = onnxruntime.SessionOptions()
options.add_session_config_entry("ai.onnxslim.rx.device", sys.argv[1])
options.add_session_config_entry("ai.onnxslim.rx.opencl", sys.argv[2])
try:
    options.register_custom_ops_library(str(native.library_path()))
except Exception as error:
    print(error)
else:
    print("registered")
"""


def said_by(script: str, *arguments: str, **environment: str) -> str:
    """What a Python of its own prints; it gets a minute."""
    root = str(Path(__file__).resolve().parent.parent.parent)
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH", ""))))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, *arguments],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_forked_process_is_told():
    """The child hears why in every way in, and can run on the processor; the parent goes on."""
    need("opencl")
    said = dict(line.split(": ", 1) for line in said_by(FORKS).splitlines() if ": " in line)
    for way in ("run", "session", "another", "devices"):
        assert FORKED in said[way], way
    assert "spawn" in said["run"]
    assert said["cpu"] == "right"
    assert said["child"] == "0"
    assert said["parent"] == "True"


@pytest.mark.parametrize("device", ["opencl", "opencl:0:0", "opencl:7:1"])
def test_opencl_that_is_not_there_is_told_with_what_was_tried(tmp_path, device):
    need("cpu")
    said = said_by(NOWHERE, device, "/nowhere/libpocl.so", OCL_ICD_VENDORS=str(tmp_path))
    assert f"the device '{device}' was asked for" in said
    assert "no OpenCL device was found" in said
    assert "tried libOpenCL.so" in said
    assert "tried /nowhere/libpocl.so: " in said
    assert "No such file" in said


def test_a_library_that_is_no_opencl_is_told(tmp_path):
    need("cpu")
    (tmp_path / "empty.so").write_bytes(b"no library")
    both = f"{tmp_path / 'empty.so'}:{native.library_path()}"
    said = said_by(NOWHERE, "opencl", both, OCL_ICD_VENDORS=str(tmp_path))
    assert f"tried {tmp_path / 'empty.so'}: " in said
    assert f"tried {native.library_path()}: it is no OpenCL library" in said


def test_auto_without_opencl_is_the_processor(tmp_path):
    need("cpu")
    said = said_by(NOWHERE, "auto", "/nowhere/libpocl.so", OCL_ICD_VENDORS=str(tmp_path))
    assert said.strip() == "registered"


FREE = """
import os
import numpy as np
from onnxslim_rx.runtime import native
from tests.native import nodes

print("devices:", len(native.library().devices("")["devices"]))
child = os.fork()
if child == 0:
    node = nodes.product(np.random.default_rng(0))
    node.check(nodes.run(nodes.session(node, "auto"), node.given), node.given)
    os._exit(0)
print("child:", os.waitpid(child, 0)[1])
"""


def test_who_found_no_opencl_may_fork(tmp_path):
    need("cpu")
    said = said_by(FREE, OCL_ICD_VENDORS=str(tmp_path), ONNXSLIM_RX_OPENCL="")
    assert said == "devices: 0\nchild: 0\n"


@pytest.mark.parametrize(
    "device", ["opencl:7:1", "opencl:0:99", "opencl:0", "cuda", "opencl:0:0:0"]
)
def test_a_device_that_does_not_exist_is_told(device):
    need("opencl")
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry(f"{DOMAIN}.device", device)
    options.add_session_config_entry(f"{DOMAIN}.opencl", native.opencl_libraries())
    with pytest.raises((*RAISED, errors.InvalidArgument)) as raised:
        options.register_custom_ops_library(str(native.library_path()))
    assert f"'{device}'" in str(raised.value)
    numbered = device.count(":") == 2
    assert ("devices found: opencl:0:0 " if numbered else "is none of auto, cpu") in str(
        raised.value
    )
    with pytest.raises(InputError, match=device):
        native.register(onnxruntime.SessionOptions(), device)


def test_more_than_the_device_has():
    """The middle of a chain that asks for more than all memory; the session goes on."""
    need("opencl")
    memory = native.library().devices(native.opencl_libraries())["devices"][0]["memory"]
    channels = 8192
    images = memory // (4 * channels) + 1
    if images > 16 << 20:
        pytest.skip("the device has so much memory that the input would be large")
    x = np.ones((images, 1, 1, 1), np.float32)
    one, two = np.ones((channels, 1, 1, 1), np.float32), np.ones((1, channels, 1, 1), np.float32)
    given = {"stages": 2, "kernel_shapes": [1] * 4, "strides": [1] * 4, "pads": [0] * 8,
             "dilations": [1] * 4, "groups": [1] * 2}  # fmt: skip
    inputs = [("X", x), ("bias", None), ("W0", one), ("W1", two)]
    opened = nodes.session(model_of("ConvChain", inputs, given, fed=("X",)), "opencl")
    for _ in range(2):
        with pytest.raises(errors.Fail) as raised:
            nodes.run(opened, x)
        wanted = f"ConvChain node: out of device memory: {4 * channels * images} bytes were asked"
        assert wanted in str(raised.value)
        assert f"has {memory}" in str(raised.value)
        assert nodes.run(opened, x[:3]).ravel().tolist() == [channels] * 3
