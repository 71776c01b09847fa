"""Statistics of BatchNormalization behind compressed layers, against numpy on uncut runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from onnxslim_rx.ir import clone, digest, mark
from onnxslim_rx.planner.fit.norms import norms
from onnxslim_rx.planner.fit.refit import refit
from onnxslim_rx.runtime import Runner

Array = npt.NDArray[Any]
Data = list[dict[str, Array]]

CHANNELS = 6

BEHIND_ADD = """
    c1 = Conv<pads = [1, 1, 1, 1]>(x, w1)
    s1 = Add(c1, x)
    n1 = BatchNormalization<epsilon = 0.01>(s1, g1, b1, m1, v1)
    r1 = Relu(n1)
    c2 = Conv<pads = [1, 1, 1, 1]>(r1, w2)
    s2 = Add(c2, s1)
    n2 = BatchNormalization(s2, g2, b2, m2, v2)
    y = Relu(n2)
"""


def parameters(
    rng: np.random.Generator, channels: int, number: int, dtype: npt.DTypeLike = np.float32
) -> dict[str, Array]:
    """Statistics that are not those of any data."""
    found = {
        "g": rng.standard_normal(channels),
        "b": rng.standard_normal(channels),
        "m": 0.5 * rng.standard_normal(channels),
        "v": rng.uniform(0.5, 2.0, channels),
    }
    return {f"{name}{number}": array.astype(dtype) for name, array in found.items()}


def model_of(body: str, weights: dict[str, Array], kind: str = "float") -> ir.Model:
    shapes = [
        f"{ir.DataType.from_numpy(w.dtype).name.lower()}[{','.join(map(str, w.shape))}] {name}"
        for name, w in weights.items()
    ]
    dims = "N,C" if "Gemm" in body else "N,C,H,W"
    model = ir.from_onnx_text(
        f'<ir_version: 8, opset_import: ["": 17]> g ({kind}[{dims}] x, {", ".join(shapes)})'
        f" => ({kind}[{dims}] y) {{ {body} }}"
    )
    for value in list(model.graph.inputs):
        if value.name in weights:
            model.graph.inputs.remove(value)
            value.const_value = ir.tensor(weights[value.name], name=value.name)
            model.graph.register_initializer(value)
    return model


def kernel(rng: np.random.Generator, *shape: int, dtype: npt.DTypeLike = np.float32) -> Array:
    array: Array = rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
    return array.astype(dtype)


def network(
    rng: np.random.Generator, body: str = BEHIND_ADD, dtype: npt.DTypeLike = np.float32
) -> ir.Model:
    weights = {f"w{n}": kernel(rng, CHANNELS, CHANNELS, 3, 3, dtype=dtype) for n in (1, 2)}
    for number in (1, 2):
        weights |= parameters(rng, CHANNELS, number, dtype)
    kind = {np.float32: "float", np.float16: "float16"}[dtype]  # type: ignore[index]
    return model_of(body, {n: w for n, w in weights.items() if n in body}, kind)


def shrunk(model: ir.Model, *names: str, factor: float = 0.6, noise: float = 0.1) -> ir.Model:
    """A copy whose kernels are smaller and off a bit, as those of low rank are; none is marked."""
    copy, rng = clone(model), np.random.default_rng(3)
    for name in names:
        old = contents(copy, name)
        array = factor * old + noise * old.std() * rng.standard_normal(old.shape)
        copy.graph.initializers[name].const_value = ir.tensor(array.astype(old.dtype), name=name)
    return copy


def contents(model: ir.Model, name: str) -> Array:
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None
    return tensor.numpy()


def samples(rng: np.random.Generator, count: int = 9, dtype: npt.DTypeLike = np.float32) -> Data:
    return [
        {"x": (0.5 + rng.standard_normal((1 + n % 3, CHANNELS, 5, 4))).astype(dtype)}
        for n in range(count)
    ]


def seen(model: ir.Model, name: str, data: Sequence[dict[str, Array]]) -> Array:
    """(C, rows) of a value in uncut runs."""
    whole = clone(model)
    whole.graph.outputs.clear()
    whole.graph.outputs.extend(v for node in whole.graph for v in node.outputs if v.name == name)
    runner = Runner(whole, optimize=False)
    found = [np.moveaxis(np.asarray(runner(s)[name], np.float64), 1, 0) for s in data]
    return np.concatenate([one.reshape(len(one), -1) for one in found], axis=1)


def moments(model: ir.Model, name: str, data: Data) -> Array:
    """(2, C), mean and deviation of each channel."""
    rows = seen(model, name, data)
    return np.stack([rows.mean(axis=1), rows.std(axis=1)])


@pytest.mark.parametrize(("dtype", "exact"), [(np.float32, 1e-5), (np.float16, 5e-3)])
def test_means_and_variances_are_those_of_the_original_again(
    rng: np.random.Generator, dtype: npt.DTypeLike, exact: float
) -> None:
    model, data = network(rng, dtype=dtype), samples(rng, dtype=dtype)
    small = shrunk(model, "w1", "w2")
    shown, before = clone(small), digest(model)
    found = refit(model, small, data)
    assert digest(model) == before
    assert [(one.name, one.why_not) for one in found] == [("n1", ""), ("n2", "")]
    for one in found:
        wanted, now = moments(model, one.name, data), moments(small, one.name, data)
        assert np.abs(moments(shown, one.name, data) - wanted).max() > 0.1
        np.testing.assert_allclose(now, wanted, atol=exact)
        assert one.after < exact
        assert one.rows == seen(model, one.name, data).shape[1]
    first = moments(shown, "n1", data) - moments(model, "n1", data)
    share = np.linalg.norm(first) / np.linalg.norm(moments(model, "n1", data))
    assert found[0].before == pytest.approx(share, rel=1e-3 if dtype == np.float32 else 0.02)
    changed = {
        name for name in small.graph.initializers
        if not np.array_equal(contents(small, name), contents(shown, name))
    }  # fmt: skip
    assert changed == {"m1", "v1", "m2", "v2"}
    assert contents(small, "v1").dtype == dtype


def test_statistics_are_those_that_follow_from_uncut_runs(rng: np.random.Generator) -> None:
    model, data = network(rng), samples(rng)
    small = shrunk(model, "w1")
    mean, deviation = moments(model, "s1", data)
    mean_now, deviation_now = moments(small, "s1", data)
    refit(model, small, data)
    ratio = deviation_now / deviation
    var = (contents(model, "v1") + 0.01) * ratio**2 - 0.01
    np.testing.assert_allclose(contents(small, "v1"), var, rtol=1e-4)
    wanted = mean_now - ratio * (mean - contents(model, "m1"))
    np.testing.assert_allclose(contents(small, "m1"), wanted, atol=1e-4)


def test_layers_behind_see_the_new_statistics(rng: np.random.Generator) -> None:
    """Its bias is fitted to what enters after the statistics before it were changed."""
    body = BEHIND_ADD.replace("(r1, w2)", "(r1, w2, b)")
    weights = {f"w{n}": kernel(rng, CHANNELS, CHANNELS, 3, 3) for n in (1, 2)}
    weights |= parameters(rng, CHANNELS, 1) | parameters(rng, CHANNELS, 2)
    model = model_of(body, weights | {"b": np.zeros(CHANNELS, np.float32)})
    small, data = shrunk(model, "w1"), samples(rng)
    for node in small.graph:
        if node.outputs[0].name == "c2":
            mark(node, "factorize-something")
    found = refit(model, small, data)
    assert [one.name for one in found] == ["n1", "w2", "n2"]
    for one in found:
        # means are met: of the target of the layer, as it has a bias, and of what is normalized
        name = "s2" if one.name == "w2" else one.name
        met = moments(small, name, data)[0]
        np.testing.assert_allclose(met, moments(model, name, data)[0], atol=1e-5)


def test_two_axes_and_several_readers(rng: np.random.Generator) -> None:
    """Behind a Concat whose parts others read, too; one of them was not compressed."""
    body = """
        a = Gemm(x, w1) b = Gemm(x, w2) c = Concat<axis = 1>(a, b)
        n1 = BatchNormalization(c, g1, b1, m1, v1)
        d = Mul(c, n1)
        y = Relu(d)
    """
    weights = {"w1": kernel(rng, 4, 3), "w2": kernel(rng, 4, 5)} | parameters(rng, 8, 1)
    model = model_of(body, weights)
    data: Data = [{"x": rng.standard_normal((n, 4)).astype(np.float32)} for n in (30, 1, 7)]
    small = shrunk(model, "w1")
    (one,) = refit(model, small, data)
    assert one.rows == 38
    np.testing.assert_allclose(moments(small, "n1", data), moments(model, "n1", data), atol=1e-5)
    same = np.flatnonzero(contents(small, "v1") == contents(model, "v1"))
    assert set(same) >= {3, 4, 5, 6, 7}
    np.testing.assert_array_equal(contents(small, "m1")[3:], contents(model, "m1")[3:])


def test_nothing_changes_where_nothing_was_compressed_before(rng: np.random.Generator) -> None:
    model = network(rng)
    assert refit(model, clone(model), []) == []  # the data is not even looked at
    small = shrunk(model, "w2")
    assert [output for output, _ in norms(model, small)] == ["n2"]
    (one,) = refit(model, small, samples(rng))
    assert one.name == "n2"
    for name in ("m1", "v1"):
        assert np.array_equal(contents(small, name), contents(model, name))


def test_channels_that_do_not_vary_keep_theirs(rng: np.random.Generator) -> None:
    body = "c1 = Conv(x, w1) n1 = BatchNormalization(c1, g1, b1, m1, v1) y = Relu(n1)"
    model = network(rng, body)
    w = contents(model, "w1").copy()
    w[0] = 0
    model.graph.initializers["w1"].const_value = ir.tensor(w, name="w1")
    small = shrunk(model, "w1")
    array = contents(small, "w1").copy()
    array[1] = 0  # pruned away
    array[0] = 0.1  # nothing in the original
    small.graph.initializers["w1"].const_value = ir.tensor(array, name="w1")
    (one,) = refit(model, small, samples(rng))
    assert one.why_not == ""
    for name in ("m1", "v1"):
        old, new = contents(model, name), contents(small, name)
        np.testing.assert_array_equal(new == old, [True, True] + [False] * (CHANNELS - 2))


def test_a_channel_unlike_the_original_has_its_mean_back_alone(rng: np.random.Generator) -> None:
    body = "c1 = Conv(x, w1) n1 = BatchNormalization(c1, g1, b1, m1, v1) y = Relu(n1)"
    model, data = network(rng, body), samples(rng)
    small = shrunk(model, "w1", noise=0.0)
    array = contents(small, "w1").copy()
    array[2] = -array[2]
    small.graph.initializers["w1"].const_value = ir.tensor(array, name="w1")
    refit(model, small, data)
    kept = contents(small, "v1") == contents(model, "v1")
    assert np.flatnonzero(kept).tolist() == [2]
    wanted, now = moments(model, "n1", data), moments(small, "n1", data)
    np.testing.assert_allclose(now[0], wanted[0], atol=1e-5)
    np.testing.assert_allclose(now[1], np.where(kept, 0.6, 1.0) * wanted[1], rtol=1e-4)


def test_what_is_met_already_is_kept(rng: np.random.Generator) -> None:
    model, data = network(rng), samples(rng)
    small = clone(model)
    for name in ("w1", "w2"):  # other tensors, of the same contents
        array = contents(small, name).copy()
        small.graph.initializers[name].const_value = ir.tensor(array, name=name)
    before = digest(small)
    found = refit(model, small, data)
    assert [one.why_not for one in found] == ["no other statistics are closer"] * 2
    assert all(one.before == one.after < 1e-6 for one in found)
    assert digest(small) == before


REFUSED = {
    "others read its statistics, too": BEHIND_ADD.replace("g2, b2, m2, v2", "g2, b2, m1, v2"),
    "it runs in training mode": BEHIND_ADD.replace(
        "n2 = BatchNormalization(", "n2, k, l = BatchNormalization<training_mode = 1>("
    ),
    "its parameters are computed": BEHIND_ADD.replace(
        "n2 =", "z = ReduceMean<axes = [0, 2, 3], keepdims = 0>(s2) n2 ="
    ).replace("g2, b2, m2, v2", "g2, b2, z, v2"),
    "its statistics are no initializers": BEHIND_ADD.replace(
        "n2 =", "z = Constant<value_floats = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]>() n2 ="
    ).replace("g2, b2, m2, v2", "g2, b2, z, v2"),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_cannot_be_changed_says_why(rng: np.random.Generator, why: str) -> None:
    model = network(rng, REFUSED[why])
    small = shrunk(model, "w2")
    assert dict(norms(model, small)) == {"n2": why}
    before = digest(small)
    (one,) = refit(model, small, samples(rng))
    assert (one.name, one.why_not) == ("n2", why)
    assert np.isnan(one.before)
    assert digest(small) == before


def test_another_normalization_than_the_original_is_left_alone(rng: np.random.Generator) -> None:
    model = network(rng)
    small = shrunk(model, "w1", "v1")
    assert dict(norms(model, small))["n1"] == "the original computes it otherwise"


def test_scales_and_biases_may_be_shared(rng: np.random.Generator) -> None:
    model = network(rng, BEHIND_ADD.replace("g2, b2", "g1, b1"))
    data, small = samples(rng), shrunk(model, "w1")
    assert [one.why_not for one in refit(model, small, data)] == ["", ""]
    np.testing.assert_allclose(moments(small, "n2", data), moments(model, "n2", data), atol=1e-5)
