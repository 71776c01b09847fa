"""The tuner: what it searches, checks, keeps and writes; on PoCL where that is installed."""

from __future__ import annotations

import datetime
import itertools
import json
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxslim_rx.errors import InputError
from tools import tune_search
from tools.kernel_case import Case, Launch, Timing
from tools.kernel_families import Family, families
from tools.tune_results import Journal, entry, publish
from tools.tune_search import Group, Limits, Outcome, Rig, groups, search

TABLE: dict[str, Any] = {
    "family": "toy", "source": "toy.cl", "sizes": ["N"],
    "options": {"REAL_BITS": [32, 16], "ACT": [0, 1]},
    "parameters": {
        "A": {"values": [1, 2, 4, 8], "default": 1}, "B": {"values": [1, 2, 4, 8], "default": 1},
    },
    "constraints": ["A * B <= 32"],
    "classes": [{"name": "small", "when": "N < 100"}, {"name": "any", "when": "1"}],
    "kernels": {
        "toy": {"global": ["N", "1", "1"], "local": ["A", "B", "1"], "local_bytes": "A * 8"}
    },
}  # fmt: skip
TARGET = {"vendor": "V", "architecture": "", "device": "D", "driver": "1"}
DAY = datetime.date(2026, 11, 22)


class Toys:
    """Cases of the family: y = 2 x; `wrong` says for which parameters the kernel errs."""

    TRIED = ()
    TIMED = (
        Timing("one", {}, {"N": 10}),
        Timing("two", {"ACT": 1}, {"N": 20}),
        Timing("large", {}, {"N": 1000}),
        Timing("half", {"REAL_BITS": 16}, {"N": 30}),
    )

    @staticmethod
    def make(values: Any, sizes: Any) -> Case:
        x = np.arange(sizes["N"], dtype=np.float32)
        return Case(
            "toy", "toy", values, sizes, {"x": x, "y": np.full_like(x, np.nan)},
            (Launch("toy", ("x", "y")),), lambda: {"y": (2.0 * x, 1e-6)}, 1, 1,
        )  # fmt: skip


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Family:
    (tmp_path / "toy.cl").write_text("// nothing")
    made = Family("toy", TABLE, tmp_path)
    monkeypatch.setattr(tune_search, "module", lambda name: Toys)
    monkeypatch.setattr("tools.kernel_case.family", lambda name: made)
    return made


class Clumsy(Exception):
    """What a device raises."""


def rig(group: Group, cost: Callable[[Any], float], limits: Limits | None = None) -> Rig:
    """A device on which launches take `cost` of their parameters; below 0 they go wrong."""

    def launch(
        family: Any, kernel: str, values: Any, sizes: Any, arguments: Any, outputs: Any
    ) -> Any:
        x = arguments[0]
        seconds = cost(values)
        if seconds == 0:
            raise Clumsy("out of\nresources")

        y = x * (2 if seconds > 0 else 3)
        return types.SimpleNamespace(outputs=(x, y), seconds=abs(seconds))

    return Rig(group, launch, limits or Limits(256, 32768), (Clumsy,))


def test_launches_are_grouped_by_what_parameters_depend_on(toy) -> None:
    found = {group.name: [one.name for one in group.timings] for group in groups(toy)}
    # an activation decides nothing
    assert found == {
        "toy, small": ["one", "two"],
        "toy, any": ["large"],
        "toy, small, REAL_BITS=16": ["half"],
    }


def test_the_best_of_all_is_found(toy) -> None:
    group = groups(toy)[0]
    noted: list[Outcome] = []
    one = rig(group, lambda v: 1.0 + (v["A"] - 4) ** 2 + (v["B"] - 2) ** 2)
    default, best, done = search(one, 1e9, [], noted.append)
    assert done
    assert len(noted) == 15  # 4 * 4, but for 8 * 8
    assert default.parameters == {"A": 1, "B": 1}
    assert best.parameters == {"A": 4, "B": 2}
    assert best.seconds == {"one": 1.0, "two": 1.0}


def test_the_search_climbs_before_it_wanders(toy) -> None:
    ticks = itertools.count()
    one = rig(groups(toy)[0], lambda v: 1.0 / (v["A"] * v["B"]))
    _, best, done = search(one, 7.5, [], lambda _: None, clock=lambda: next(ticks))
    assert not done
    assert best.parameters["A"] * best.parameters["B"] >= 16  # of 32, with half of the tries


