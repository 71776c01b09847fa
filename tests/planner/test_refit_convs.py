"""Chains of convolutions fitted to the original's outputs, against least squares on uncut runs."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
import pytest

from onnxslim_rx.ir import clone, mark
from onnxslim_rx.planner.fit.chains import chain_of
from onnxslim_rx.planner.fit.refit import refit
from onnxslim_rx.runtime import Runner

CHANNELS, FILTERS, RANK = 5, 6, 3


def model_of(body, weights, outputs="y"):
    shapes = [f"float[{','.join(map(str, w.shape))}] {name}" for name, w in weights.items()]
    model = ir.from_onnx_text(
        f'<ir_version: 8, opset_import: ["": 17]> g (float[N,{CHANNELS},9,8] x,'
        f" {', '.join(shapes)}) => (float[N,?,?,?] {outputs}) {{ {body} }}"
    )
    for value in list(model.graph.inputs):
        if value.name in weights:
            model.graph.inputs.remove(value)
            value.const_value = ir.tensor(weights[value.name], name=value.name)
            model.graph.register_initializer(value)
    for node in model.graph:
        if str(node.name).startswith("rx"):
            mark(node, "factorize-conv")
    return model


PLACE = "strides = [2, 1], pads = [1, 0, 0, 2], dilations = [1, 2]"
CHAINS = {
    "channel-output": (
        f"p = Conv<{PLACE}>(x, w1) y = Conv(p, w2, b)",
        {"w1": (RANK, CHANNELS, 3, 3), "w2": (FILTERS, RANK, 1, 1)},
    ),
    "channel-input": (
        f"p = Conv(x, w1) y = Conv<{PLACE}>(p, w2, b)",
        {"w1": (RANK, CHANNELS, 1, 1), "w2": (FILTERS, RANK, 3, 3)},
    ),
    "spatial": (
        "p = Conv<strides = [2, 1], pads = [1, 0, 0, 0]>(x, w1)"
        " y = Conv<pads = [0, 0, 0, 2], dilations = [1, 2]>(p, w2, b)",
        {"w1": (RANK, CHANNELS, 3, 1), "w2": (FILTERS, RANK, 1, 3)},
    ),
    "tucker": (
        f"p = Conv(x, w1) q = Conv<{PLACE}>(p, w2) y = Conv(q, w3, b)",
        {"w1": (RANK, CHANNELS, 1, 1), "w2": (4, RANK, 3, 3), "w3": (FILTERS, 4, 1, 1)},
    ),
    "cp": (
        f"p = Conv(x, w1) q = Conv<{PLACE}, group = 4>(p, w2) y = Conv(q, w3, b)",
        {"w1": (4, CHANNELS, 1, 1), "w2": (4, 1, 3, 3), "w3": (FILTERS, 4, 1, 1)},
    ),
    "cp-separable": (
        "p = Conv(x, w1) q = Conv<strides = [2, 1], pads = [1, 0, 0, 0], group = 4>(p, w2)"
        " r = Conv<pads = [0, 0, 0, 2], dilations = [1, 2], group = 4>(q, w3) y = Conv(r, w4, b)",
        {
            "w1": (4, CHANNELS, 1, 1),
            "w2": (4, 1, 3, 1),
            "w3": (4, 1, 1, 3),
            "w4": (FILTERS, 4, 1, 1),
        },
    ),
}


def networks(name, rng, *, bias=True):
    """The original, one convolution, and a chain with unfitting numbers in its place."""
    body, shapes = CHAINS[name]
    b = rng.standard_normal(FILTERS).astype(np.float32)
    kernel = rng.standard_normal((FILTERS, CHANNELS, 3, 3)).astype(np.float32)
    original = model_of(f"y = Conv<{PLACE}>(x, w, b)", {"w": kernel, "b": b})
    weights = {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
    if not bias:
        body, b = body.replace(", b)", ")"), None
    compressed = model_of(body, weights | ({} if b is None else {"b": b}))
    for node in compressed.graph:
        mark(node, "factorize-conv")
    return original, compressed


def samples(rng, count=12):
    return [
        {"x": (1.0 + rng.standard_normal((2, CHANNELS, 9, 8))).astype(np.float32)}
        for _ in range(count)
    ]


def outputs(model, data):
    runner = Runner(model, optimize=False)
    return np.concatenate([runner(sample)["y"] for sample in data]).astype(np.float64)


def contents(model, name):
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None
    return tensor.numpy()


def rows(array):
    return np.moveaxis(array, 1, -1).reshape(-1, array.shape[1])


def patches(data):
    """Read by a convolution in ONNX Runtime whose kernels pick one entry each."""
    taps = CHANNELS * 9
    kernel = np.eye(taps, dtype=np.float32).reshape(taps, CHANNELS, 3, 3)
    model = model_of(f"y = Conv<{PLACE}>(x, w)", {"w": kernel})
    return rows(outputs(model, data))


@pytest.mark.parametrize("name", sorted(CHAINS))
def test_a_chain_comes_closer_to_the_original(name, rng):
    original, compressed = networks(name, rng)
    data, unseen = samples(rng), samples(rng, 3)
    before = np.linalg.norm(outputs(original, unseen) - outputs(compressed, unseen))
    (found,) = refit(original, compressed, data)
    after = np.linalg.norm(outputs(original, unseen) - outputs(compressed, unseen))
    assert found.why_not == ""
    assert after < 0.5 * before
    wanted = np.linalg.norm(outputs(original, data))
    left = np.linalg.norm(outputs(original, data) - outputs(compressed, data))
    assert found.after == pytest.approx(left / wanted, rel=1e-4)


def test_a_kernel_and_a_pointwise_one_are_the_best_of_their_rank(rng):
    original, compressed = networks("channel-output", rng)
    data = samples(rng, 40)
    (found,) = refit(original, compressed, data)
    x, y = patches(data), rows(outputs(original, data))
    x1 = np.hstack([x, np.ones((len(x), 1))])
    fitted = (x - x.mean(0)) @ (np.linalg.lstsq(x1, y, rcond=None)[0][:-1])
    left = np.sqrt(np.sum(np.linalg.svd(fitted, compute_uv=False)[RANK:] ** 2))
    # the ridge holds the fit a little away from the best
    assert found.after == pytest.approx(left / np.linalg.norm(y), rel=0.02)


def test_without_a_bias_only_kernels_change(rng):
    original, compressed = networks("tucker", rng, bias=False)
    (found,) = refit(original, compressed, samples(rng))
    assert found.after < found.before


@pytest.mark.parametrize("name", ["channel-output", "tucker"])
def test_behind_a_relu_only_what_it_lets_through_counts(name, rng):
    original, compressed = networks(name, rng)
    for model in (original, compressed):
        # most outputs are negative: what is far below zero need not be met
        b = model.graph.initializers["b"]
        b.const_value = ir.tensor(contents(model, "b") - 8, name="b")
        y = model.graph.outputs[0]
        relu = ir.node("Relu", [y])
        model.graph.append(relu)
        y.name, relu.outputs[0].name = "before", "y"
        model.graph.outputs[0] = relu.outputs[0]
    linear = clone(compressed)
    for node in linear.graph:
        if node.op_type == "Relu":  # hides that it is one
            node.op_type, node.outputs[0].name = "LeakyRelu", "y"
            node.attributes.add(ir.AttrFloat32("alpha", 0.0))
    data = samples(rng, 40)
    refit(original, linear, data)
    (found,) = refit(original, compressed, data)
    wanted = outputs(original, data)
    left = np.linalg.norm(wanted - outputs(compressed, data))
    assert left < np.linalg.norm(wanted - outputs(linear, data))
    assert found.after == pytest.approx(left / np.linalg.norm(wanted), rel=1e-3)


def test_a_bias_alone_makes_up_for_a_shift(rng):
    original, compressed = networks("channel-output", rng)
    shifted = clone(original)
    shifted.graph.initializers["b"].const_value = ir.tensor(contents(shifted, "b") + 3, name="b")
    for node in compressed.graph:  # of full rank: the kernel can be met
        weight = node.inputs[1]
        kernel = contents(original, "w")
        full = {"w1": kernel, "w2": np.eye(FILTERS, dtype=np.float32).reshape(FILTERS, -1, 1, 1)}
        weight.const_value = ir.tensor(full[weight.name], name=weight.name)
    (found,) = refit(shifted, compressed, samples(rng))
    assert found.before > 0.1
    assert found.after < 1e-3


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"bias": ("p", 1)}, "a part of it has a bias"),
        ({"original": "ConvTranspose"}, "its outputs overlap"),
        ({"group": 5}, "it has groups"),
    ],
)
def test_what_cannot_be_fitted_says_why(change, why, rng):
    body, shapes = CHAINS["tucker"]
    weights = {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
    weights["b"] = np.zeros(FILTERS, np.float32)
    if "bias" in change:
        weights["c"] = np.zeros(RANK, np.float32)
        body = body.replace("Conv(x, w1)", "Conv(x, w1, c)")
    compressed = model_of(body, weights)
    for node in compressed.graph:
        mark(node, "factorize-conv")
    kind = change.get("original", "Conv")
    group = change.get("group", 1)
    kernel = np.zeros((FILTERS, CHANNELS // group, 3, 3), np.float32)
    original = model_of(f"y = {kind}<group = {group}>(x, w)", {"w": kernel})
    last = list(compressed.graph)[-1]
    assert chain_of(last, original.graph[0]) == why


def test_other_readers_between_the_parts_are_respected(rng):
    original, compressed = networks("tucker", rng)
    chain = chain_of(list(compressed.graph)[-1], original.graph[0])
    assert dataclasses.is_dataclass(chain)
    middle = compressed.graph[0].outputs[0]
    compressed.graph.append(ir.node("Relu", [middle]))
    why = chain_of(list(compressed.graph)[-2], original.graph[0])
    assert why == "others read what is between its parts"
