"""The pages on operators and devices tell what the library has."""

from __future__ import annotations

import re
from pathlib import Path

import onnx.parser
import pytest

from onnxslim_rx.cli.parser import build_parser
from onnxslim_rx.runtime.native import registration


@pytest.fixture(scope="module")
def page(root: Path) -> str:
    return (root / "docs" / "operators.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def devices(root: Path) -> str:
    return (root / "docs" / "devices.md").read_text(encoding="utf-8")


def schemas(root: Path) -> dict[str, tuple[list[str], list[str]]]:
    """Inputs and attributes of each operator, as its source declares them."""
    found = {}
    for path in sorted((root / "kernels" / "src" / "ops").glob("*.cpp")):
        text = path.read_text(encoding="utf-8")
        declared = re.search(r'const Schema schema = \{\s*"(\w+)",(.*?)\[\]\(', text, re.DOTALL)
        if declared is None:
            continue
        inputs = re.findall(r'\{"(\w+)", Role::', declared[2])
        attributes = re.findall(r'\{"(\w+)", AttributeKind::', declared[2])
        found[declared[1]] = inputs, attributes
    return found


def sections(page: str) -> dict[str, str]:
    parts = re.split(r"^## (\w+)$", page, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_every_operator_has_its_inputs_and_attributes_told(root, page) -> None:
    known, told = schemas(root), sections(page)
    assert len(known) == 5
    assert set(told) == set(known)
    for op, (inputs, attributes) in known.items():
        assert inputs, op
        rows = re.findall(r"^\| (`[^|]*`) \|", told[op], re.MULTILINE)
        words = {word for row in rows for word in re.findall(r"`(\w+)`", row)}
        prose = set(re.findall(r"`(\w+)`", told[op]))
        assert set(inputs) <= words, op
        assert set(attributes) <= prose, op
        listed = words - set(inputs)
        assert listed <= set(attributes), op  # and no others


def test_examples_of_operators_can_be_read(root, page) -> None:
    known = schemas(root)
    for op, text in sections(page).items():
        (example,) = re.findall(r"^```\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        node = onnx.parser.parse_node(example)
        inputs, attributes = known[op]
        assert node.op_type == op
        assert {attribute.name for attribute in node.attribute} <= set(attributes)
        assert "W" in inputs or len(node.input) <= len(inputs)


def test_activations_are_those_of_the_library(root, page) -> None:
    source = "".join(
        path.read_text(encoding="utf-8") for path in (root / "kernels" / "src" / "cpu").glob("*.*")
    )
    (row,) = re.findall(r"^\| `activation` \|.*$", page, re.MULTILINE)
    told = set(re.findall(r"`([A-Z]\w+)`", row))
    assert told == {"Relu", "Clip", "Gelu", "GeluTanh", "Silu"}
    assert all(f'"{name}"' in source for name in told)


def test_commands_and_entries_of_the_page_on_devices_are_there(root, devices) -> None:
    lines = "".join(re.findall(r"^```sh\n(.*?)^```$", devices, re.MULTILINE | re.DOTALL))
    ours = [line.split()[1:] for line in lines.splitlines() if line.startswith("onnxslim-rx")]
    assert {words[0] for words in ours} == {"devices", "optimize", "quantize", "bench"}
    for words in ours:
        assert build_parser().parse_args(words).verb == words[0]
    source = "".join(
        path.read_text(encoding="utf-8") for path in (root / "kernels" / "src").rglob("*.cpp")
    )
    for variable in re.findall(r"`(ONNXSLIM_RX_\w+)`", devices):
        assert variable in source, variable
    told = set(re.findall(r"`ai\.onnxslim\.rx\.(\w+)`", devices))
    assert told == {"device", "opencl", "cache", "params"}
    assert registration._DEVICE == "ai.onnxslim.rx.device"
