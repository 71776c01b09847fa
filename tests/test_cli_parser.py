"""Options, help and usage errors; what starting costs."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from typing import get_args

import pytest

from onnxslim_rx.cli import main
from onnxslim_rx.cli.options import METRICS
from onnxslim_rx.cli.parser import build_parser
from onnxslim_rx.metrics import metric_names
from onnxslim_rx.vocabulary import Preset

HEAVY = {
    "jinja2", "matplotlib", "numpy", "onnx", "onnx_ir", "onnxruntime", "onnxscript", "rich",
    "scipy", "shtab", "torch",
}  # fmt: skip
VERBS = [
    "optimize",
    "simplify",
    "plan",
    "dequantize",
    "inspect",
    "compare",
    "bench",
    "passes",
    "devices",
]


def usage_error(capsys, *words: str) -> str:
    with pytest.raises(SystemExit) as exit_:
        main(words)
    out, err = capsys.readouterr()
    assert exit_.value.code == 2
    assert out == ""
    assert err.count("\n") == 1
    return str(err)


def test_options_of_optimize_reach_the_verb():
    words = (
        "optimize m.onnx -o out.onnx --min-cosine 0.995 --max-bytes 23MB --max-latency 12ms"
        " --max-flops 1.2G --metric top1 --calibration d.npz --preset small --target portable"
        " --save-plan p.toml --report r.html --json j.json --seed 7 --verify off --skip a"
        " --skip b --only c --also d --fold-limit 2MB --cache kept --profile -q --cosine-stat p5"
        " --outputs a,b --minimize bytes --calibration-memory 500MB --set p.rank=8"
    )
    args = build_parser().parse_args(shlex.split(words))
    assert vars(args) == {
        "verb": "optimize", "version": False, "model": "m.onnx", "output": "out.onnx",
        "min_cosine": 0.995, "min_snr": None, "max_drop": None, "metric": "top1",
        "max_bytes": 23_000_000, "max_latency": 12.0, "max_flops": 1_200_000_000,
        "calibration": "d.npz", "preset": "small", "target": "portable", "plan": None,
        "save_plan": "p.toml", "report": "r.html", "json": "j.json", "seed": 7, "verify": "off",
        "skip": ["a", "b"], "only": ["c"], "profile": True, "quiet": True,
        "freeze_weights": False, "also": ["d"], "fold_limit": 2_000_000, "requantize": False,
        "cache": "kept", "cosine_stat": "p5", "outputs": ["a", "b"], "minimize": "bytes",
        "calibration_memory": 500_000_000, "set": [("p", "rank", 8)],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["optimise"], "did you mean 'optimize'?; see 'onnxslim-rx --help'"),
        (["optimize", "m", "-o", "o", "--preset", "smal"], "did you mean 'small'?"),
        (["optimize", "m", "-o", "o", "--min-cosin=0.9"], "did you mean '--min-cosine'?"),
        (["optimize", "m", "-o", "o", "--min-cos", "0.9"], "unknown argument '--min-cos'"),
        (["optimize", "m"], "required: -o/--output; see 'onnxslim-rx optimize --help'"),
        (["optimize", "m", "-o", "o", "--max-bytes", "23XB"], "argument --max-bytes: '23XB' is no"),
        (["optimize", "m", "-o", "o", "--min-snr", "9", "--min-cosine", "0.9"], "not allowed with"),
        (["optimize", "m", "-o", "o", "--plan", "p", "--preset", "safe"], "not allowed with"),
        (["inspect", "m", "n"], "unknown argument 'n'"),
        (["finetune", "m"], "invalid choice: 'finetune'"),
        (["--jsn"], "unknown argument '--jsn'"),
    ],
)
def test_usage_errors_are_one_line_with_a_hint(capsys, words, message):
    line = usage_error(capsys, *words)
    assert message in line
    assert re.search(r"see 'onnxslim-rx[ a-z]* --help'$", line)


def test_no_verb_shows_the_help(capsys):
    assert main([]) == 2
    assert "optimize    compress a model" in capsys.readouterr().out


@pytest.mark.parametrize("verb", [None, *VERBS, "completion"])
def test_help_is_complete_and_fits(capsys, monkeypatch, verb):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as exit_:
        main([verb, "--help"] if verb else ["--help"])
    text = capsys.readouterr().out
    assert exit_.value.code == 0
    assert "exit codes:\n  0  done\n  1  the promise could not be kept" in text
    assert "finetune" not in text
    if verb in (None, *VERBS[:-2]):
        assert "examples:\n  onnxslim-rx " in text
    options = text.partition("examples:")[0]
    assert max(map(len, options.splitlines())) <= 100


def test_help_names_what_may_be_chosen_and_what_holds_by_default(capsys):
    with pytest.raises(SystemExit):
        main(["optimize", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "ort-cpu, portable" in text
    for word in ("(default: 0.99)", "(default: ort-cpu)", "(default: 0)", "(default: end)"):
        assert word in text
    for preset in get_args(Preset):
        assert f"{preset}:" in text


def test_help_lists_the_metrics_that_there_are():
    assert sorted(METRICS.split(", ")) == sorted(metric_names())


def test_help_imports_nothing_heavy_and_costs_little():
    program = (
        "import json, sys, time; from onnxslim_rx.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "modules = sorted({name.partition('.')[0] for name in sys.modules})\n"
        "print(json.dumps([modules, time.process_time()]), file=sys.stderr)"
    )
    for words in (["--help"], ["optimize", "--help"], ["optimise"]):
        costs = []
        for _ in range(3):
            done = subprocess.run(
                [sys.executable, "-c", program, *words],
                capture_output=True, text=True, check=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )  # fmt: skip
            modules, seconds = json.loads(done.stderr.splitlines()[-1])
            assert not HEAVY & set(modules)
            costs.append(seconds)
        assert min(costs) <= 0.3  # seconds of CPU time, not of wall time


def test_messages_need_nothing_heavy():
    # an interruption may come while numpy is half loaded, and must still be told
    program = (
        "import sys; from onnxslim_rx.report.text import printable\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )  # fmt: skip
    assert not (HEAVY - {"rich"}) & set(done.stdout.split())


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion(capsys, shell):
    pytest.importorskip("shtab")
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "simplify" in script


def test_completion_is_understood_by_bash(capsys, tmp_path):
    pytest.importorskip("shtab")
    main(["completion", "bash"])
    script = tmp_path / "completion.sh"
    script.write_text(capsys.readouterr().out, encoding="utf-8")
    ask = (
        f". {script}; COMP_WORDS=(onnxslim-rx optimize --min-); COMP_CWORD=2;"
        " _shtab_onnxslim_rx; echo ${COMPREPLY[@]}"
    )
    done = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == {"--min-cosine", "--min-snr"}


def test_completion_without_shtab_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "zsh"]) == 2
    assert capsys.readouterr().err == (
        "onnxslim-rx: shell completion needs shtab, which is not installed; pip install shtab\n"
    )
