"""Device profiles: those that come along, those of users, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnxslim_rx.errors import InputError
from onnxslim_rx.targets import Target, load_target, target_names

GOOD = 'name = "gpu"\ndescription = "a card"\nlevel = "ort"\n'


def test_those_that_come_along_compute_in_float32() -> None:
    assert target_names() == ["ort-cpu", "portable", "rx"]
    for name in target_names():
        target = load_target(name)
        assert target.name == name
        assert target.computes == ("float32",)


def test_a_file_of_the_user(tmp_path: Path) -> None:
    path = tmp_path / "gpu.toml"
    path.write_text(GOOD + 'computes = ["float32", "float16"]\nlatency_noise = 0\n')
    target = load_target(path)
    assert target == Target(
        name="gpu",
        description="a card",
        level="ort",
        computes=("float32", "float16"),
        latency_noise=0,
    )
    assert load_target(target) is target
    assert target.allows("portable")
    assert not target.allows("rx")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("min_ranks = 1", "unknown key 'min_ranks'"),
        ("min_rank = 0", "expected at least 1"),
        ("min_rank = true", "of the wrong type"),
        ('computes = "float16"', "of the wrong type"),
        (
            'computes = ["float8"]',
            r"has computes = \['float8'\]; expected some of float32, float16",
        ),
        ("computes = [[16]]", "expected some of"),
        ("computes =", "not valid TOML"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(line: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "gpu.toml"
    path.write_text(f"{GOOD}{line}\n")
    with pytest.raises(InputError, match=message):
        load_target(path)


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    path = tmp_path / "gpu.toml"
    path.write_text('name = "gpu"\n')
    with pytest.raises(InputError, match="lacks description, level"):
        load_target(path)
    path.write_text(GOOD.replace('"ort"', '"cuda"'))
    with pytest.raises(InputError, match="has level 'cuda'"):
        load_target(path)
    with pytest.raises(InputError, match="there is no target 'cuda'"):
        load_target("cuda")
    with pytest.raises(InputError, match="cannot read the target file"):
        load_target(tmp_path / "none.toml")
