"""What a model holds and costs: weights, shapes, multiply-adds, spectra."""

from onnxslim_rx.analysis.activated import activated
from onnxslim_rx.analysis.inspection import (
    Inspection,
    InspectRow,
    inspect_model,
    parameters,
    params,
)
from onnxslim_rx.analysis.macs import Flops, NodeMacs, flops
from onnxslim_rx.analysis.shapes import Shape, infer_shapes
from onnxslim_rx.analysis.spectrum import Spectrum
from onnxslim_rx.analysis.trace import concrete_shapes
from onnxslim_rx.analysis.weights import WeightKind, WeightUse, constant_root, weight_uses

__all__ = [
    "Flops",
    "InspectRow",
    "Inspection",
    "NodeMacs",
    "Shape",
    "Spectrum",
    "WeightKind",
    "WeightUse",
    "activated",
    "concrete_shapes",
    "constant_root",
    "flops",
    "infer_shapes",
    "inspect_model",
    "parameters",
    "params",
    "weight_uses",
]
