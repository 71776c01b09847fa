"""Every family's cases on an OpenCL device (PoCL), with sampled corners of the parameters."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest

from tools.kernel_case import Case, cases, module, run
from tools.kernel_families import Family, families, family

pyopencl = pytest.importorskip("pyopencl")

FAMILIES = [one.name for one in families()]
CORNERS = 12  # a family, sampled once for all


@pytest.fixture(scope="session")
def device():
    from tools.kernel_run import Device

    try:
        return Device()
    except pyopencl.Error as error:
        pytest.skip(f"no OpenCL device: {error}")


def sampled(known: Family, options: dict[str, int], many: int) -> Iterator[dict[str, int]]:
    """Legal parameters: random draws with a fixed seed, as there are too many to list."""
    rng = np.random.default_rng(len(known.name))
    spaces = {name: one["values"] for name, one in known.table["parameters"].items()}
    found = 0
    for _ in range(100_000):
        drawn = {name: int(rng.choice(space)) for name, space in spaces.items()}
        values = {**known.defaults, **options, **drawn}
        if known.legal(values):
            yield values
            found += 1
        if found == many:
            return


def corners(name: str) -> Iterator[Case]:
    known, tried = family(name), module(name).TRIED
    for number, (options, sizes) in enumerate(itertools.islice(itertools.cycle(tried), CORNERS)):
        for values in itertools.islice(sampled(known, dict(options), number + 1), number, None):
            yield module(name).make(values, sizes)


@pytest.mark.parametrize("name", FAMILIES)
def test_cases_lie_within_the_bound(device, name):
    for case in cases(name):
        found, _ = run(case, device.launch)
        assert case.worst(found) <= 1, (case.name, dict(case.values))


@pytest.mark.parametrize("name", FAMILIES)
def test_corners_of_the_parameters_lie_within_the_bound(device, name):
    for case in corners(name):
        found, _ = run(case, device.launch)
        assert case.worst(found) <= 1, (case.name, dict(case.values))
