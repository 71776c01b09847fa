"""Fixtures that many tests share."""

from __future__ import annotations

import os
from pathlib import Path

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
