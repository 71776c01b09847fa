"""A walk along two networks against running both uncut before every change of weights."""

from __future__ import annotations

import importlib
import tempfile
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from onnxslim_rx.calibration import Stop, spool, walk
from onnxslim_rx.calibration.pairing import PREFIX, pair_up
from onnxslim_rx.calibration.samples import Samples, held
from onnxslim_rx.errors import InputError
from onnxslim_rx.ir import digest, graphs_in
from onnxslim_rx.passbase import Layer
from onnxslim_rx.progress import listen
from onnxslim_rx.runtime import Runner

WIDTH = 6


def layer(model, output, weight_index=1):
    node = next(n for n in model.graph.all_nodes() if n.outputs[0].name == output)
    kind = "conv" if node.op_type == "Conv" else "linear"
    return Layer(output, node.op_type, kind, node, weight_index, 1 - weight_index)


def stop(model, output, target, *, weight_index=1, columns=WIDTH, changes=None):
    found = layer(model, output, weight_index)
    changes = (found.weight.name,) if changes is None else changes
    return Stop(f"at {output}", found, target, columns, weight_index == 0, changes)


def weights_of(model, names):
    return {name: model.graph.initializers[name].const_value.numpy() for name in names}


def with_weights(model, arrays):
    copy = model.clone()
    for name, array in arrays.items():
        copy.graph.initializers[name].const_value = ir.tensor(array, name=name)
    return copy


def seen(model, names, sample):
    """Values by name in an uncut run."""
    whole = model.clone()
    values = {value.name: value for node in whole.graph for value in node.outputs}
    made = [name for name in names if name in values]
    whole.graph.outputs.clear()
    whole.graph.outputs.extend(values[name] for name in made)
    return {**sample, **(Runner(whole, optimize=False)(sample) if made else {})}


def rows(array, transposed, mask=None):
    array = np.asarray(array, np.float64)
    array = np.moveaxis(array, -1, -2) if transposed else array
    return array[mask] if mask is not None else array.reshape(-1, array.shape[-1])


def naive(original, compressed, at, data):
    """The moments of a stop from uncut runs."""
    parts: list[Any] = []
    entering = at.layer.activation.name
    for sample in data:
        mask = sample["mask"].astype(bool) if "mask" in sample else None
        one = seen(original, [at.target], sample)
        other = seen(compressed, [entering, at.target], sample)
        arrays = (other[entering], one[at.target], other[at.target])
        parts.append([rows(array, at.transposed, mask) for array in arrays])
    x, wanted, now = (np.concatenate(each) for each in zip(*parts, strict=True))
    missing = wanted - now
    return x.T @ x, x.T @ missing, np.sum(missing**2), np.sum(wanted**2), len(x)


def assert_walk(original, compressed, stops, data, rng, memory_bytes=1 << 30):
    """Every stop finds what uncut runs with the changes so far give; returns the order."""
    changed: dict[str, Any] = {}
    order = []
    before = digest(original), digest(compressed)

    def react(at, moments):
        current = with_weights(compressed, changed)
        gram, cross, missing, wanted, count = naive(original, current, at, data)
        assert moments.rows == count
        scale = np.sqrt(np.diag(gram)[:, None] * max(missing, 1e-9))
        np.testing.assert_allclose(moments.gram, gram, atol=1e-5 * np.abs(gram).max())
        assert (np.abs(moments.cross - cross) <= 1e-4 * scale + 1e-6 * wanted).all()
        assert moments.missing == pytest.approx(missing, rel=1e-4, abs=1e-6 * wanted)
        assert moments.wanted == pytest.approx(wanted, rel=1e-5)
        assert missing > 1e-6 * wanted
        fresh = {
            name: array + 0.1 * rng.standard_normal(array.shape).astype(array.dtype)
            for name, array in weights_of(current, at.changes).items()
        }
        changed.update(fresh)
        order.append(at.name)
        return fresh

    reasons = walk(original, compressed, stops, data, react, memory_bytes=memory_bytes)
    assert (digest(original), digest(compressed)) == before
    assert reasons == {}
    assert sorted(order) == sorted(at.name for at in stops)
    return order


BLOCK = """
    q{i} = MatMul(h{i}, wq{i})
    k{i} = MatMul(h{i}, wk{i})
    g{i} = Mul(q{i}, k{i})
    m{i} = MatMul(g{i}, p{i})
    o{i} = MatMul(m{i}, r{i})
    b{i} = Add(o{i}, c{i})
    s{i} = Add(h{i}, b{i})
    h{j} = Tanh(s{i})
"""


