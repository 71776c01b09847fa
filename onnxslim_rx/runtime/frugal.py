"""Sessions of large models: weights are mapped from files and never copied.

onnxruntime copies weights on its own account: it folds what is computed from constants, and packs
the weights of matrix products for its kernels. Neither is done here (what it would have folded:
see `folding`). So a run costs what it costs elsewhere but for the packing.

Measured with a decoder of 2.6 GB of weights, onnxruntime 1.31: 2,520 MB of memory as usual, 30 MB
so; loading takes 0.1 s in the place of 12 s, a run on 2 tokens 0.3 s in that of 0.1 s.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import onnx_ir as ir
import onnxruntime

from onnxslim_rx.errors import InputError
from onnxslim_rx.ir import is_large, load, spool
from onnxslim_rx.ir.files import read_proto
from onnxslim_rx.ir.tensors import data_bytes, tensor_protos
from onnxslim_rx.runtime.environment import version

__all__ = ["large_model_in", "set_frugal"]

_LIMIT_SINCE = (1, 27)  # before, folding could only be allowed or not


def set_frugal(options: onnxruntime.SessionOptions) -> list[str]:
    """Set the options of a session so that it copies no large weights.

    Returns:
        Names of the optimizers that the session must do without.
    """
    options.add_session_config_entry("session.disable_prepacking", "1")
    options.enable_cpu_mem_arena = False  # it would keep what the largest run took
    if version() < _LIMIT_SINCE:
        return ["ConstantFolding"]
    limit = "optimization.constant_folding_max_output_size_in_bytes"
    options.add_session_config_entry(limit, str(spool.SPOOLED_BYTES))
    return []


def large_model_in(path: str | os.PathLike[str]) -> ir.Model | None:
    """The model in a file, where it is large; None where it is not, or cannot be read.

    What is wrong with it is left to onnxruntime to say.
    """
    try:
        if not _may_be_large(Path(path)):
            return None
        model = load(path)
    except (InputError, OSError, ValueError):
        return None
    return model if is_large(model) else None


def _may_be_large(path: Path) -> bool:
    if path.stat().st_size >= spool.LARGE_BYTES:
        return True
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content.find(b"location") < 0:  # without this key there is no external data
            return False
    proto = read_proto(path)
    parts = (proto.graph, *proto.functions)
    sizes = [data_bytes(tensor) for part in parts for tensor in tensor_protos(part)]
    return sum(sizes) >= spool.LARGE_BYTES
