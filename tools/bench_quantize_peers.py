"""Other tools quantize MiniLM, each at its best settings: a part of bench_quantize.py.

    PYTHON tools/bench_quantize_peers.py NAME MODEL CALIBRATE OUTPUT

writes the model and, beside it, the most memory used. PYTHON is one that has the tools (--peers of
bench_quantize.py; bench_quantize_peer_files.py starts this). No tool but ONNX Runtime's own stores
an embedding in 4 bits so that it runs: embeddings that were left in floats are given to it in a
second step, as a user would. What onnxsim leaves behind unused is removed.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # before what is installed there

from tools.bench_measure import read
from tools.bench_quantize_data import short
from tools.bench_run import limit_cpu, peak_mb

__all__ = [
    "FEW",
    "PEERS",
    "STEPS",
    "Make",
    "Peer",
    "Samples",
    "main",
    "onnxsim_peer",
    "pruned",
]

Samples = Sequence[dict[str, Any]]
Make = Callable[[onnx.ModelProto, onnx.ModelProto, Samples], onnx.ModelProto]
"""From the model, what the peer before made (the model, where none), and samples."""

FEW = 64  # samples where a tool holds what each gives, or runs all again and again


@dataclasses.dataclass(frozen=True)
class Peer:
    """One tool at one setting.

    Args:
        make: quantizes.
        after: name of the peer whose result is quantized further.
    """

    make: Make
    after: str = ""


def pruned(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model, changed in place, without nodes and weights that nothing reads."""
    graph = model.graph
    used: set[str] = set()
    while True:
        before = len(graph.node)
        used = {name for node in graph.node for name in node.input}
        used |= {output.name for output in graph.output}
        kept = [node for node in graph.node if used & set(node.output)]
        del graph.node[:]
        graph.node.extend(kept)
        if len(kept) == before:
            break
    weights = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(weights)
    return model


def _ort(name: str) -> Any:
    return importlib.import_module(f"onnxruntime.quantization{name}")


def _dynamic(per_channel: bool, operators: Sequence[str] | None = None) -> Make:
    """ONNX Runtime's INT8 with activations quantized while it runs."""

    def make(model: onnx.ModelProto, before: onnx.ModelProto, samples: Samples) -> onnx.ModelProto:
        quantization = _ort("")
        output = Path(sys.argv[-1]).with_suffix(".part.onnx")
        quantization.quantize_dynamic(
            before, output, op_types_to_quantize=operators, per_channel=per_channel,
            weight_type=quantization.QuantType.QInt8,
        )  # fmt: skip
        made = onnx.load(output)
        output.unlink()
        return made

    return make


def _nbits(bits: int, group: int, symmetric: bool, operators: Sequence[str]) -> Make:
    """ONNX Runtime's rounding to nearest, computed on integers."""

    def make(model: onnx.ModelProto, before: onnx.ModelProto, samples: Samples) -> onnx.ModelProto:
        config = _ort(".matmul_nbits_quantizer").DefaultWeightOnlyQuantConfig(
            block_size=group, is_symmetric=symmetric, accuracy_level=4, bits=bits,
            op_types_to_quantize=tuple(operators), quant_axes=(("MatMul", 0), ("Gather", 1)),
        )  # fmt: skip
        return _by_blocks(before, config)

    return make


def _with_config(make_config: Callable[[Any, Samples], Any]) -> Make:
    """ONNX Runtime's other algorithms, of MatMul alone."""

    def make(model: onnx.ModelProto, before: onnx.ModelProto, samples: Samples) -> onnx.ModelProto:
        config = make_config(_ort(".matmul_nbits_quantizer"), samples)
        return _by_blocks(before, config)

    return make


def _by_blocks(model: onnx.ModelProto, config: Any) -> onnx.ModelProto:
    quantizer = _ort(".matmul_nbits_quantizer").MatMulNBitsQuantizer(
        model, block_size=32, is_symmetric=False, accuracy_level=4, algo_config=config
    )
    quantizer.process()
    made: onnx.ModelProto = quantizer.model.model
    return made


def _ort_gptq(quantizers: Any, samples: Samples) -> Any:
    base: Any = _ort("").CalibrationDataReader

    class Reader(base):  # type: ignore[misc]  # known only where the tool is
        def __init__(self) -> None:
            self.left = iter(samples[:FEW])

        def get_next(self) -> Any:
            return next(self.left, None)

    return quantizers.GPTQWeightOnlyQuantConfig(Reader(), block_size=32, perchannel=True)


def _nncf(mode: str, *, data: bool = False, skip: Sequence[str] = (), **options: Any) -> Make:
    """NNCF's compression of weights: with 4 bits, embeddings in INT8 unless they are skipped."""

    def make(model: onnx.ModelProto, before: onnx.ModelProto, samples: Samples) -> onnx.ModelProto:
        nncf = importlib.import_module("nncf")
        more = {"dataset": nncf.Dataset(list(samples))} if data else {}
        more |= {"ignored_scope": nncf.IgnoredScope(types=list(skip))} if skip else {}
        kind = nncf.CompressWeightsMode[mode]
        made: onnx.ModelProto = nncf.compress_weights(before, mode=kind, **options, **more)
        return made

    return make


def onnxsim_peer(
    call: Callable[[Any, onnx.ModelProto, onnx.ModelProto, Samples], Any], after: str = ""
) -> Peer:
    """onnxsim: `call` gets the package, the model, what was made before, and samples."""

    def make(model: onnx.ModelProto, before: onnx.ModelProto, samples: Samples) -> onnx.ModelProto:
        return pruned(call(importlib.import_module("onnxsim"), model, before, samples))

    return Peer(make, after)