def residual(rng, noise, model_of, depth):
    """A chain of blocks in which a product of two factors is added to what entered the block."""
    body = " ".join(BLOCK.format(i=i, j=i + 1) for i in range(depth))
    weights: dict[str, Any] = {}
    for i in range(depth):
        weights |= {f"{n}{i}": 2 * noise(rng, WIDTH, WIDTH) for n in ("wq", "wk", "p", "r")}
        weights[f"c{i}"] = noise(rng, WIDTH)
    return model_of(
        f"float[N,{WIDTH}] x => float[N,{WIDTH}] y", f"h0 = Sin(x) {body} y = Neg(h{depth})",
        **weights,
    )  # fmt: skip


def moved(rng, model):
    """A network with other weights."""
    arrays = weights_of(model, model.graph.initializers)
    return with_weights(
        model,
        {
            n: a + 0.2 * rng.standard_normal(a.shape).astype(a.dtype)
            for n, a in arrays.items()
            if a.dtype.kind == "f"
        },
    )


def stops_of(model, depth):
    found = []
    for i in range(depth):
        found += [stop(model, f"{n}{i}", f"{n}{i}") for n in ("q", "k")]
        found.append(stop(model, f"m{i}", f"s{i}", changes=(f"p{i}", f"r{i}")))
    return found


@pytest.fixture
def data(rng):
    return [{"x": rng.standard_normal((n, WIDTH)).astype(np.float32)} for n in (30, 7, 600)]


@pytest.mark.parametrize("memory_bytes", [80_000, 1 << 30])
def test_every_stop_sees_the_changes_of_those_before(rng, noise, model_of, data, memory_bytes):
    model = residual(rng, noise, model_of, 2)
    small = moved(rng, model)
    order = assert_walk(model, small, stops_of(small, 2), data, rng, memory_bytes)
    assert order == [f"at {n}{i}" for i in range(2) for n in "qkm"]


def test_stops_far_apart_are_cut_in_between(monkeypatch, rng, noise, model_of, data):
    model = residual(rng, noise, model_of, 9)
    small = moved(rng, model)
    ends = [at for at in stops_of(small, 9) if at.name in ("at m1", "at m8")]
    steps = counted_steps(monkeypatch)
    assert_walk(model, small, ends, data, rng, 80_000)
    assert len(steps[0]) > 2


def recording(calls):
    """Notes at which stop it is asked, and changes nothing."""

    def react(at, moments):
        calls.append(at.name)
        return {}

    return react


def counted_steps(monkeypatch):
    module = importlib.import_module("onnxslim_rx.calibration.tandem")
    plan, found = module.plan_steps, []

    def counting(*args):
        found.append(plan(*args))
        return found[-1]

    monkeypatch.setattr(module, "plan_steps", counting)
    return found


def test_nothing_runs_twice_but_what_changes(monkeypatch, rng, noise, model_of, data):
    """Siblings share a step; both networks run once, and from the layer to its target again."""
    model = residual(rng, noise, model_of, 2)
    steps = counted_steps(monkeypatch)
    small = moved(rng, model)
    walk(model, small, stops_of(small, 2), data, lambda *_: {})
    assert [len(step.measures) for step in steps[0]] == [2, 1] * 2
    times: dict[str, int] = {}
    for step in steps[0]:
        for node in step.nodes:
            times[node.outputs[0].name] = times.get(node.outputs[0].name, 0) + 1
    again = {name.removeprefix(PREFIX)[0] for name, count in times.items() if count > 1}
    assert again == set("qkmobs")
    assert max(times.values()) == 2
    assert all(count == 1 for name, count in times.items() if not name.startswith(PREFIX))


def test_sums_of_two_layers_are_corrected_one_after_the_other(rng, noise, model_of, data):
    """Both correct the same error: the second must see what the first did."""
    model = model_of(
        f"float[N,{WIDTH}] x => float[N,{WIDTH}] y",
        "a = MatMul(x, w1) b = MatMul(x, w2) s = Add(a, b) y = Tanh(s)",
        w1=noise(rng, WIDTH, WIDTH), w2=noise(rng, WIDTH, WIDTH),
    )  # fmt: skip
    small = moved(rng, model)
    stops = [stop(small, "a", "s"), stop(small, "b", "s")]
    assert assert_walk(model, small, stops, data, rng) == ["at a", "at b"]


