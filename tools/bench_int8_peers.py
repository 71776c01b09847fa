"""Other tools make integers of MiniLM and MobileNetV2, each at its best settings: of bench_int8.py.

    PYTHON tools/bench_int8_peers.py NAME MODEL BEFORE CALIBRATE OUTPUT

as bench_quantize_peers.py, some of whose tools are taken from there.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # before what is installed there

from tools.bench_quantize_peers import FEW, Make, Peer, Samples, main, onnxsim_peer
from tools.bench_quantize_peers import PEERS as QUANTIZE
from tools.bench_run import limit_cpu

__all__ = ["GROWING", "MINILM", "MOBILENET", "PEERS", "RIVAL"]

FEWER = 16  # samples, to see what one more takes
AUTO = (0.1, 0.2)  # relative errors that a search may make


def _static(method: str, count: int | None = None) -> Make:
    """ONNX Runtime's QDQ, as it advises for CPUs: u8 activations, s8 weights per channel."""

    def make(model: onnx.ModelProto, before: onnx.ModelProto, samples: Samples) -> onnx.ModelProto:
        ort: Any = importlib.import_module("onnxruntime.quantization")
        output = Path(sys.argv[-1]).with_suffix(".part.onnx")
        left = iter(samples[:count])
        base: Any = ort.CalibrationDataReader

        class Reader(base):  # type: ignore[misc]  # known only where the tool is
            def get_next(self) -> Any:
                return next(left, None)

        ort.quantize_static(
            before, output, Reader(), quant_format=ort.QuantFormat.QDQ, per_channel=True,
            activation_type=ort.QuantType.QUInt8, weight_type=ort.QuantType.QInt8,
            calibrate_method=ort.CalibrationMethod[method],
        )  # fmt: skip
        made = onnx.load(output)
        output.unlink()
        return made

    return make


def _nncf(options: Callable[[Any], dict[str, Any]]) -> Peer:
    """NNCF's quantization after training; `options` gets the package."""

    def make(model: onnx.ModelProto, before: onnx.ModelProto, samples: Samples) -> onnx.ModelProto:
        nncf: Any = importlib.import_module("nncf")
        data = nncf.Dataset(list(samples))
        made: onnx.ModelProto = nncf.quantize(
            before, data, subset_size=len(samples), **options(nncf)
        )
        return made

    return Peer(make)


def _transformer(nncf: Any) -> dict[str, Any]:
    """With its SmoothQuant."""
    return {"model_type": nncf.ModelType.TRANSFORMER}


def _by_tensor(nncf: Any) -> dict[str, Any]:
    """Else activations before depthwise convolutions get a scale a channel: twice as slow."""
    advanced: Any = importlib.import_module("nncf.quantization.advanced_parameters")
    scales = advanced.QuantizationParameters(per_channel=False)
    given = advanced.AdvancedQuantizationParameters(activations_quantization_params=scales)
    return {"advanced_parameters": given}


def _most_accurate(nncf: Any) -> dict[str, Any]:
    """Asymmetric activations, and each bias corrected with the layers before it quantized."""
    return {"preset": nncf.QuantizationPreset.MIXED, "fast_bias_correction": False}


def _onnxsim_static(**options: Any) -> Peer:
    return onnxsim_peer(
        lambda sim, model, _, data: sim.quantize_static(model, data[:FEW], **options)
    )


def _auto(error: float) -> str:
    return f"onnxsim quantize_auto {error}"


RIVAL = "ORT static, min-max"
"""What our MobileNetV2 is not to be slower than."""

GROWING = {
    f"ORT static, {method.lower()}, {count} images": Peer(_static(method, count))
    for method in ("Entropy", "Percentile")
    for count in (FEWER, FEW)
}
"""They hold all activations until the last sample was seen."""

MINILM: dict[str, Peer] = {
    **{name: QUANTIZE[name] for name in QUANTIZE if name.startswith("ORT dynamic INT8, per")
       and "+" not in name},
    "NNCF INT8, transformer, SmoothQuant": _nncf(_transformer),
    **{_auto(error): QUANTIZE[_auto(error)] for error in AUTO},
    "onnxsim quantize_static": _onnxsim_static(),
}  # fmt: skip
MOBILENET: dict[str, Peer] = {
    RIVAL: Peer(_static("MinMax")),
    **{name: peer for name, peer in GROWING.items() if str(FEW) in name},
    "NNCF INT8": _nncf(lambda _: {}),
    "NNCF INT8, by tensor": _nncf(_by_tensor),
    "NNCF INT8, mixed, full bias correction": _nncf(_most_accurate),
    "onnxsim quantize_static": _onnxsim_static(),
    "onnxsim quantize_static, whole graph": _onnxsim_static(full_graph=True),
    **{_auto(error): QUANTIZE[_auto(error)] for error in AUTO},
}
PEERS: dict[str, Peer] = {**MINILM, **MOBILENET, **GROWING}
"""By tool and setting."""

if __name__ == "__main__":
    limit_cpu()
    raise SystemExit(main(sys.argv[1:], PEERS))
