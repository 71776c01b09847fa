"""The demo model is what its README and MANIFEST say."""

from __future__ import annotations

import hashlib
import re

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator
from sklearn.datasets import load_digits


@pytest.fixture(scope="module")
def models(root):
    return root / "models"


def test_manifest_lists_every_file_with_its_hash(models):
    lines = (models / "MANIFEST").read_text(encoding="utf-8").splitlines()
    listed = dict(reversed(line.split("  ")) for line in lines)
    made = {file.name for file in models.iterdir() if file.suffix in (".onnx", ".npz")}
    assert set(listed) == made
    for name, digest in listed.items():
        assert hashlib.sha256((models / name).read_bytes()).hexdigest() == digest, name


def test_accuracy_is_the_one_stated(models):
    stated = re.search(r"(\d\d\.\d\d)% of the 600 test images", (models / "README.md").read_text())
    assert stated is not None
    data = np.load(models / "digits_test.npz")
    # onnx's own evaluator: neither the code that trained nor the runtime that the product uses
    network = ReferenceEvaluator(onnx.load(models / "digits.onnx"))
    (logits,) = network.run(None, {"image": data["image"]})
    accuracy = np.mean(np.argmax(logits, 1) == data["label"])
    assert accuracy >= 0.97
    assert f"{accuracy:.2%}" == stated[1] + "%"


def test_parts_are_disjoint_and_from_the_source(models):
    images, digits = load_digits(return_X_y=True)
    keys = [image.astype(np.float32).tobytes() for image in images]
    source = dict(zip(keys, digits.tolist(), strict=True))
    seen: set[bytes] = set()
    for name in ("digits_calibration.npz", "digits_test.npz"):
        data = np.load(models / name)
        for image, label in zip(data["image"], data["label"], strict=True):
            key = image.tobytes()
            assert source[key] == label
            assert key not in seen
            seen.add(key)