def test_what_only_the_last_target_reads_waits_on_disk(rng, noise, model_of, data):
    model = model_of(
        f"float[N,{WIDTH}] x => float[N,{WIDTH}] y",
        "h = Sin(x) g = Cos(h) a = MatMul(g, w1) t = Tanh(a) b = MatMul(t, w2) y = Add(b, h)",
        w1=noise(rng, WIDTH, WIDTH), w2=noise(rng, WIDTH, WIDTH),
    )  # fmt: skip
    small = moved(rng, model)
    stops = [stop(small, "a", "a"), stop(small, "b", "y")]
    assert assert_walk(model, small, stops, data, rng) == ["at a", "at b"]


def test_tied_weights_transposes_masks_and_functions(rng, noise, model_of):
    model = model_of(
        "float[N,S,6] x, int64[N,S] mask => float[N,S,6] y",
        """
            h = Mul(x, factor)
            t = Transpose<perm=[0,2,1]>(h)
            l = MatMul(w1, t)
            u = Transpose<perm=[0,2,1]>(l)
            g = f.twice(u)
            a = MatMul(g, w2)
            v = Tanh(a)
            b = MatMul(v, w2)
            y = Add(b, h)
        """,
        '<domain: "f", opset_import: ["": 17]> twice (a) => (r) { r = Add(a, a) }',
        factor=np.array(2, np.float32), w1=noise(rng, 6, 6), w2=noise(rng, 6, 6),
    )  # fmt: skip
    data = [
        {"x": noise(rng, 2, 4, 6), "mask": np.array([[1, 1, 1, 0], [1, 0, 0, 0]])},
        {"x": noise(rng, 1, 3, 6), "mask": np.array([[1, 1, 1]])},
    ]
    # what changes with the first reaches the second as well
    small = moved(rng, model)
    stops = [stop(small, "l", "l", weight_index=0), stop(small, "a", "a")]

    def at_rows(at, moments):
        found.append((at.name, moments.rows))
        return {}

    found: list[tuple[str, int]] = []
    walk(model, small, stops, data, at_rows)
    assert found == [("at l", 7), ("at a", 7)]
    for sample in data:
        sample["mask"][:] = 1
        del sample["mask"]
    free = model.clone()
    free.graph.inputs.remove(free.graph.inputs[1])
    small = moved(rng, free)
    stops = [stop(small, "l", "l", weight_index=0), stop(small, "a", "a")]
    assert_walk(free, small, stops, data, rng)


def test_rows_of_a_convolution_are_positions(rng, noise, model_of):
    model = model_of(
        "float[N,4,5,7] x => float[N,3,3,4] y",
        "c = Conv<kernel_shape=[1,1], strides=[2,2]>(x, w) y = Add(c, b)",
        w=noise(rng, 3, 4, 1, 1), b=noise(rng, 1, 3, 1, 1),
    )  # fmt: skip
    small = moved(rng, model)
    data = [{"x": noise(rng, n, 4, 5, 7)} for n in (1, 2)]
    at = stop(small, "c", "y", columns=3, changes=("w",))
    found = []

    def react(_, moments):
        found.append(moments)
        return {}

    assert walk(model, small, [at], data, react) == {}
    x = np.concatenate([np.moveaxis(s["x"][:, :, ::2, ::2], 1, -1).reshape(-1, 4) for s in data])
    y = [
        np.concatenate([np.moveaxis(Runner(m)(s)["y"], 1, -1).reshape(-1, 3) for s in data])
        for m in (model, small)
    ]
    assert found[0].rows == len(x) == 36
    np.testing.assert_allclose(found[0].gram, x.T.astype(float) @ x, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found[0].cross, x.T.astype(float) @ (y[0] - y[1]), atol=1e-5)


