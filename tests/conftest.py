"""Fixtures that many tests share."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy loads its BLAS: products are small

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator with a fixed seed."""
    return np.random.default_rng(20261121)


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def assets() -> Path:
    """The folder of real models and data that are no part of the project; skips without it."""
    place = Path(os.environ.get("ONNXSLIM_RX_ASSETS", ROOT.parent / "shared")).resolve()
    if not (place / "models").is_dir():
        pytest.skip(f"no real models in {place}; ONNXSLIM_RX_ASSETS names another folder")
    return place


@pytest.fixture(scope="session")
def onnx_node_cases() -> tuple[Any, ...]:
    """Every single-operator case of ONNX's own test suite that has a model.

    The suite collects once per process, by the first caller's filter: so there is one caller.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # casts overflow and divisors are zero, on purpose
        from onnx.backend.test.case.node import collect_testcases

        cases: Any = collect_testcases(None)
    return tuple(case for case in cases if case.model is not None)
