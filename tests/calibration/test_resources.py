"""Memory, files, progress, and what happens when something runs out."""

from __future__ import annotations

import errno
import gc
import tempfile
import tracemalloc

import numpy as np
import pytest

from onnxslim_rx import progress
from onnxslim_rx.calibration import spool
from onnxslim_rx.errors import InputError


def test_memory_is_bounded(rng, collect, layers_of, chain):
    width, depth = 384, 16
    model = chain(rng, depth, width)
    data = [{"x": rng.standard_normal((16, width)).astype(np.float32)} for _ in range(4)]
    layers = layers_of(model)
    gram = width * width * 8  # 1.2 MB each, 19 MB together
    collect(model, layers[:1], data)  # caches of the libraries are no memory of ours
    gc.collect()
    tracemalloc.start()
    try:
        statistics = collect(model, layers, data, memory_bytes=6 * gram)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(statistics) == depth
    # numpy tells tracemalloc what it takes; the weights belong to the model, before the start
    assert peak <= 6 * gram
    assert depth * gram > 2 * peak


def test_activations_that_are_not_finite_are_refused(
    rng, tmp_path, monkeypatch, collect, model_of, layers_of, noise
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    model = model_of(
        "float[N,6] x => float[N,5] y", "h = Log(x) y = MatMul(h, w)", w=noise(rng, 6, 5)
    )
    data = [{"x": np.ones((1, 6), np.float32)}, {"x": -np.ones((1, 6), np.float32)}]
    with pytest.raises(InputError, match="NaN or infinity at 'h' on calibration sample 1"):
        collect(model, layers_of(model), data)
    assert not list(tmp_path.iterdir())


def test_no_files_are_left(rng, tmp_path, monkeypatch, collect, layers_of, noise, chain):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    model = chain(rng, 3, 8)
    data = [{"x": noise(rng, 4, 8)}]
    statistics = collect(model, layers_of(model), data, memory_bytes=1)
    (folder,) = tmp_path.iterdir()  # that of the statistics; the frontiers' is gone
    assert list(folder.rglob("*.gram.npy"))
    assert not list(folder.rglob("*.frontier"))
    gram = statistics["w1:m1"].gram
    before = gram.copy()
    del statistics
    gc.collect()
    assert not list(tmp_path.iterdir())
    np.testing.assert_array_equal(gram, before)  # what was taken out stays


def test_frontiers_are_deleted_when_they_were_read(
    rng, tmp_path, monkeypatch, collect, layers_of, noise, chain
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    most = []
    write = spool.Spool.writer

    def counting(self, *args):
        most.append(len(list(tmp_path.rglob("*.frontier"))))
        return write(self, *args)

    monkeypatch.setattr(spool.Spool, "writer", counting)
    model = chain(rng, 8, 8)
    collect(model, layers_of(model), [{"x": noise(rng, 4, 8)}], memory_bytes=1)
    assert len(most) >= 8
    assert max(most) == 1


@pytest.mark.parametrize("failing", ["frontier", "gram"])
def test_a_full_disk_is_one_clear_line(
    rng, tmp_path, monkeypatch, failing, collect, layers_of, noise, chain
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def full(*args, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    if failing == "frontier":
        monkeypatch.setattr(spool, "_put", full)
    else:
        monkeypatch.setattr(np, "save", full)
    model = chain(rng, 3, 8)
    with pytest.raises(InputError, match="No space left on device; make space there"):
        collect(model, layers_of(model), [{"x": noise(rng, 4, 8)}], memory_bytes=1)
    assert not list(tmp_path.iterdir())


def test_progress_counts_every_step_of_every_sample(rng, collect, layers_of, noise, chain):
    class Listener:
        def task(self, title, total):
            self.title, self.total, self.done = title, total, 0
            return self

        def __enter__(self):
            return self.advance

        def __exit__(self, *_):
            return None

        def advance(self, steps):
            self.done += steps

    listener = Listener()
    model = chain(rng, 3, 8)
    with progress.listen(listener):
        collect(model, layers_of(model), [{"x": noise(rng, 4, 8)}] * 5, memory_bytes=1)
    assert listener.title == "calibrate"
    assert listener.done == listener.total
    assert listener.total % 5 == 0
    assert listener.total >= 15


def test_no_samples(rng, collect, layers_of, chain):
    model = chain(rng, 1, 8)
    with pytest.raises(InputError, match="no calibration samples"):
        collect(model, layers_of(model), [])
