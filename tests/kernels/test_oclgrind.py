"""Small cases in oclgrind: no race, no access out of bounds."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tools.kernel_families import families

pytest.importorskip("pyopencl")
ROOT = Path(__file__).resolve().parents[2]
FAMILIES = [one.name for one in families()]
_PROGRAM = """
import sys
from tools.kernel_case import cases, run
from tools.kernel_run import Device

device = Device()
assert "Oclgrind" in device.device.platform.name, device.device.platform.name
for case in cases(sys.argv[1]):
    if case.flops > 300_000:
        continue  # minutes, and the smaller ones take the same paths
    found, _ = run(case, device.launch)
    assert case.worst(found) <= 1, (case.name, dict(case.values))
print("all right")
"""


@pytest.mark.skipif(shutil.which("oclgrind") is None, reason="oclgrind is not installed")
@pytest.mark.parametrize("name", FAMILIES)
def test_cases_run_without_races_and_stray_accesses(name):
    command = ["oclgrind", "--data-races", "--max-errors", "5"]
    done = subprocess.run(
        [*command, sys.executable, "-W", "ignore", "-c", _PROGRAM, name],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "all right" in done.stdout, done.stdout[-2000:]
    assert not done.stderr.strip(), done.stderr[:2000]
