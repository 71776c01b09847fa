"""Linear algebra of the decompositions: arrays in, arrays out, float64, deterministic.

Nothing here knows of graphs. Every function fixes signs, so that equal input gives equal bytes.
Threads are the caller's: for sides up to 1,024 one thread of BLAS is faster than two.
"""

from onnxslim_rx.linalg.cp import cp, cp_full
from onnxslim_rx.linalg.estimate import ErrorEstimate, estimate_error
from onnxslim_rx.linalg.matrix import balance, fix_signs
from onnxslim_rx.linalg.moments import bias_correction, centred_gram
from onnxslim_rx.linalg.network import fit_network, network_product, network_regression
from onnxslim_rx.linalg.noise import evbmf_rank, mdl_rank, noise_variance
from onnxslim_rx.linalg.rank import (
    break_even_rank,
    rank_for_energy,
    rank_for_error,
    rank_for_quality,
    rank_for_ratio,
    round_rank,
)
from onnxslim_rx.linalg.rectified import rectified_energy, rectified_targets
from onnxslim_rx.linalg.refit import mismatch_energy, reduced_rank_regression, ridge_regression
from onnxslim_rx.linalg.row_network import row_network_regression
from onnxslim_rx.linalg.shared import batched_svd, joint_left_svd, shared_output_basis
from onnxslim_rx.linalg.svd import Svd, error_curve, svd, truncated_svd
from onnxslim_rx.linalg.tensor import fold, mode_product, mode_products, unfold
from onnxslim_rx.linalg.tensor_train import tt_full, tt_round, tt_svd
from onnxslim_rx.linalg.tucker import (
    hosvd_energies,
    mode_ranks,
    tucker,
    tucker_error_table,
    tucker_full,
)
from onnxslim_rx.linalg.whiten import (
    output_energy,
    scaled_svd,
    whitened_error_curve,
    whitened_svd,
)

__all__ = [
    "ErrorEstimate",
    "Svd",
    "balance",
    "batched_svd",
    "bias_correction",
    "break_even_rank",
    "centred_gram",
    "cp",
    "cp_full",
    "error_curve",
    "estimate_error",
    "evbmf_rank",
    "fit_network",
    "fix_signs",
    "fold",
    "hosvd_energies",
    "joint_left_svd",
    "mdl_rank",
    "mismatch_energy",
    "mode_product",
    "mode_products",
    "mode_ranks",
    "network_product",
    "network_regression",
    "noise_variance",
    "output_energy",
    "rank_for_energy",
    "rank_for_error",
    "rank_for_quality",
    "rank_for_ratio",
    "rectified_energy",
    "rectified_targets",
    "reduced_rank_regression",
    "ridge_regression",
    "round_rank",
    "row_network_regression",
    "scaled_svd",
    "shared_output_basis",
    "svd",
    "truncated_svd",
    "tt_full",
    "tt_round",
    "tt_svd",
    "tucker",
    "tucker_error_table",
    "tucker_full",
    "unfold",
    "whitened_error_curve",
    "whitened_svd",
]
