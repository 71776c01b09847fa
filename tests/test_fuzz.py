"""Models with flipped bits: each gives a result that verifies, or one clear line.

They run in another process, which may use so much memory and time and no more, so that a crash
in native code is seen too, and names the variant.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest

VARIANTS = 500
# shares of the variants; those that are quick to run come often
SHARES = {
    "digits": 160,
    "cifar10_resnet_4b": 160,
    "sklearn_randomforest": 100,
    "vit_ibp_3_3_8": 30,
    "silero_vad_16k_op15": 30,
    "super_resolution": 10,
    "ultraface_RFB_320": 10,
}
OPTIMIZED = ("digits", 3)  # the model, and how many variants that load go through `optimize`

WORKER = """
import json, logging, resource, signal, sys, traceback

import onnxslim_rx as rx
from onnxslim_rx import ir
from onnxslim_rx.errors import InputError, OnnxslimError
from onnxslim_rx.runtime import Runner
from onnxslim_rx.verify import generate_inputs

resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))

def attempt(path, optimize):
    model = ir.load(path)
    assert ir.digest(ir.load(model)) == ir.digest(model)
    ir.save(model, path + ".copy")
    assert ir.digest(ir.load(path + ".copy")) == ir.digest(model)
    runner = Runner(path, threads=1)
    if optimize:
        rx.optimize(path, progress=False).save(path + ".out")
        Runner(path + ".out")(generate_inputs(model, samples=1, runner=runner)[0])
        return "optimized"
    generate_inputs(model, samples=1, runner=runner)
    rx.simplify(path, verify="end", progress=False)
    return "simplified"

for line in sys.stdin:
    path, optimize = json.loads(line)
    signal.alarm(60)
    try:
        outcome, text = attempt(path, optimize), ""
    except OnnxslimError as error:
        outcome, text = type(error).__name__, str(error)
    except BaseException:
        outcome, text = "bug", traceback.format_exc()
    signal.alarm(0)
    print(json.dumps([outcome, text]), flush=True)
"""


@dataclasses.dataclass
class Source:
    """A model as bytes, and where in them its structure lies (all but the data of weights)."""

    content: bytes
    structure: np.ndarray

    @classmethod
    def read(cls, path: Path) -> Source:
        content = path.read_bytes()
        is_structure = np.ones(len(content), bool)
        for tensor in onnx.load(path).graph.initializer:
            data = tensor.raw_data
            if len(data) > 16:
                start = content.index(data)
                is_structure[start : start + len(data)] = False
        return cls(content, np.flatnonzero(is_structure))

    def flipped(self, seed: int) -> bytes:
        """The model with 1 to 4 bits flipped, four of five in its structure."""
        rng = random.Random(seed)
        content = bytearray(self.content)
        for _ in range(rng.choice((1, 1, 2, 4))):
            in_structure = rng.random() < 0.8
            at = rng.choice(self.structure) if in_structure else rng.randrange(len(content))
            content[at] ^= 1 << rng.randrange(8)
        return bytes(content)


def sources(root: Path) -> dict[str, Source]:
    """The models of `SHARES` that are there; only `digits` is part of the project."""
    assets = Path(os.environ.get("ONNXSLIM_RX_ASSETS", root.parent / "shared")) / "models"
    paths = {name: assets / f"{name}.onnx" for name in SHARES}
    paths["digits"] = root / "models" / "digits.onnx"
    return {name: Source.read(path) for name, path in paths.items() if path.exists()}


class Worker:
    """The other process; started again after a crash."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER],
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(root), str(root / "passes")])},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_error: object) -> None:
        self.process.kill()
        self.process.communicate()

    def attempt(self, content: bytes, *, optimize: bool = False) -> tuple[str, str]:
        """What comes of a model: the outcome, and the message if there is one."""
        path = self.folder / "m.onnx"
        path.write_bytes(content)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([str(path), optimize]) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            return "crash", f"signal {-self.process.wait()}"
        assert path.read_bytes() == content
        outcome, text = json.loads(line)
        return outcome, text


def assert_clean(name: str, seed: int, outcome: str, text: str) -> None:
    where = f"{name} with seed {seed}: {outcome}: {text}"
    assert outcome in ("simplified", "optimized", "InputError", "BudgetError"), where
    assert "\n" not in text, where
    assert len(text) < 1000, where


@pytest.fixture(scope="module")
def models(root) -> dict[str, Source]:
    return sources(root)


def test_flipped_bits_give_verified_results_or_clear_errors(models, root, tmp_path):
    weights = [SHARES[name] for name in models]
    names = random.Random(0).choices(list(models), weights, k=VARIANTS)
    outcomes: Counter[str] = Counter()
    with Worker(root, tmp_path) as worker:
        for seed, name in enumerate(names):
            outcome, text = worker.attempt(models[name].flipped(seed))
            assert_clean(name, seed, outcome, text)
            outcomes[outcome] += 1
    assert outcomes["simplified"] > 50
    assert outcomes["InputError"] > 50


def test_flipped_bits_through_the_whole_of_optimize(models, root, tmp_path):
    name, wanted = OPTIMIZED
    optimized = 0
    with Worker(root, tmp_path) as worker:
        for seed in range(1000, 1100):
            outcome, text = worker.attempt(models[name].flipped(seed), optimize=True)
            assert_clean(name, seed, outcome, text)
            optimized += outcome == "optimized"
            if optimized == wanted:
                break
    assert optimized == wanted
