"""What a model holds and costs: weights, shapes, multiply-adds."""

from onnxslim_rx.analysis.weights import WeightKind, WeightUse, constant_root, weight_uses

__all__ = ["WeightKind", "WeightUse", "constant_root", "weight_uses"]
