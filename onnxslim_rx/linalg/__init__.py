"""Linear algebra of the decompositions: arrays in, arrays out, float64, deterministic.

Nothing here knows of graphs. Every function fixes signs, so that equal input gives equal bytes.
"""

from onnxslim_rx.linalg.svd import Svd, error_curve, fix_signs, svd, truncated_svd
from onnxslim_rx.linalg.whiten import whitened_error_curve, whitened_svd

__all__ = [
    "Svd",
    "error_curve",
    "fix_signs",
    "svd",
    "truncated_svd",
    "whitened_error_curve",
    "whitened_svd",
]
