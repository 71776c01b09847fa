"""Calls to OpenCL that fail, one after the other: an error of ONNX Runtime, and nothing is left."""

from __future__ import annotations

import functools
import itertools
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnxruntime.capi import onnxruntime_pybind11_state as errors

from onnxslim_rx.runtime import native
from tests.native import nodes
from tests.native.operators import Array, need

DEVICE = "opencl"
RAISED = (errors.Fail, errors.RuntimeException)
SAID = {
    "allocate": r"out of device memory: \d+ bytes were asked for",
    "build": "cannot be built for .*CL_BUILD_PROGRAM_FAILURE",
    "enqueue": "the kernel .* cannot be launched on .*CL_OUT_OF_RESOURCES",
    "map": "an output cannot be mapped on .*CL_MAP_FAILURE",
    "read": "an output cannot be read on .*CL_OUT_OF_RESOURCES",
    "write": "an input cannot be written on .*CL_OUT_OF_RESOURCES",
}
LARGE = 1 << 17
"""Numbers of an output that is mapped where the device shares the host's memory."""


@pytest.fixture(autouse=True)
def fault() -> Iterator[Callable[[str, int], None]]:
    need(DEVICE)
    own = native.library()
    yield own.fault
    for point in SAID:
        own.fault(point, 0)


def in_use(model: bytes) -> int:
    """Bytes that the pool of the device counts, as it says when it has to refuse the first."""
    native.library().fault("allocate", 1)
    with pytest.raises(RAISED) as raised:
        nodes.session(model, DEVICE, cache="")
    found = re.search(r"(\d+) are in use", str(raised.value))
    assert found is not None
    return int(found[1])


def aligned(count: int) -> Array:
    """Zeros where a driver may use the host's memory in place."""
    raw = np.zeros(4 * count + 4096, np.uint8)
    start = -raw.ctypes.data % 4096
    return raw[start : start + 4 * count].view(np.float32)


def attempted(run: Callable[[], Array]) -> Array | str:
    """The result, or what the error of ONNX Runtime says."""
    try:
        return run()
    except RAISED as error:
        return str(error)


def first_run(model: bytes, given: Array, cache: Path | str) -> Array:
    return nodes.run(nodes.session(model, DEVICE, cache=cache), given)


@pytest.mark.parametrize("point", [point for point in SAID if point != "map"])
@pytest.mark.parametrize("op", nodes.MAKERS)
def test_every_call_may_fail(rng, tmp_path, fault, op, point):
    """The 1st, 2nd, ... call of a new session and its run, until none of that number is made."""
    node = nodes.MAKERS[op](rng)
    model, given = node.model(), node.given
    wanted = nodes.run(nodes.session(model, DEVICE, cache=""), given)
    node.check(wanted, given)
    before = in_use(model)
    for nth in itertools.count(1):
        # what is built is kept by the process, for each folder
        cache = tmp_path / str(nth) if point == "build" else ""
        fault(point, nth)
        found = attempted(functools.partial(first_run, model, given, cache))
        fault(point, 0)
        if not isinstance(found, str):
            assert found.tobytes() == wanted.tobytes()
            break
        assert re.search(SAID[point], found), found
        assert f"{op} " in found
        again = nodes.session(model, DEVICE, cache=cache)
        assert nodes.run(again, given).tobytes() == wanted.tobytes()
        del again
    assert nth > 1
    assert in_use(model) == before


def test_outputs_that_cannot_be_mapped(rng, fault):
    node = nodes.lookup(rng, rows=8)
    many = rng.integers(0, 8, (1, LARGE // 40))
    opened = nodes.session(node, DEVICE)
    out = aligned(many.size * 40).reshape(1, -1, 40)

    def bound() -> None:
        binding = opened.io_binding()
        binding.bind_cpu_input("indices", many)
        value = onnxruntime.OrtValue.ortvalue_from_numpy(out)
        binding.bind_ortvalue_output("Y", value)
        opened.run_with_iobinding(binding)

    bound()
    node.check(out, many)
    devices = native.library().devices(native.opencl_libraries())["devices"]
    if not devices[0]["unified"]:
        pytest.skip("this device has memory of its own: outputs are not mapped")
    before = in_use(node.model())
    for _ in range(3):
        fault("map", 1)
        with pytest.raises(RuntimeError, match=SAID["map"]):
            bound()
        out[:] = 7
        bound()
        node.check(out, many)
    assert in_use(node.model()) == before


@pytest.mark.parametrize("point", ["allocate", "enqueue", "read", "write"])
def test_failures_do_not_grow(rng, fault, point):
    """Hundreds leave nothing in the pool; a queue that failed is not used again."""
    node = nodes.chain(rng)
    opened = nodes.session(node, DEVICE)
    wanted = nodes.run(opened, node.given)
    before = in_use(node.model())
    for _ in range(100):
        fault(point, 1)
        with pytest.raises(RAISED, match=SAID[point]):
            nodes.run(opened, node.given)
    assert in_use(node.model()) == before
    assert nodes.run(opened, node.given).tobytes() == wanted.tobytes()


def test_one_thread_fails_alone(rng, fault):
    """Of 8 threads with one session as many fail as there were faults, and the others are right."""
    node = nodes.product(rng, m=20)
    opened = nodes.session(node, DEVICE)
    wanted = nodes.run(opened, node.given).tobytes()
    together = threading.Barrier(9)

    def work(_: int) -> list[Array | str]:
        together.wait()
        return [attempted(lambda: nodes.run(opened, node.given)) for _ in range(40)]

    with ThreadPoolExecutor(8) as pool:
        results = pool.map(work, range(8))
        fault("enqueue", 30)
        together.wait()
        found = [one for results_of_one in results for one in results_of_one]
    failed = [one for one in found if isinstance(one, str)]
    assert len(failed) == 1
    assert re.search(SAID["enqueue"], failed[0])
    assert all(one.tobytes() == wanted for one in found if not isinstance(one, str))


def test_threads_that_wait_for_a_build_all_hear_of_it(rng, tmp_path, fault):
    """Sessions that need the same program wait for one build; when it fails none hangs."""
    node = nodes.lookup(rng)
    model = node.model()
    wanted = nodes.run(nodes.session(model, DEVICE), node.given).tobytes()
    sessions = [nodes.session(model, DEVICE, cache=tmp_path) for _ in range(4)]
    together = threading.Barrier(4)

    def work(opened: Any) -> Array | str:
        together.wait()
        return attempted(lambda: nodes.run(opened, node.given))

    fault("build", 1)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(work, sessions))
    said = [one for one in found if isinstance(one, str)]
    assert said
    assert all(re.search(SAID["build"], one) for one in said)
    assert all(one.tobytes() == wanted for one in found if not isinstance(one, str))
    assert all(nodes.run(opened, node.given).tobytes() == wanted for opened in sessions)


def test_faults_do_not_touch_the_cpu(rng, fault):
    node = nodes.product(rng)
    for point in SAID:
        fault(point, 1)
    node.check(nodes.run(nodes.session(node, "cpu"), node.given), node.given)
