"""The choice among tuned parameters: the most specific that fits, and only legal ones."""

from __future__ import annotations

import json

import pytest

from tools.kernel_families import families, family
from tools.kernel_params import PARAMS, class_of, tuned

SIZES = {"M": 4096, "N": 4096, "K": 64, "BATCH": 1}
CARD = {"vendor": "AMD", "architecture": "gfx803", "device": "Ellesmere"}


@pytest.fixture
def folder(tmp_path):
    entries = [
        {"vendor": "AMD", "parameters": {"KWG": 32, "MWG": 64, "NWG": 64}},
        {"architecture": "gfx803", "class": "large", "parameters": {"SPLIT": 2}},
        {"architecture": "gfx803", "parameters": {"SPLIT": 4}},
        {"device": "Ellesmere", "options": {"TA": 1}, "parameters": {"SPLIT": 8}},
        {"device": "Baffin", "parameters": {"MWG": 128, "NWG": 128, "TM": 1, "TN": 1}},
    ]
    (tmp_path / "gemm.json").write_text(json.dumps(entries), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("options", "device", "split"),
    [
        ({}, CARD, 2),
        ({"TA": 1}, CARD, 8),
        ({}, {"vendor": "AMD"}, 1),
        ({}, {}, 1),
        ({}, {"device": "Baffin"}, 1),  # illegal parameters are not taken
    ],
)
def test_the_most_specific_entry_wins(folder, options, device, split):
    found = tuned(family("gemm"), options, SIZES, device, folder)

    assert found["SPLIT"] == split
    assert found["MWG"] == (64 if device == {"vendor": "AMD"} else 128)


def test_without_a_file_the_class_decides(tmp_path):
    known = family("gemm")
    assert class_of(known, {}, SIZES) == "large"
    assert tuned(known, {}, SIZES, CARD, tmp_path) == known.choose({}, SIZES)


@pytest.mark.parametrize("name", [one.name for one in families()])
def test_shipped_parameters_are_legal_and_say_where_they_come_from(name):
    path, known = PARAMS / f"{name}.json", family(name)
    for entry in json.loads(path.read_text(encoding="utf-8")) if path.exists() else []:
        assert entry["source"]
        assert set(entry["parameters"]) <= set(known.table["parameters"])
        assert known.legal({**known.defaults, **entry.get("options", {}), **entry["parameters"]})
        names = {one["name"] for one in known.table.get("classes", ())}
        assert entry.get("class", "") in names | {""}
