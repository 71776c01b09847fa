"""Shapes against those of tensors that ONNX Runtime computes, and against ONNX's inference."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import onnx
import onnx.backend.test
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from onnxslim_rx.analysis import concrete_shapes, infer_shapes
from onnxslim_rx.ir import load, nodes, serialize

LIGHT = Path(onnx.backend.test.__file__).parent / "data" / "light"
ELEMENTS = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(int32)": np.int32}


def really(model: ir.Model, shapes) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor of the main graph when it runs on ones of the given shapes."""
    proto = onnx.load_from_string(serialize(model))
    known = {output.name for output in proto.graph.output}
    names = [name for node in proto.graph.node for name in node.output if name not in known]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options)
    feeds = {
        item.name: np.full(
            shapes[item.name], 16000 if item.name == "sr" else 1, ELEMENTS[item.type]
        )
        for item in session.get_inputs()
    }
    results = session.run(None, feeds)
    outputs = [output.name for output in session.get_outputs()]
    return {
        name: array.shape
        for name, array in zip(outputs, results, strict=True)
        if isinstance(array, np.ndarray)
    }


@given(
    size=st.integers(6, 10),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 2),
    padding=st.sampled_from(
        ["pads=[0,0]", "pads=[2,1]", 'auto_pad="SAME_UPPER"', 'auto_pad="SAME_LOWER"',
         'auto_pad="VALID"']
    ),
    operator=st.sampled_from(["Conv", "ConvTranspose"]),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_convolutions(build, size, kernel, stride, dilation, padding, operator):
    # ONNX Runtime refuses this pair in Conv
    assume(not ("SAME" in padding and dilation > 1 and operator == "Conv"))
    model = build(
        f"float[2,4,{size}] x",
        f"y = {operator}<{padding}, strides=[{stride}], dilations=[{dilation}]>(x, w)",
        w=(4, 4, kernel),
    )

    assert concrete_shapes(model)["y"] == really(_typed(model), {"x": (2, 4, size)})["y"]


def _typed(model: ir.Model) -> ir.Model:
    for value in model.graph.outputs:
        value.type = ir.TensorType(ir.DataType.FLOAT)
    return model


MODELS = [
    "cifar10_resnet_1m", "cifar10_resnet_4b", "magika_fast_v2_1", "minilm", "mobilenetv2-12-qdq",
    "mobilenetv2_fp32", "silero_vad_16k_op15", "super_resolution", "ultraface_RFB_320",
    "vit_ibp_3_3_8",
]  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_real_models_node_by_node(assets, name):
    model = load(assets / "models" / f"{name}.onnx")
    given = {"input": (1, 576), "state": (2, 1, 128)} if name.startswith("silero") else None

    found = concrete_shapes(model, given)

    expected = really(model, found)
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize("path", sorted(LIGHT.glob("*.onnx")), ids=lambda path: path.stem)
def test_public_models_as_onnx_infers_them(path):
    inferred = onnx.shape_inference.infer_shapes(onnx.load(path), data_prop=True)
    expected = {
        info.name: tuple(dim.dim_value for dim in info.type.tensor_type.shape.dim)
        for info in inferred.graph.value_info
        if info.type.tensor_type.HasField("shape")
    }

    found = concrete_shapes(load(path))

    assert len(expected) > 20
    assert {name: found[name] for name in expected} == expected


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # ONNX's own cases overflow on purpose
def test_no_shape_of_the_standards_own_examples_is_wrong(onnx_node_cases):
    """The cases of ONNX's backend test for single operators, with the outputs that they state."""
    right, wrong = 0, []
    for case in onnx_node_cases[::3]:  # enough to see; all take three times as long
        model = load(case.model)
        for value in model.graph.outputs:
            value.shape = None
        inputs, outputs = case.data_sets[0]
        given = {
            info.name: array.shape
            for info, array in zip(case.model.graph.input, inputs, strict=False)
            if isinstance(array, np.ndarray) and info.type.HasField("tensor_type")
        }
        found = concrete_shapes(model, given)
        for info, array in zip(case.model.graph.output, outputs, strict=True):
            shape = found.get(info.name)
            if shape is not None and None not in shape and isinstance(array, np.ndarray):
                right += shape == array.shape
                wrong += [(case.name, shape, array.shape)] if shape != array.shape else []

    assert wrong == []
    assert right > 400  # of the rest, most depend on the values of inputs