def test_few_tensors_wait_on_disk_and_none_is_left(
    monkeypatch, tmp_path, rng, noise, model_of, data
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    live = []
    write = spool.Spool.writer

    def counting(self, names, stack):
        live.append(set(self.files) | set(names))
        return write(self, names, stack)

    monkeypatch.setattr(spool.Spool, "writer", counting)
    model = residual(rng, noise, model_of, 4)
    small = moved(rng, model)
    walk(model, small, stops_of(small, 4), data, lambda *_: {})
    assert len(live) == 8
    assert max(map(len, live)) <= 8
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_measured_says_why(rng, noise, model_of, data):
    model = model_of(
        f"float[N,{WIDTH}] x, bool c => float[N,{WIDTH}] y",
        """
            b = If (c) <
                then_branch = t () => (float[N,6] p) { p = Mul(x, x) },
                else_branch = e () => (float[N,6] r) { r = MatMul(x, w1) }
            >
            d = MatMul(b, w2)
            s = Concat<axis=0>(d, d)
            n = Log(s)
            e = MatMul(s, w3)
            y = Neg(e)
        """,
        **{f"w{i}": noise(rng, WIDTH, WIDTH) for i in (1, 2, 3)},
    )
    data = [{**sample, "c": np.array(True)} for sample in data]
    small = moved(rng, model)
    stops = [
        Stop("in", layer(small, "r"), "b", WIDTH, False, ("w1",)),
        stop(small, "d", "s"),
        Stop("nan", layer(small, "e"), "n", WIDTH, False, ("w3",)),
        stop(small, "e", "y"),
    ]
    calls: list[str] = []
    reasons = walk(model, small, stops, data, recording(calls))
    assert calls == ["at e"]
    assert reasons == {
        "in": "it is no linear layer of the main graph",
        "at d": "30 rows enter and 60 leave on calibration sample 0",
        "nan": "NaN or infinity is computed there",
    }
    reasons = walk(model, small, stops[3:], data, lambda *_: {}, memory_bytes=10_000)
    assert reasons == {"at e": "its moments take 0 MiB, above 0"}


def test_a_stop_where_nothing_can_wait_is_left_out(rng, noise, model_of, data):
    """A sequence lives across the second stop; the walk starts again without it."""
    model = model_of(
        f"float[N,{WIDTH}] x => float[N,{WIDTH}] y",
        """
            a = MatMul(x, w1)
            s = SplitToSequence(a)
            m = SequenceAt(s, zero)
            b = MatMul(m, w2)
            n = SequenceAt(s, one)
            c = Add(b, n)
            d = MatMul(c, w3)
            y = Neg(d)
        """,
        zero=np.array(0), one=np.array(1), **{f"w{i}": noise(rng, WIDTH, WIDTH) for i in (1, 2, 3)},
    )  # fmt: skip
    small = moved(rng, model)
    stops = [stop(small, "a", "a"), stop(small, "b", "b"), stop(small, "d", "y")]
    calls: list[str] = []
    reasons = walk(model, small, stops, data, recording(calls))
    assert reasons == {"at b": "what is computed there cannot wait on disk"}
    assert calls[-2:] == ["at a", "at d"]


def test_networks_that_do_not_belong_together_are_refused(rng, model_of, noise, data):
    w = noise(rng, 6, 6)
    one = model_of("float[N,6] x => float[N,6] y", "y = MatMul(x, w)", w=w)
    other = model_of("float[N,6] z => float[N,6] y", "y = MatMul(z, w)", w=w)
    older = one.clone()
    older.graph.opset_imports[""] = 13
    for second, message in (
        (other, "only one of the networks has the input 'z'; expected 'x'"),
        (older, "versions 17 and 13 of the operators of ai.onnx"),
    ):
        with pytest.raises(InputError, match=message):
            walk(one, second, [stop(second, "y", "y")], data, lambda *_: {})
    with pytest.raises(InputError, match="no calibration samples"):
        walk(one, one, [stop(one, "y", "y")], [], lambda *_: {})


def test_progress_counts_every_step_of_every_sample(rng, noise, model_of, data):
    class Listener:
        def task(self, title, total):
            self.title, self.total, self.done = title, total, 0
            return self

        def __enter__(self):
            return self.advance

        def advance(self, steps):
            self.done += steps

        def __exit__(self, *_):
            pass

    listener = Listener()
    model = residual(rng, noise, model_of, 2)
    small = moved(rng, model)
    with listen(listener):
        walk(model, small, stops_of(small, 2), data, lambda *_: {})
    assert (listener.title, listener.done) == ("refit", listener.total)
    assert listener.total >= 4 * len(data)


def test_samples_are_held_where_they_fit(data):
    reads = []

    def get(number):
        reads.append(number)
        return data[number]

    lazy = Samples(get, range(3))
    size = sum(sample["x"].nbytes for sample in data)
    assert held(lazy, size - 1) is lazy
    kept = held(lazy, size)
    assert reads == [0, 1, 2, 0, 1, 2]
    for one, other in zip(kept, data, strict=True):
        assert one["x"] is not other["x"]
        np.testing.assert_array_equal(one["x"], other["x"])


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