def _gptq(sim: Any, model: onnx.ModelProto, before: onnx.ModelProto, samples: Samples) -> Any:
    return sim.apply_gptq(model, before, samples)


def _search(name: str, error: float, field: str = "", **options: Any) -> Peer:
    """One of onnxsim's searches for what keeps a relative error (L2, of the worst sample)."""

    def call(sim: Any, model: onnx.ModelProto, _: onnx.ModelProto, samples: Samples) -> Any:
        found = getattr(sim, name)(model, error, calibration_data=samples[:FEW], **options)
        return getattr(found, field) if field else found

    return onnxsim_peer(call)


def _pipeline(error: float, **options: Any) -> Peer:
    """Onnxsim's pipeline, which needs samples of one length, and an hour for many."""

    def call(sim: Any, model: onnx.ModelProto, _: onnx.ModelProto, samples: Samples) -> Any:
        data = short(samples, FEW // 4)
        found = sim.apply_optimization_pipeline(model, error, calibration_data=data, **options)
        return found.optimized_model

    return onnxsim_peer(call)


def _corrected(rank: int, after: str) -> Peer:
    return onnxsim_peer(
        lambda sim, model, before, data: sim.apply_lqer(model, before, rank, data), after
    )


_FRACTIONS = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the layers, in 8 bits: each takes a minute
_INT4 = "onnxsim INT4"
_GPTQ = "onnxsim INT4, GPTQ"
_NNCF4: dict[str, Any] = {"ratio": 1.0, "group_size": 32, "scale_estimation": True, "data": True}
_WHOLE = {
    "ORT dynamic INT8, per tensor": Peer(_dynamic(False)),
    "ORT dynamic INT8, per channel": Peer(_dynamic(True)),
    "NNCF INT8": Peer(_nncf("INT8_SYM")),
    "NNCF INT8, zero points": Peer(_nncf("INT8_ASYM")),
    "NNCF INT4 g32": Peer(_nncf("INT4_SYM", **_NNCF4)),
    "NNCF INT4 g32 on 40%": Peer(_nncf("INT4_SYM", **(_NNCF4 | {"ratio": 0.4}))),
}
STEPS: dict[str, Peer] = {
    "ORT dynamic INT8, MatMul": Peer(_dynamic(True, ["MatMul"])),
    "ORT MatMulNBits INT8 g128": Peer(_nbits(8, 128, True, ["MatMul"])),
    **{
        f"ORT MatMulNBits INT4 g{group}": Peer(_nbits(4, group, False, ["MatMul"]))
        for group in (16, 32, 128)
    },
    "ORT MatMulNBits INT4 g32, symmetric": Peer(_nbits(4, 32, True, ["MatMul"])),
    "ORT HQQ INT4 g32": Peer(_with_config(lambda ort, _: ort.HQQWeightOnlyQuantConfig(32))),
    "ORT k-quant INT4 g32": Peer(_with_config(lambda ort, _: ort.KQuantWeightOnlyQuantConfig())),
    "ORT GPTQ INT4 g32": Peer(_with_config(_ort_gptq)),
    "NNCF INT4 g32, MatMul": Peer(_nncf("INT4_SYM", skip=["Gather"], **_NNCF4)),
    _INT4: onnxsim_peer(lambda sim, model, *_: sim.quantize_weight_only_int4(model)),
    _GPTQ: onnxsim_peer(
        lambda sim, model, before, data: sim.apply_gptq(model, before, data), _INT4
    ),
    "onnxsim INT4, LQER 32": _corrected(32, _INT4),
    "onnxsim INT4, GPTQ, LQER 8": _corrected(8, _GPTQ),
    "onnxsim INT4, GPTQ, LQER 32": _corrected(32, _GPTQ),
    "onnxsim SVDQuant 32": onnxsim_peer(
        lambda sim, model, _, data: sim.apply_svdquant(model, data[:FEW], rank=32)
    ),
    "onnxsim quantize_auto 0.2": _search("quantize_auto", 0.2),
    "onnxsim quantize_auto 0.1": _search("quantize_auto", 0.1),
    **{
        f"onnxsim mixed precision {error}": _search(
            "search_mixed_precision_for_budget", error, "quantized_model", fractions=_FRACTIONS
        )
        for error in (0.1, 0.2)
    },
    "onnxsim pipeline 0.2": _pipeline(0.2),
    "onnxsim pipeline 0.35, mixed": _pipeline(0.35, bit_selection="mixed_precision"),
}
"""What leaves embeddings in floats."""

_AND_EMBEDDINGS = {
    f"{name} + ORT embeddings INT4": Peer(_nbits(4, 32, False, ["Gather"]), name) for name in STEPS
}
PEERS: dict[str, Peer] = {**_WHOLE, **STEPS, **_AND_EMBEDDINGS}
"""By tool, setting, and what did the rest."""


def main(argv: Sequence[str], peers: Mapping[str, Peer] = PEERS) -> int:
    """Quantize by one of `peers`; labels of samples are left out."""
    logging.disable(logging.WARNING)
    name, *paths = argv
    source, before, calibrate, output = map(Path, paths)
    model = onnx.load(source)
    start = model if before == source else onnx.load(before)
    inputs = [value.name for value in model.graph.input]
    samples = [{key: sample[key] for key in inputs} for sample in read(calibrate)]
    made = peers[name].make(model, start, samples)
    onnx.save(made, output)
    output.with_suffix(".peak").write_text(json.dumps(peak_mb()), encoding="utf-8")
    return 0


if __name__ == "__main__":
    limit_cpu()
    raise SystemExit(main(sys.argv[1:]))