def test_arithmetic_on_sizes_stays_numbers(build):
    body = """s = Shape(x) h = Gather(s, one) q = Div(h, two) r = Mul(q, two) u = Unsqueeze(r, zero)
        m = Constant<value=int64[1]{-1}>() t = Concat<axis=0>(m, u) y = Reshape(x, t)"""
    constants = {"one": np.array(1), "two": np.array(2), "zero": np.array([0])}
    model = build("float[batch,s,6] x", body, **constants)

    assert concrete_shapes(model, {"x": (5, 8, 6)})["y"] == (30, 8)


def test_sizes_that_depend_on_data_are_none(build):
    model = build("float[4,6] x", "i = NonZero(x) z = Relu(x) y = Transpose(i)")

    found = concrete_shapes(model)

    assert found["i"] == (2, None)
    assert found["y"] == (None, 2)
    assert found["z"] == (4, 6)


def test_unknown_operators_fall_back_to_what_the_model_states(build):
    model = build("float[batch,6] x", "h = own.Magic(x) y = Relu(h)")
    hidden = next(nodes(model)).outputs[0]
    hidden.type = ir.TensorType(ir.DataType.FLOAT)
    assert concrete_shapes(model)["y"] is None

    hidden.shape = ir.Shape(["batch", 9])
    assert concrete_shapes(model, {"x": (5, 6)})["y"] == (5, 9)


IDS = "i = Constant<value=int64[3]{0,1,2}>()"


@pytest.mark.parametrize(
    ("body", "weights"),
    [
        ("y = com.microsoft.FusedMatMul<transA=1>(x, w)", {"w": (4, 9)}),
        ("y = com.microsoft.FusedMatMul<transB=1>(x, w)", {"w": (9, 6)}),
        ("y = com.microsoft.BiasGelu(x, w)", {"w": (6,)}),
        ("y = com.microsoft.MatMulNBits<K=6,N=9,bits=8,block_size=16>(x, w, s)",
         {"w": np.ones((9, 1, 16), np.uint8), "s": (9, 1)}),
        ("y = com.microsoft.DynamicQuantizeMatMul(x, w, s)",
         {"w": np.ones((6, 9), np.int8), "s": (1,)}),
        (IDS + "y = com.microsoft.GatherBlockQuantized<block_size=16>(w, i, s)",
         {"w": np.ones((7, 16), np.uint8), "s": (7, 2)}),
        ("y = com.microsoft.Attention<num_heads=2>(x, w, b)", {"w": (6, 24), "b": (24,)}),
        ("y = com.microsoft.MultiHeadAttention<num_heads=2>(x, k, k)", {"k": (2, 5, 6)}),
    ],
)  # fmt: skip
def test_operators_of_onnx_runtime(build, body, weights):
    model = build("float[2,4,6] x", body, **weights)

    found = concrete_shapes(model)

    assert found["y"] == really(_typed(model), {"x": (2, 4, 6)})["y"]


def test_inference_annotates_a_copy_and_leaves_the_model(build):
    branch = """y = If (c) <then_branch = a () => (p) { h = Shape(x) p = Cast<to=1>(h) },
                                else_branch = b () => (q) { q = Relu(z) }>"""
    model = build("float[batch,6] x, bool c", f"z = MatMul(x, w) {branch}", w=(6, 40))

    annotated = infer_shapes(model)

    shapes = {v.name: v.shape for node in nodes(annotated) for v in node.outputs}
    assert shapes["z"] == ir.Shape(["batch", 40])
    assert shapes["h"] == ir.Shape([2])
    assert shapes["q"] == ir.Shape(["batch", 40])
    assert all(value.shape is None for node in nodes(model) for value in node.outputs)
    assert (
        annotated.graph.initializers["w"].const_value is model.graph.initializers["w"].const_value
    )


def test_inference_does_not_read_big_weights(build):
    class Untouchable(ir.Tensor[np.ndarray]):
        def numpy(self):
            raise AssertionError("read")

        tobytes = numpy

    model = build("float[batch,600] x", "z = MatMul(x, w) y = Relu(z)", w=(600, 600))
    weight = Untouchable(np.ones((600, 600), np.float32), name="w")
    model.graph.initializers["w"].const_value = weight

    annotated = infer_shapes(model)

    assert annotated.graph[0].outputs[0].shape == ir.Shape(["batch", 600])


def test_inference_of_an_invalid_model_leaves_it_as_it_is(build, caplog):
    model = build("float[4,6] x", "z = MatMul(x, x) y = Relu(z)")
    model.graph.opset_imports[""] = 999

    with caplog.at_level(logging.WARNING):
        annotated = infer_shapes(model)

    assert [node.op_type for node in annotated.graph] == ["MatMul", "Relu"]
    assert caplog.records == []
