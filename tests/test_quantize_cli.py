"""The verb `quantize`: options, files, what is shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest

from models import make_gpt2
from onnxslim_rx import api
from onnxslim_rx.cli import main
from onnxslim_rx.cli.parser import build_parser
from onnxslim_rx.errors import InputError
from onnxslim_rx.report import Report
from onnxslim_rx.report.text import bytes_text


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a decoder `m.onnx`."""
    monkeypatch.chdir(tmp_path)
    make_gpt2.write(tmp_path / "m.onnx", *make_gpt2.layout(1, 128, vocabulary=96, positions=16))
    return tmp_path


def test_the_model_is_written_and_every_weight_is_listed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["quantize", "m.onnx", "-o", "q.onnx", "--method", "nearest", "--skip", "l0_out*"]
    assert main([*words, "--json", "r.json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    report = Report.from_json((folder / "r.json").read_text(encoding="utf-8"))
    assert "x smaller" in out
    assert "5 of 6 layers changed" in out
    for row in report.layers:
        if row.changed:
            (line,) = [one for one in out.splitlines() if one.startswith(row.name)]
            assert "quantize-weights bits=4 group=32" in line
            assert bytes_text(row.bytes_after) in line
    assert "1 layer: left out, as asked" in out
    assert "wrote q.onnx, r.json" in out
    assert report.output == "q.onnx"
    assert report.command.startswith("onnxslim-rx quantize m.onnx -o q.onnx")
    found = {node.op_type for node in onnx.load(folder / "q.onnx").graph.node}
    assert {"MatMulNBits", "GatherBlockQuantized"} <= found


def test_a_few_layers_are_listed_where_that_is_asked(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["quantize", "m.onnx", "-o", "q.onnx", "--method", "nearest", "--top", "2"]
    assert main(words) == 0
    assert "and 4 more" in capsys.readouterr().out


def test_options_reach_the_api(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []

    def quantize(model: str, output: str, **options: Any) -> None:
        calls.append({"model": model, "output": output, **options})
        raise InputError("enough")

    monkeypatch.setattr(api, "quantize", quantize)
    words = ["--bits", "2", "--group", "16", "--asymmetric", "--method", "clip", "--also", "a"]
    words += ["--embedding-bits", "8", "--form", "dequantize-linear", "--target", "portable"]
    words += ["--only", "x*", "--only", "y", "--skip", "z", "--cache", "kept", "-q"]
    assert main(["quantize", "m.onnx", "-o", "q.onnx", *words]) == 2
    assert main(["quantize", "m.onnx", "-o", "q.onnx"]) == 2
    assert calls[0] == {
        "model": "m.onnx", "output": "q.onnx", "bits": 2, "group": 16, "symmetric": False,
        "method": "clip", "embedding_bits": 8, "form": "dequantize-linear", "target": "portable",
        "only": ["x*", "y"], "skip": ["z"], "also": ["a"], "cache": "kept", "progress": False,
    }  # fmt: skip
    plain = api.quantize.__kwdefaults__ or {}
    assert {name: calls[1][name] for name in plain} == plain


def test_defaults_are_those_of_the_api() -> None:
    args = vars(build_parser().parse_args(["quantize", "m", "-o", "q"]))
    for name, value in (api.quantize.__kwdefaults__ or {}).items():
        if name in args:
            assert args[name] in (value, list(value) if isinstance(value, tuple) else value)


def test_json_on_the_screen_is_json_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["quantize", "m.onnx", "-o", "q.onnx", "--method", "nearest", "--json", "-"]
    assert main(words) == 0
    assert Report.from_dict(json.loads(capsys.readouterr().out)).output == "q.onnx"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing.onnx", "-o", "q.onnx"], "there is no file 'nothing.onnx'"),
        (["m.onnx", "-o", "m.onnx"], "-o m.onnx is the same file as MODEL"),
        (["m.onnx", "-o", "q.onnx", "--only", "none*"], "no weight has a name like 'none*'"),
        (["m.onnx", "-o", "q.onnx", "--group", "48"], "group = 48"),
        (["m.onnx", "-o", "q.onnx", "--cache", "m.onnx"], "the cache folder m.onnx cannot be made"),
    ],
)
def test_errors_are_one_line_and_leave_no_file(
    folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main(["quantize", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1
    assert sorted(path.name for path in folder.iterdir()) == ["m.onnx", "m.onnx.data"]
