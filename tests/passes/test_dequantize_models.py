"""Dequantize: models as ONNX Runtime's own quantizer writes them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static

from onnxslim_rx.ir import load, nodes, serialize
from onnxslim_rx.manager import PassManager
from onnxslim_rx.pipeline import clean
from onnxslim_rx_passes.dequantize import Dequantize
from tests.passes.quantized import run

FORMS = ["dynamic", "pairs", "pairs, symmetric", "pairs around weights", "operators"]


class Samples:
    """Some of the images that come with the model, as the quantizer reads them."""

    def __init__(self, images):
        self.left = iter([{"image": images[i : i + 16]} for i in range(0, 64, 16)])

    def get_next(self):
        return next(self.left, None)


@pytest.fixture(scope="module")
def quantized(root, tmp_path_factory):
    """The project's own model in the forms of ONNX Runtime's quantizer, and images."""
    folder = tmp_path_factory.mktemp("quantized")
    source = root / "models" / "digits.onnx"
    images = np.load(root / "models" / "digits_calibration.npz")["image"]
    static = {
        "pairs": {"quant_format": QuantFormat.QDQ},
        "pairs, symmetric": {"quant_format": QuantFormat.QDQ, "activation_type": QuantType.QInt8},
        "pairs around weights": {
            "quant_format": QuantFormat.QDQ,
            "extra_options": {"AddQDQPairToWeight": True},
        },
        "operators": {"quant_format": QuantFormat.QOperator, "per_channel": True},
    }
    found = {name: str(folder / f"{index}.onnx") for index, name in enumerate(FORMS)}
    quantize_dynamic(source, found["dynamic"], per_channel=True)
    for name, how in static.items():
        quantize_static(source, found[name], Samples(images), **how)
    return found, np.load(root / "models" / "digits_test.npz")["image"][:64]


def cosine(a, b):
    return float((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("tidy", [False, True])
def test_nothing_is_left_on_integers(name, tidy, quantized, root):
    files, images = quantized
    before = load(files[name])
    given = clean(before, verify=None).model if tidy else before
    after = PassManager(["dequantize"], verify=None).run(given).model
    content = serialize(after)
    onnx.checker.check_model(content, full_check=True)
    ops = {node.op_type for node in nodes(after)}
    assert not any("Quantize" in op or op.startswith("QL") or "Integer" in op for op in ops)
    feeds = {"image": images}
    right = run(serialize(before), feeds)
    assert cosine(run(content, feeds), right) > 0.999
    # what was lost with the weights stays lost, and no more than that
    floating = run((root / "models" / "digits.onnx").read_bytes(), feeds)
    assert cosine(run(content, feeds), floating) > cosine(right, floating) - 1e-6


@pytest.mark.parametrize("name", FORMS)
def test_exact_where_activations_stay_rounded(name, quantized):
    files, images = quantized
    before = load(files[name])
    after = PassManager([Dequantize(keep_activations=True)], verify=None).run(before).model
    right, found = (run(serialize(m), {"image": images}) for m in (before, after))
    np.testing.assert_allclose(found, right, rtol=0, atol=2e-3 * np.abs(right).max())