def test_wrong_results_and_failures_never_win(toy) -> None:
    def cost(values: Any) -> float:
        return {2: -0.1, 4: 0.0}.get(values["A"], 1.0)

    noted: list[Outcome] = []
    _, best, _ = search(rig(groups(toy)[0], cost), 1e9, [], noted.append)
    assert best.parameters["A"] in (1, 8)
    errors = {one.parameters["A"]: one.error for one in noted}
    assert "times the bound off" in errors[2]
    assert errors[4] == "out of"
    assert errors[8] == ""


def test_what_the_device_cannot_hold_is_not_tried(toy) -> None:
    tried = list(rig(groups(toy)[0], lambda v: 1.0, Limits(8, 32)).scattered())
    assert {(one["A"], one["B"]) for one in tried} == {
        (a, b) for a in (1, 2, 4) for b in (1, 2, 4, 8) if a * b <= 8
    }


def test_a_run_goes_on_from_its_journal(toy, tmp_path) -> None:
    group, journal = groups(toy)[0], Journal(tmp_path / "j", toy, TARGET)
    ticks = itertools.count()
    one = rig(group, lambda v: 1.0 / v["A"])
    search(one, 2.5, [], lambda o: journal.add(group, o), clock=lambda: next(ticks))
    first = journal.read(group)
    assert 1 < len(first) < 15
    with journal.path.open("a") as file:
        file.write('{"group": "toy, sm')  # killed while it wrote
    again: list[Outcome] = []
    _, best, done = search(one, 1e9, journal.read(group), again.append)
    assert done
    assert len(again) == 15 - len(first)
    assert best.parameters["A"] == 8
    assert journal.read(groups(toy)[1]) == []
    other = Journal(tmp_path / "j", toy, {**TARGET, "driver": "2"})
    assert other.read(group) == []


def test_entries_of_others_stay(toy, tmp_path) -> None:
    group = groups(toy)[2]
    default = Outcome({"A": 1, "B": 1}, {"half": 2.0})
    best = Outcome({"A": 4, "B": 2}, {"half": 1.0})
    made = entry(group, TARGET, default, best, DAY)
    assert made is not None
    assert made["options"] == {"REAL_BITS": 16}
    assert (made["class"], made["parameters"]) == ("small", {"A": 4, "B": 2})
    assert (made["best_seconds"], made["default_seconds"]) == ([1.0], [2.0])
    assert made["source"] == "measured, tools/tune.py, 2026-11-22"
    path = tmp_path / "new" / "toy.json"
    theirs = {**made, "device": "another"}
    publish(path, [theirs, {**made, "parameters": {"A": 2, "B": 2}}])
    publish(path, [made])
    assert json.loads(path.read_text()) == [theirs, made]
    close = Outcome(best.parameters, {"half": 1.99})
    assert entry(group, TARGET, default, close, DAY) is None
    assert entry(group, TARGET, default, Outcome({}, error="all failed"), DAY) is None
    assert entry(group, TARGET, Outcome({}, error="too large"), best, DAY) is not None


def test_families_of_the_library_can_be_searched() -> None:
    for family in families():
        for group in groups(family):
            one = Rig(group, lambda *_: None, Limits(256, 32768))
            assert one.allows(one.start()), group.name
            assert next(one.neighbours(one.start()), None) is not None, group.name


def test_a_small_search_on_pocl(tmp_path, capsys) -> None:
    pyopencl = pytest.importorskip("pyopencl")
    try:
        pyopencl.get_platforms()
    except pyopencl.Error:
        pytest.skip("there is no OpenCL platform")
    from tools import tune

    words = ["--families", "quant_gather", "--time-limit", "5"]
    folders = ["--output", str(tmp_path / "params"), "--journal", str(tmp_path / "journal")]
    assert tune.main([*words, *folders]) == 0
    out = capsys.readouterr().out
    assert "quant_gather, any:" in out
    assert "(0 failed)" in out
    (journal,) = (tmp_path / "journal").iterdir()
    before = len(journal.read_text().splitlines())
    assert tune.main([*words[:3], "0", *folders]) == 0  # goes on: nothing that is known runs again
    assert len(journal.read_text().splitlines()) == before
    for path in (tmp_path / "params").glob("*.json"):
        for one in json.loads(path.read_text()):
            assert {"vendor", "architecture", "device", "class", "parameters"} <= set(one)
    assert tune.main(["--families", "gem", *folders]) == 2
    assert "there is no family 'gem'" in capsys.readouterr().err
    assert tune.main(["--device", "opencl:9:9"]) == 2
    assert "there is no device opencl:9:9" in capsys.readouterr().err


def test_devices_are_named_by_pyopencl(monkeypatch) -> None:
    from tools import tune

    class Nothing:
        @staticmethod
        def get_platforms() -> list[Any]:
            return []

    with pytest.raises(InputError, match="no OpenCL device"):
        tune._device("opencl", Nothing)
