"""Many runs, many sessions and many threads: nothing grows, and every result stays what it was."""

from __future__ import annotations

import ctypes
import gc
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.native import nodes
from tests.native.operators import Array, need

BATCHES = 10
PAGE = os.sysconf("SC_PAGE_SIZE")
THREADS = 8
LATE = 4 << 20
"""Bytes that may come once: arenas of malloc for threads of a driver that were idle before."""


@pytest.fixture(params=nodes.DEVICES)
def device(request) -> str:
    need(request.param)
    return str(request.param)


def private() -> int:
    """Bytes of memory of this process that no file backs, without what malloc keeps free."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def growth(batch: Callable[[], None]) -> tuple[float, int]:
    """Median growth of memory in a batch, and the growth in all of them, after two to warm up.

    What leaks makes every batch grow alike. A thread that comes late to an arena of malloc, or a
    table that doubles, grows one batch, which the median does not see.
    """
    if not Path("/proc/self/status").exists():
        pytest.skip("memory is read from /proc")
    batch()
    batch()
    seen = [private()]
    for _ in range(BATCHES):
        batch()
        seen.append(private())
    return float(np.median(np.diff(seen))), seen[-1] - seen[0]


@pytest.mark.parametrize("op", nodes.MAKERS)
def test_runs_do_not_grow(rng, device, op):
    """10,000 runs of a session of QuantMatMul, 3,000 of the others.

    Memory comes in pages, so the median of no growth is below one page: 4 and 13 bytes a run, less
    than the smallest object that malloc gives (32).
    """
    node = nodes.MAKERS[op](rng)
    opened = nodes.session(node, device)
    given = node.given
    first = nodes.run(opened, given)

    def batch() -> None:
        for _ in range(1000 if op == "QuantMatMul" else 300):
            opened.run(None, {node.fed: given})

    each, all_ = growth(batch)
    assert each < PAGE
    assert all_ < LATE
    assert nodes.run(opened, given).tobytes() == first.tobytes()


def test_runs_of_many_shapes_do_not_grow(rng, device):
    """1,200 runs of 150 shapes: plans are kept in a bounded number, blocks of memory too."""
    node = nodes.product(rng)
    opened = nodes.session(node, device)
    given = rng.standard_normal((150, 40)).astype(np.float32)
    rows = iter(range(10**6))

    def batch() -> None:
        for _ in range(100):
            opened.run(None, {"A": given[: 1 + next(rows) * 7 % 150]})

    each, all_ = growth(batch)
    assert each < 2 * PAGE
    assert all_ < LATE


def test_sessions_do_not_grow(rng, device):
    """300 sessions made, run and dropped, 60 of each operator; 6 of each in a batch.

    The bound is 400 bytes a session: each has a kernel, a region and a weight of more than that.
    """
    made = [(node.model(), node) for node in (make(rng) for make in nodes.MAKERS.values())]

    def batch() -> None:
        for model, node in made * 6:
            nodes.run(nodes.session(model, device), node.given)

    each, all_ = growth(batch)
    assert each <= 3 * PAGE
    assert all_ < LATE


@pytest.mark.parametrize("op", nodes.MAKERS)
def test_threads_share_a_session(rng, device, op):
    """Each has its own input, of its own shape: 8 plans and workspaces at once."""
    node = nodes.MAKERS[op](rng)
    opened = nodes.session(node, device, threads=2)
    cuts = [np.concatenate([node.given] * (1 + i % 4)) for i in range(THREADS)]
    if node.given.dtype.kind == "f":
        cuts = [rng.standard_normal(cut.shape).astype(cut.dtype) for cut in cuts]
    alone = [nodes.run(opened, cut) for cut in cuts]
    for found, cut in zip(alone, cuts, strict=True):
        node.check(found, cut)
    together = threading.Barrier(THREADS)

    def work(i: int) -> bool:
        together.wait()
        wanted = alone[i].tobytes()
        return all(nodes.run(opened, cuts[i]).tobytes() == wanted for _ in range(30))

    with ThreadPoolExecutor(THREADS) as pool:
        assert all(pool.map(work, range(THREADS)))


def test_sessions_in_threads(rng, device):
    """8 at once, of all operators; each is made, run and dropped 4 times."""
    made = [nodes.MAKERS[op](rng) for op in nodes.MAKERS]
    made = [made[i % len(made)] for i in range(THREADS)]
    models = [node.model() for node in made]
    together = threading.Barrier(THREADS)

    def work(i: int) -> list[Array]:
        together.wait()
        found = []
        for _ in range(4):
            opened = nodes.session(models[i], device, threads=2)
            found += [nodes.run(opened, made[i].given) for _ in range(5)]
        return found

    with ThreadPoolExecutor(THREADS) as pool:
        results = list(pool.map(work, range(THREADS)))
    for node, found in zip(made, results, strict=True):
        node.check(found[0], node.given)
        assert len({one.tobytes() for one in found}) == 1
