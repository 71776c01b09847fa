"""Exit codes, messages and files of the command line; the work itself is faked."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from onnxslim_rx import api
from onnxslim_rx.cli import main
from onnxslim_rx.errors import BudgetError, InputError, PassError, VerificationError
from onnxslim_rx.plans import Budget, Plan
from onnxslim_rx.report import Report

GOLDEN = Path(__file__).parent / "data" / "report_v1.json"


class FakeResult:
    """What `api.optimize` returns, as far as the command line sees it."""

    def __init__(self) -> None:
        self.report = Report.from_json(GOLDEN.read_text(encoding="utf-8"))
        self.plan = Plan("0" * 64, "ort-cpu", {}, ())

    def save(self, path: str) -> None:
        Path(path).write_text("model", encoding="utf-8")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.onnx").write_text("model", encoding="utf-8")
    return tmp_path


@pytest.fixture
def calls(monkeypatch) -> list[dict[str, Any]]:
    """Keyword arguments of every call of `api.optimize`, which succeeds."""
    found: list[dict[str, Any]] = []

    def optimize(model, **options):
        found.append({"model": model, **options})
        return FakeResult()

    monkeypatch.setattr(api, "optimize", optimize)
    return found


def fail_with(monkeypatch, error: BaseException) -> None:
    def optimize(model, **options):
        raise error

    monkeypatch.setattr(api, "optimize", optimize)


def test_optimize_writes_what_was_asked_for_and_says_so(folder, calls, capsys):
    words = ["optimize", "m.onnx", "-o", "o.onnx", "--save-plan", "p.toml", "--json", "j.json"]
    assert main([*words, "--profile"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "Keeps cosine >= 0.99: 0.9947; 3.0x smaller, 0.94x latency" in out
    assert "fold-constants" in out
    assert "wrote o.onnx, p.toml, j.json" in out
    report = Report.from_json((folder / "j.json").read_text(encoding="utf-8"))
    assert report.output == "o.onnx"
    assert report.command.startswith("onnxslim-rx optimize m.onnx -o o.onnx --save-plan p.toml")
    assert Plan.load(folder / "p.toml").target == "ort-cpu"
    assert (folder / "o.onnx").read_text(encoding="utf-8") == "model"


def test_options_reach_the_api(folder, calls):
    limits = ["--min-cosine", "0.9", "--max-bytes", "5MB", "--max-latency", "3ms"]
    others = ["--seed", "4", "--verify", "off", "--skip", "a", "--only", "b", "--preset", "small"]
    others += ["--cache", "kept", "--calibration-memory", "2GiB"]
    limits += ["--cosine-stat", "min", "--outputs", "y", "--minimize", "bytes"]
    assert main(["optimize", "m.onnx", "-o", "o.onnx", "-q", *limits, *others]) == 0
    (call,) = calls
    assert call["budget"] == Budget(
        min_cosine=0.9, max_bytes=5_000_000, max_latency=3.0, cosine_stat="min", outputs=("y",),
        minimize="bytes",
    )  # fmt: skip
    wanted = {"seed": 4, "verify": None, "skip": ["a"], "only": ["b"], "preset": "small"}
    wanted |= {"cache": "kept", "memory_bytes": 2 << 30}
    assert {name: call[name] for name in wanted} == wanted
    assert call["progress"] is False


def test_no_limit_leaves_the_budget_to_the_api(folder, calls):
    assert main(["optimize", "m.onnx", "-o", "o.onnx", "-q"]) == 0
    assert calls[0]["budget"] is None
    assert calls[0]["verify"] == "end"


def test_json_on_the_screen_is_json_alone(folder, calls, capsys):
    assert main(["optimize", "m.onnx", "-o", "o.onnx", "--json", "-"]) == 0
    out, err = capsys.readouterr()
    assert Report.from_dict(json.loads(out)).output == "o.onnx"
    assert err == ""


def test_quiet_says_nothing(folder, calls, capsys):
    assert main(["simplify", "m.onnx", "-o", "o.onnx", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    assert calls[0]["preset"] == "safe"


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (InputError("found", expected="this", advice="do that"), 2, "found; expected this; do th"),
        (BudgetError("no plan fits"), 1, "no plan fits"),
        (VerificationError("outputs differ"), 1, "outputs differ"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (MemoryError(), 2, "not enough memory"),
        (OSError(errno.ENOSPC, "No space left on device", "x"), 2, "No space left on device"),
        (InputError("layer \x1b[2J\nname"), 2, r"layer \x1b[2J name"),
    ],
)
def test_errors_are_one_line_and_leave_no_file(folder, monkeypatch, capsys, error, code, message):
    fail_with(monkeypatch, error)
    assert main(["optimize", "m.onnx", "-o", "o.onnx", "--save-plan", "p.toml"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("onnxslim-rx: ")
    assert message in err
    assert err.count("\n") == 1
    assert sorted(path.name for path in folder.iterdir()) == ["m.onnx"]


@pytest.mark.parametrize("error", [PassError("pass x lied"), ZeroDivisionError("by zero")])
def test_a_bug_is_one_paragraph_and_a_log(folder, monkeypatch, capsys, error):
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", None)
    fail_with(monkeypatch, error)
    assert main(["optimize", "m.onnx", "-o", "o.onnx"]) == 3
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "this is a bug of onnxslim-rx" in err
    assert str(error) in err
    (log,) = folder.glob("onnxslim-rx-*.log")
    assert str(log) in err
    text = log.read_text(encoding="utf-8")
    assert "Traceback" in text
    assert "command: onnxslim-rx optimize m.onnx -o o.onnx" in text
    assert re.search(r"^onnxruntime \d", text, re.MULTILINE)


def test_a_bug_shows_its_traceback_where_asked(folder, monkeypatch, capsys):
    monkeypatch.setenv("ONNXSLIM_RX_DEBUG", "1")
    fail_with(monkeypatch, ZeroDivisionError("by zero"))
    assert main(["optimize", "m.onnx", "-o", "o.onnx"]) == 3
    assert "Traceback" in capsys.readouterr().err


def test_a_broken_promise_still_writes_its_numbers(folder, monkeypatch, capsys):
    error = BudgetError("30.3 MB is the least")
    error.report = FakeResult().report
    fail_with(monkeypatch, error)
    assert main(["optimize", "m.onnx", "-o", "o.onnx", "--json", "j.json"]) == 1
    report = Report.from_json((folder / "j.json").read_text(encoding="utf-8"))
    assert report.failure == "30.3 MB is the least"
    assert not (folder / "o.onnx").exists()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-o", "no/o.onnx"], "the folder no of -o does not exist; make it first"),
        (["-o", "sub"], "-o sub is a folder; expected the name of a file"),
        (["-o", "m.onnx"], "-o m.onnx is the same file as MODEL"),
        (["-o", "./sub/../m.onnx"], "is the same file as MODEL"),
        (["-o", "link.onnx"], "is the same file as MODEL"),
        (["-o", "o.onnx", "--json", "o.onnx"], "--json o.onnx is the same file as -o"),
        (["-o", "o.onnx", "--report", "no/r.html"], "the folder no of --report does not exist"),
        (["-o", "o.onnx", "--max-drop", "0.1"], "--max-drop needs a metric; add --metric"),
        (["-o", "o.onnx", "--preset", "fast", "--minimize", "bytes"], "contradicts --preset fast"),
    ],
)
def test_what_cannot_be_written_is_known_before_the_work(folder, calls, capsys, words, message):
    (folder / "sub").mkdir()
    (folder / "link.onnx").symlink_to("m.onnx")
    assert main(["optimize", "m.onnx", *words]) == 2
    assert message in capsys.readouterr().err
    assert calls == []


def test_a_folder_that_takes_no_files_is_known_before_the_work(folder, calls, capsys, monkeypatch):
    def refuse(**options):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    assert main(["optimize", "m.onnx", "-o", "o.onnx"]) == 2
    assert "cannot write -o into the folder .: Read-only file system" in capsys.readouterr().err
    assert calls == []


def test_a_report_without_its_extra_stops_at_once(folder, calls, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["optimize", "m.onnx", "-o", "o.onnx", "--report", "r.html"]) == 2
    assert "pip install 'onnxslim-rx[report]'" in capsys.readouterr().err
    assert calls == []


def test_the_html_report_is_written(folder, calls, capsys):
    pytest.importorskip("jinja2")
    pytest.importorskip("matplotlib")
    assert main(["optimize", "m.onnx", "-o", "o.onnx", "--report", "r.html"]) == 0
    assert "wrote o.onnx, r.html" in capsys.readouterr().out
    assert "minilm.onnx" in (folder / "r.html").read_text(encoding="utf-8")


def test_version(capsys):
    assert main(["--version"]) == 0
    assert re.fullmatch(r"onnxslim-rx \d+\.\d+\.\d+\S*\n", capsys.readouterr().out)


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def test_a_reader_that_leaves_early_is_no_error():
    command = f"{sys.executable} -m onnxslim_rx passes"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command} | true; {command} --json - | true"],
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to another process")
def test_an_interrupt_is_one_line(folder):
    program = (
        "import sys, time; from onnxslim_rx import api; from onnxslim_rx.cli import main\n"
        "def optimize(model, **options): print('ready', flush=True); time.sleep(60)\n"
        "api.optimize = optimize; sys.exit(main(sys.argv[1:]))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, "optimize", "m.onnx", "-o", "o.onnx"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "onnxslim-rx: interrupted\n")
    assert not (folder / "o.onnx").exists()
