"""Every family's cases on an OpenCL device (PoCL), with sampled corners of the parameters."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest

from tools.kernel_case import Case, cases, module, run
from tools.kernel_families import families, family

pyopencl = pytest.importorskip("pyopencl")

FAMILIES = [one.name for one in families()]
CORNERS = 6  # a family: a build takes PoCL a second or two


def opened(*options: str):
    from tools.kernel_run import Device

    try:
        return Device(options=options)
    except pyopencl.Error as error:
        pytest.skip(f"no OpenCL device: {error}")


@pytest.fixture(scope="session")
def device():
    return opened()


@pytest.fixture(scope="session")
def quick_device():
    """Builds four times as fast: what is tested here is the source, not PoCL's optimiser."""
    return opened("-cl-opt-disable")


def corners(name: str) -> Iterator[Case]:
    """Cases with legal parameters at random: there are too many to take all, the seed is fixed."""
    known, rng = family(name), np.random.default_rng(len(name))
    spaces = {one: each["values"] for one, each in known.table["parameters"].items()}
    tried = itertools.islice(itertools.cycle(module(name).TRIED), CORNERS)
    for options, sizes in tried:
        for _ in range(10_000):
            drawn = {one: int(rng.choice(space)) for one, space in spaces.items()}
            values = {**known.defaults, **options, **drawn}
            if known.legal(values):
                yield module(name).make(values, sizes)
                break


@pytest.mark.parametrize("name", FAMILIES)
def test_cases_lie_within_the_bound(quick_device, name):
    for case in cases(name):
        found, _ = run(case, quick_device.launch)
        assert case.worst(found) <= 1, (case.name, dict(case.values))


@pytest.mark.parametrize("name", FAMILIES)
def test_optimised_builds_lie_within_the_bound(device, name):
    for case in itertools.islice(cases(name), 1, 3):
        found, _ = run(case, device.launch)
        assert case.worst(found) <= 1, (case.name, dict(case.values))


@pytest.mark.parametrize("name", FAMILIES)
def test_corners_of_the_parameters_lie_within_the_bound(quick_device, name):
    for case in corners(name):
        found, _ = run(case, quick_device.launch)
        assert case.worst(found) <= 1, (case.name, dict(case.values))
