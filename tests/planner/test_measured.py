"""Numbers on disk: what is damaged counts as not there."""

from __future__ import annotations

import math

import pytest

from onnxslim_rx.planner.measured import Measured, key_for


def test_numbers_come_back(tmp_path):
    path = tmp_path / "new" / "numbers.json"
    kept = Measured(path)
    assert "a" not in kept
    kept["a"], kept["b"] = 0.1, math.inf
    kept.save()
    found = Measured(path)
    assert ("a" in found, found["a"], found["b"]) == (True, 0.1, math.inf)
    assert [file.name for file in path.parent.iterdir()] == ["numbers.json"]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b"\xff", b'{"a": "1", "b": true, "c": NaN}']
)
def test_damaged_entries_are_ignored(tmp_path, content):
    path = tmp_path / "numbers.json"
    path.write_bytes(content)
    found = Measured(path)
    assert not any(name in found for name in "abc")


def test_nothing_is_kept_where_nothing_can_be(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (None, tmp_path / "file" / "numbers.json"):
        kept = Measured(path)
        kept["a"] = 1.0
        kept.save()
        assert kept["a"] == 1.0


def test_keys_tell_contents_apart_and_not_the_order_of_names():
    assert key_for({"a": 1, "b": 2}) == key_for({"b": 2, "a": 1}) != key_for({"a": 1, "b": 3})
