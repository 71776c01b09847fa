"""Moments between two networks against numpy in float64 on two uncut runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from onnxslim_rx.calibration import collect_cross, observers, spool
from onnxslim_rx.calibration.pairing import PREFIX, pair_up
from onnxslim_rx.errors import InputError
from onnxslim_rx.ir import digest, graphs_in
from onnxslim_rx.passbase import Layer

DEPTH, WIDTH = 5, 20


def layer(model, output, weight_index=1):
    node = next(n for n in model.graph.all_nodes() if n.outputs[0].name == output)
    kinds = {"MatMul": "linear", "Gemm": "linear", "Conv": "conv"}
    return Layer(output, node.op_type, kinds[node.op_type], node, weight_index, 1 - weight_index)


def factorized(model, rank, *outputs):
    """A copy in which some MatMuls are two of low rank."""
    copy = model.clone()
    for output in outputs:
        node = layer(copy, output).node
        u, s, vt = np.linalg.svd(node.inputs[1].const_value.numpy(), full_matrices=False)
        values = []
        for name, array in (("p", u[:, :rank] * s[:rank]), ("q", vt[:rank])):
            tensor = ir.tensor(array.astype(np.float32), name=f"{output}.{name}")
            values.append(ir.Value(name=tensor.name, const_value=tensor))
            copy.graph.register_initializer(values[-1])
        tape = ir.tape.Tape()
        inner = tape.op("MatMul", [node.inputs[0], values[0]], output=ir.Value(name=f"{output}.x"))
        outer = tape.op("MatMul", [inner, values[1]])
        ir.convenience.replace_nodes_and_values(
            copy.graph, node, [node], list(tape.nodes), node.outputs, [outer]
        )
    return copy


@pytest.fixture
def model(rng, chain):
    return chain(rng, DEPTH, WIDTH)


@pytest.fixture
def data(rng):
    return [{"x": rng.standard_normal((n, WIDTH)).astype(np.float32)} for n in (300, 7, 400)]


def stacked(activations, model, found, data):
    return np.concatenate(activations(model, [found], data)[found.name]).astype(np.float64)


def assert_close(found, expected, x, z):
    """Rounding of activations a few layers deep, in float32."""
    assert found.dtype == np.float64
    scale = np.linalg.norm(x, axis=0)[:, None] * np.linalg.norm(z, axis=0)
    assert (np.abs(found - expected) <= 1e-5 * scale).all()


@pytest.mark.parametrize("memory_bytes", [1, 60_000, 1 << 30])
@pytest.mark.parametrize("height", [7, 512])
def test_a_network_and_its_compressed_version(
    monkeypatch, memory_bytes, height, model, data, activations
):
    monkeypatch.setattr(observers, "_LEAST_HEIGHT", height)
    small = factorized(model, 4, "m1", "m3")
    before = digest(model), digest(small)
    pairs = {f"m{i}": (layer(model, f"m{i}"), layer(small, f"m{i}")) for i in (4, 0, 2)}
    pairs["m3"] = (layer(model, "m3"), layer(small, "m3.x"))
    found: Any = collect_cross(model, small, pairs, data, memory_bytes=memory_bytes)
    assert set(found) == set(pairs)
    for name, (first, second) in pairs.items():
        z, x = (stacked(activations, *one, data) for one in ((model, first), (small, second)))
        assert found[name].rows == len(x) == 707
        assert_close(found[name].gram, x.T @ x, x, x)
        assert_close(found[name].cross, x.T @ z, x, z)
        np.testing.assert_array_equal(found[name].gram, found[name].gram.T)
        assert not np.allclose(found[name].cross, found[name].gram) or name == "m0"
        np.testing.assert_allclose(found[name].mean, x.mean(axis=0), atol=1e-5)
    assert (digest(model), digest(small)) == before
    assert model.graph.initializers["w1"].const_value.name == "w1"


def test_the_refit_comes_closest_to_the_original(rng, model, data, activations):
    small = factorized(model, 6, "m0", "m1", "m2")
    pairs = {"m3": (layer(model, "m3"), layer(small, "m3"))}
    found: Any = collect_cross(model, small, pairs, data)["m3"]
    w = model.graph.initializers["w3"].const_value.numpy().astype(np.float64)
    refit = np.linalg.solve(found.gram, found.cross @ w)
    z = stacked(activations, model, layer(model, "m3"), data)
    x = stacked(activations, small, layer(small, "m3"), data)
    best = np.linalg.lstsq(x, z @ w, rcond=None)[0]
    np.testing.assert_allclose(refit, best, atol=1e-4 * np.abs(best).max())
    assert np.linalg.norm(x @ refit - z @ w) < 0.9 * np.linalg.norm(x @ w - z @ w)


def test_networks_run_side_by_side(monkeypatch, model, data):
    """Not one after the other: that would keep all activations of the first."""
    small = factorized(model, 4, "m1")
    live = []
    write = spool.Spool.writer

    def counting(self, names, stack):
        names = list(names)
        live.append(set(self.files) | set(names))
        return write(self, names, stack)

    monkeypatch.setattr(spool.Spool, "writer", counting)
    pairs = {f"m{i}": (layer(model, f"m{i}"), layer(small, f"m{i}")) for i in (0, 2, 3, 4)}
    collect_cross(model, small, pairs, data, memory_bytes=1)
    assert len(live) > DEPTH
    assert max(map(len, live)) <= 3
    assert any(name.startswith(PREFIX) for names in live for name in names)


def test_branches_functions_masks_and_transposes(rng, model_of, activations, noise):
    def network(scale):
        return model_of(
            "float[N,S,6] x, int64[N,S] mask, bool c => float[N,S,5] y",
            """
            h = Mul(x, factor)
            b = If (c) <
                then_branch = t () => (float[N,S,6] p) { q = Sin(h) p = Mul(q, factor) },
                else_branch = e () => (float[N,S,6] r) { r = MatMul(h, w1) }
            >
            g = f.twice(b)
            y = MatMul(g, w2)
            t = Transpose<perm=[0,2,1]>(g)
            l = MatMul(w3, t)
            """,
            f'<domain: "f", opset_import: ["": 17]> twice (a) => (r) {{ k = Constant<value ='
            f" float {{{scale}}}>() r = Mul(a, k) }}",
            factor=np.array(scale, np.float32),
            w1=weights[0], w2=weights[1], w3=weights[2],
        )  # fmt: skip

    weights = [noise(rng, 6, 6), noise(rng, 6, 5), noise(rng, 3, 6)]
    one, other = network(2), network(3)
    data = [
        {
            "x": rng.standard_normal((2, 4, 6)).astype(np.float32),
            "mask": rng.integers(0, 2, (2, 4)),
            "c": np.array(number % 3 == 0),
        }
        for number in range(12)
    ]
    pairs = {
        "y": (layer(one, "y"), layer(other, "y")),
        "left": (layer(one, "y"), layer(other, "l", 0)),
        "branch": (layer(one, "r"), layer(other, "r")),
    }
    for memory_bytes in (1, 1 << 30):
        found = collect_cross(one, other, pairs, data, memory_bytes=memory_bytes)
        z, x = (activations(m, [layer(m, "y")], data)["y"] for m in (one, other))
        masks = [sample["mask"].astype(bool) for sample in data]
        rows = [
            np.concatenate([a[m] for a, m in zip(each, masks, strict=True)]).astype(np.float64)
            for each in (x, z)
        ]
        assert found["y"].rows == found["left"].rows == len(rows[0])
        assert_close(found["left"].cross, rows[0].T @ rows[1], *rows)
        assert_close(found["y"].cross, rows[0].T @ rows[1], *rows)
        inputs = np.concatenate(
            [s["x"][m] for s, m in zip(data, masks, strict=True) if not s["c"]]
        ).astype(np.float64)
        assert_close(found["branch"].gram, 9 * inputs.T @ inputs, 3 * inputs, 3 * inputs)
        assert_close(found["branch"].cross, 6 * inputs.T @ inputs, 3 * inputs, 2 * inputs)
        assert list(found.reasons) == []


def test_rows_that_do_not_match_are_refused(rng, model_of, noise):
    model = model_of(
        "float[N,6] x => float[N,5] y, float[M,5] z",
        "y = MatMul(x, w) s = Concat<axis=0>(x, x) z = MatMul(s, w)",
        w=noise(rng, 6, 5),
    )
    pairs = {"y": (layer(model, "y"), layer(model, "z"))}
    with pytest.raises(InputError, match="have 6 and 3 rows on calibration sample 0"):
        collect_cross(model, model, pairs, [{"x": noise(rng, 3, 6)}])


def test_layers_without_rows_say_why(rng, model_of, noise):
    model = model_of(
        "float[N,6,4] x => float[N,6,4] y, float[N,6,5] z",
        "y = Conv<pads=[1,1]>(x, k) z = MatMul(x, w)",
        k=noise(rng, 6, 6, 3),
        w=noise(rng, 4, 5),
    )
    pairs = {
        "conv": (layer(model, "y"), layer(model, "y")),
        "z": (layer(model, "z"), layer(model, "z")),
    }
    found = collect_cross(model, model, pairs, [{"x": noise(rng, 3, 6, 4)}])
    assert found.reasons == {"conv": "layers of the kind 'conv' have no rows to compare"}
    # both are the same input of the model
    np.testing.assert_array_equal(found["z"].gram, found["z"].cross)


def test_networks_that_do_not_belong_together_are_refused(rng, model_of, noise):
    w = noise(rng, 6, 5)
    one = model_of("float[N,6] x => float[N,5] y", "y = MatMul(x, w)", w=w)
    other = model_of("float[N,6] z => float[N,5] y", "y = MatMul(z, w)", w=w)
    older = model_of("float[N,6] x => float[N,5] y", "y = MatMul(x, w)", w=w)
    older.graph.opset_imports[""] = 13
    for second, message in (
        (other, "only one of the networks has the input 'z'; expected 'x'"),
        (older, "versions 17 and 13 of the operators of ai.onnx"),
    ):
        with pytest.raises(InputError, match=message):
            collect_cross(
                one, second, {"y": (layer(one, "y"), layer(second, "y"))}, [{"x": noise(rng, 3, 6)}]
            )


def test_the_cache_knows_both_networks(tmp_path, model, data):
    def measured(second):
        pairs = {"m2": (layer(model, "m2"), layer(second, "m2"))}
        return collect_cross(model, second, pairs, data, cache=tmp_path)["m2"].cross

    small, smaller = factorized(model, 6, "m1"), factorized(model, 3, "m1")
    first = measured(small)
    assert len(list(tmp_path.iterdir())) == 1
    np.testing.assert_array_equal(measured(small), first)
    assert len(list(tmp_path.iterdir())) == 1
    assert not np.array_equal(measured(smaller), first)
    assert len(list(tmp_path.iterdir())) == 2


def test_no_name_is_there_twice(rng, model_of, noise):
    """Values inside bodies, too: some tools take equal names for equal values."""
    text = """
        h = Neg(x)
        b = If (c) <
            then_branch = t () => (float[N,6] p) { k = Neg(h) p = Mul(h, k) },
            else_branch = e () => (float[N,6] r) { r = MatMul(h, w) }
        >
        y = MatMul(b, w)
    """
    model = model_of("float[N,6] x, bool c => float[N,6] y", text, w=noise(rng, 6, 6))
    joined = pair_up(model, model, [(["b"], ["b"])]).model
    names = [
        value.name
        for graph in graphs_in(joined.graph)
        for value in [
            *graph.inputs, *graph.initializers.values(), *(o for n in graph for o in n.outputs)
        ]
    ]  # fmt: skip
    assert len(names) == len(set(names))
    first, second = (joined.graph.initializers[n] for n in ("w", PREFIX + "w"))
    assert first.const_value is second.const_value
