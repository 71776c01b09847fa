"""The registry: passes of any distribution, one by one, and clear words where one is broken."""

from __future__ import annotations

import importlib
import inspect
import sys
from pathlib import Path

import pytest

import onnxslim_rx_passes
from onnxslim_rx import passes, registry
from onnxslim_rx.errors import InputError
from onnxslim_rx.passbase import CompressionPass, RewritePass
from onnxslim_rx_passes.fold_constants import FoldConstants

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

GOOD = '''
import dataclasses
from typing import ClassVar
from onnxslim_rx.passbase import PassResult, RewritePass

@dataclasses.dataclass(frozen=True)
class Polish(RewritePass):
    """Rub until it shines.

    Args:
        grain: of the paper; micrometres,
            at least 1.
        dry: without water.
    """

    name: ClassVar[str] = "polish"
    grain: int = 10
    dry: bool = False

    def __call__(self, model, ctx):
        return PassResult(model, modified=False)
'''


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Put distributions with entry points on the path: name, {entry: value}, module source."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def add(distribution, entries, module="", source=""):
        info = tmp_path / f"{distribution.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n"
        )
        lines = [f"{name} = {value}" for name, value in entries.items()]
        text = "\n".join([f"[{registry.GROUP}]", *lines])
        (info / "entry_points.txt").write_text(text)
        if module:
            (tmp_path / f"{module}.py").write_text(source)
            monkeypatch.delitem(sys.modules, module, raising=False)
        importlib.invalidate_caches()
        registry.offered.cache_clear()

    yield add
    registry.offered.cache_clear()


def test_the_built_in_passes_are_the_classes_in_the_package(root):
    """One file, one class, one entry point, each named after the other."""
    declared = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))
    entries = declared["project"]["entry-points"][registry.GROUP]
    files = Path(onnxslim_rx_passes.__file__).parent.glob("[a-z]*.py")
    found = {}
    for file in files:
        module = importlib.import_module(f"onnxslim_rx_passes.{file.stem}")
        (cls,) = [
            one
            for one in vars(module).values()
            if inspect.isclass(one)
            and issubclass(one, (RewritePass, CompressionPass))
            and one.__module__ == module.__name__
        ]
        assert cls.name == file.stem.replace("_", "-")
        found[cls.name] = f"{module.__name__}:{cls.__name__}"

    assert found == dict(entries)
    assert list(entries) == sorted(entries)


def test_find_and_make():
    assert registry.find("fold-constants") is FoldConstants
    assert registry.make("fold-constants", {"max_bytes": 7}) == FoldConstants(max_bytes=7)
    assert passes.FoldConstants is FoldConstants
    assert "FoldConstants" in dir(passes)
    assert registry.all_passes()["fold-constants"] is FoldConstants


def test_an_unknown_pass_gets_the_names_that_are_near():
    with pytest.raises(
        InputError, match=r"no pass 'fold-constant'; expected one of fold-constants"
    ):
        registry.find("fold-constant")
    with pytest.raises(InputError, match=r"no option 'size'; expected one of max_bytes"):
        registry.make("fold-constants", {"size": 1})
    with pytest.raises(AttributeError, match=r"no pass class 'Nothing'"):
        passes.Nothing  # noqa: B018  the access is what is tested


def test_a_third_party_comes_in_by_the_same_door(install):
    install("shiny", {"polish": "shiny_passes:Polish"}, "shiny_passes", GOOD)

    (info,) = [one for one in registry.describe() if one.name == "polish"]

    assert (info.kind, info.summary) == ("rewrite", "Rub until it shines.")
    assert info.distribution == "shiny"
    assert [(o.name, o.type, o.default, o.help) for o in info.options] == [
        ("grain", "int", 10, "of the paper; micrometres, at least 1."),
        ("dry", "bool", False, "without water."),
    ]
    assert passes.Polish is registry.find("polish")


BROKEN = {
    "raises": ("import nothing_of_that_name", "does not load: ModuleNotFoundError", "shiny"),
    "no pass": ("Polish = 3", "is no pass", "subclass"),
    "other name": (GOOD.replace('= "polish"', '= "rub"'), "calls itself 'rub'", "shiny"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_one_is_named_and_does_not_stop_others(install, case):
    source, found, advice = BROKEN[case]
    install("shiny", {"polish": "shiny_passes:Polish"}, "shiny_passes", source)

    with pytest.raises(InputError, match=found) as caught:
        registry.find("polish")

    assert advice in str(caught.value)
    assert registry.find("fold-constants") is FoldConstants
    with pytest.raises(InputError, match="polish"):
        registry.all_passes()


def test_our_own_says_how_to_reinstall(install):
    install("onnxslim-rx", {"gone": "onnxslim_rx_passes.gone:Gone"})

    with pytest.raises(InputError, match=r"reinstall it \(pip install -e \.\)"):
        registry.find("gone")


def test_two_distributions_with_one_name_are_refused(install):
    install("shiny", {"polish": "shiny_passes:Polish"}, "shiny_passes", GOOD)
    install("matt", {"polish": "matt_passes:Polish"}, "matt_passes", GOOD)

    with pytest.raises(InputError, match=r"'polish' is offered by matt and by shiny"):
        registry.find("polish")


def test_two_classes_of_one_name_need_the_registered_names(install):
    install("shiny", {"polish": "shiny_passes:Polish"}, "shiny_passes", GOOD)
    rub = GOOD.replace('"polish"', '"rub"')
    install("matt", {"rub": "matt_passes:Polish"}, "matt_passes", rub)

    assert registry.find("rub") is not registry.find("polish")
    with pytest.raises(InputError, match="registered names: polish, rub"):
        passes.Polish  # noqa: B018  the access is what is tested
