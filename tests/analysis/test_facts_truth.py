"""Facts against what really comes out: ONNX's own cases, and whole models at several sizes."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from onnxslim_rx.analysis.facts import Expr, Facts, evaluate
from onnxslim_rx.ir import load, serialize


def _is_symbol(dim) -> bool:
    if not isinstance(dim, Expr) or len(dim.terms) != 1:
        return False
    ((monomial, factor),) = dim.terms
    return factor == 1 and len(monomial) == 1 and not monomial[0].operator


def _claims(facts, arrays):
    """Pairs of what is claimed and what is, with the value; ranks and lengths must agree."""
    for value, array in arrays.items():
        for claimed, real in (
            (facts.shape(value), array.shape),
            (facts.contents(value), array.reshape(-1).tolist()),
        ):
            if claimed is not None:
                assert len(claimed) == len(real), value
                yield from (
                    (value, dim, int(size)) for dim, size in zip(claimed, real, strict=True)
                )


def contradictions(model, by_name):
    """Facts that the arrays contradict, and how many were confirmed, of which kind."""
    facts = Facts(model)
    values = [*model.graph.inputs, *(value for node in model.graph for value in node.outputs)]
    arrays = {value: by_name[value.name] for value in values if value.name in by_name}
    bound: dict[str, int] = {}
    for _, dim, size in _claims(facts, arrays):
        if _is_symbol(dim):
            bound.setdefault(str(dim), size)
    wrong, counts = [], {"numbers": 0, "formulas": 0, "free": 0}
    for value, array in arrays.items():
        dtype = facts.dtype(value)
        if dtype is not None and dtype != ir.DataType.STRING and dtype.numpy() != array.dtype:
            wrong.append(f"{value.name}: {dtype} is {array.dtype}")
    for value, dim, size in _claims(facts, arrays):
        if isinstance(dim, Expr) and not dim.symbols <= bound.keys():
            counts["free"] += 1
            continue
        counts["numbers" if isinstance(dim, int) else "formulas"] += 1
        if evaluate(dim, bound) != size:
            wrong.append(f"{value.name}: {dim} is {size}")
    return wrong, counts


def _variants(case):
    """The model as it is, with small inputs as constants, and with symbols for all sizes."""
    yield case.model
    constant, symbolic = onnx.ModelProto(), onnx.ModelProto()
    constant.CopyFrom(case.model)
    symbolic.CopyFrom(case.model)
    inputs = list(constant.graph.input)
    for info, array in zip(inputs, case.data_sets[0][0], strict=False):
        if isinstance(array, np.ndarray) and array.size <= 8:
            constant.graph.initializer.append(onnx.numpy_helper.from_array(array, info.name))
            constant.graph.input.remove(info)
    for info in symbolic.graph.input:
        if info.type.HasField("tensor_type"):
            for axis, dim in enumerate(info.type.tensor_type.shape.dim):
                dim.dim_param = f"{info.name}_{axis}"
    yield constant
    yield symbolic


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # ONNX's own cases overflow on purpose
def test_cases_of_onnx(onnx_node_cases):
    confirmed = {"numbers": 0, "formulas": 0, "free": 0}
    wrong = []
    for case in onnx_node_cases[::4]:
        if not case.data_sets:
            continue
        infos = [*case.model.graph.input, *case.model.graph.output]
        data = [array for arrays in case.data_sets[0] for array in arrays]
        arrays = {info.name: array for info, array in zip(infos, data, strict=False)}
        arrays = {name: array for name, array in arrays.items() if isinstance(array, np.ndarray)}
        for proto in _variants(case):
            found, counts = contradictions(ir.from_proto(proto), arrays)
            wrong += [(case.name, text) for text in found]
            for kind, count in counts.items():
                confirmed[kind] += count

    assert wrong == []
    assert confirmed["numbers"] > 3000
    assert confirmed["formulas"] > 1500


# sequences and their kin are no tensors; of loops, ONNX takes the state of the first step for that
# of all; it is wrong about STFT; Scan of opset 8 has a batch axis
_NOT_FOLLOWED = {"OptionalGetElement", "Loop", "Scan", "FlexAttention", "STFT", "Resize"}

# runtimes disagree on a window that starts in the padding at the end
_DISPUTED = "_starts_on_pad"


def test_at_least_what_onnx_infers(onnx_node_cases):
    less: list[tuple[str, ...]] = []
    for case in onnx_node_cases[::4]:
        proto = onnx.ModelProto()
        proto.CopyFrom(case.model)
        del proto.graph.value_info[:]
        for output in proto.graph.output:
            output.type.Clear()
        inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True).graph
        types = {info.name: info.type for info in [*inferred.value_info, *inferred.output]}
        model = ir.from_proto(proto)
        facts = Facts(model)
        for node in model.graph:
            for value in node.outputs:
                tensor = types.get(value.name, onnx.TypeProto()).tensor_type
                if not tensor.HasField("shape") or node.op_type in _NOT_FOLLOWED:
                    continue
                if case.name.endswith(_DISPUTED):
                    continue
                shape = facts.shape(value)
                if shape is None or len(shape) != len(tensor.shape.dim):
                    less.append((case.name, node.op_type, str(shape)))
                    continue
                less += [
                    (case.name, node.op_type, str(shape))
                    for dim, size in zip(tensor.shape.dim, shape, strict=True)
                    if dim.HasField("dim_value") and dim.dim_value != size
                ]

    assert less == []


def unoptimised(model):
    """A function from feeds to all tensors of the main graph, as ONNX Runtime computes them."""
    proto = onnx.load_from_string(serialize(model))
    known = {output.name for output in proto.graph.output}
    del proto.graph.value_info[:]
    names = [name for node in proto.graph.node for name in node.output if name not in known]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options)
    outputs = [info.name for info in session.get_outputs()]

    def run(feeds):
        results = zip(outputs, session.run(None, feeds), strict=True)
        return feeds | {name: array for name, array in results if isinstance(array, np.ndarray)}

    return run


@pytest.mark.parametrize(
    "name",
    ["cifar10_resnet_1m", "magika_fast_v2_1", "minilm", "ultraface_RFB_320", "vit_ibp_3_3_8"],
)
def test_real_models(assets, name, rng):
    model = load(assets / "models" / f"{name}.onnx")
    run = unoptimised(model)
    total = {"numbers": 0, "formulas": 0, "free": 0}
    for batch, length in ((2, 5), (1, 1)):
        feeds = {}
        for value in model.graph.inputs:
            if value.is_initializer():
                continue
            shape = [
                dim if isinstance(dim, int) else (length if axis else batch)
                for axis, dim in enumerate(value.shape or ())
            ]
            assert value.dtype is not None
            feeds[value.name] = rng.integers(0, 2, shape).astype(value.dtype.numpy())

        wrong, counts = contradictions(model, run(feeds))

        assert wrong == []
        total = {kind: total[kind] + count for kind, count in counts.items()}
    assert total["free"] == 0
    assert total["numbers"] > 80
