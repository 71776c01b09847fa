"""bench_simplify.py: what counts as right, few and grown; inputs, jobs, graphs and tables."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from tools import bench_simplify as bench
from tools import bench_simplify_batch as batch
from tools import bench_simplify_cases as cases
from tools import bench_simplify_check as check
from tools import bench_simplify_inputs as inputs
from tools import bench_simplify_models as models
from tools import bench_simplify_tables as tables
from tools import bench_simplify_tools as tools
from tools.bench_simplify_graphs import transformer

TEXT = """<ir_version: 8, opset_import: ["": 17]>
    g (float[b,4] x, float[b,4] unused) => (float[b,4] y) {{ a = Relu(x) y = {last} }}"""


@pytest.fixture
def model(tmp_path):
    """Write a model, with weights `w`; its path."""

    def write(name, last="MatMul(a, w)", weight=None, text=TEXT):
        array = np.eye(4, dtype=np.float32) if weight is None else weight
        path = tmp_path / f"{name}.onnx"
        filled = text.format(last=last)
        weights = [ir.tensor(array, name="w")] if "w)" in filled else []
        ir.save(ir.from_onnx_text(filled, weights), path)
        return path

    return write


@pytest.mark.parametrize("name", ["bench_simplify", "bench_simplify_batch",
                                  "bench_simplify_check", "bench_simplify_tools"])  # fmt: skip
def test_every_script_has_a_help(root, name):
    done = subprocess.run(
        [sys.executable, root / "tools" / f"{name}.py", "--help"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == 0
    assert "usage:" in done.stdout


def test_the_help_says_how_to_get_the_peers(capsys):
    with pytest.raises(SystemExit):
        bench.parse(["--help"])

    assert "pip install onnxslim onnxsim" in capsys.readouterr().out


def test_unknown_tools_are_refused(capsys):
    with pytest.raises(SystemExit):
        bench.parse(["models", "--tools", "rx,nothing"])

    assert "unknown tools nothing" in capsys.readouterr().err


def test_a_peer_that_is_not_installed_is_left_out_with_a_note(monkeypatch):
    absent = tools.Tool("absent", "no_such_package_anywhere", tools._onnxslim)
    monkeypatch.setitem(tools.TOOLS, "absent", absent)
    notes: list[str] = []

    assert bench.chosen("rx,absent", notes.append) == ["rx"]
    assert notes == ["absent is not installed and left out"]


def test_nodes_are_counted_in_subgraphs_and_constants_are_not():
    text = """<ir_version: 8, opset_import: ["": 17]> g (bool c, float[2] x) => (float[2] y) {
        k = Constant<value = float[2] {1, 2}>() r = Relu(x)
        y = If(c) <then_branch = t () => (float[2] p) { o = Constant<value = float[2] {3, 4}>()
                                                      p = Add(r, o) },
                   else_branch = e () => (float[2] q) { s = Neg(r) q = Mul(s, k) }> }"""

    assert check.nodes(onnx.parser.parse_model(text)) == {
        "Relu": 1, "If": 1, "Add": 1, "Neg": 1, "Mul": 1
    }  # fmt: skip


def test_the_same_model_is_right(model):
    path = model("a")

    found = check.check(path, path)

    assert found["wrong"] == []
    assert found["nodes"] == 2
    assert found["bytes"] == path.stat().st_size


def test_other_values_are_wrong(model):
    other = model("b", weight=np.eye(4, dtype=np.float32) * (1 + 2e-4))

    assert check.check(model("a"), other)["wrong"] == ["output y"]


@pytest.mark.parametrize(
    ("changed", "wrong"),
    [
        (TEXT.replace(", float[b,4] unused", ""), "inputs renamed, dropped or moved"),
        (TEXT.replace("float[b,4] y", "float[b,4] a").replace("a = Relu(x) y", "r = Relu(x) a")
         .replace("{last}", "MatMul(r, w)"), "outputs renamed, dropped or moved"),
        (TEXT.replace("float[b,4] x", "float[512,4] x"), "size b of input x is 512"),
        (TEXT.replace("float[b,4] y", "float[c,4] y"), "size b of output y is c"),
        (TEXT.replace("float[b,4] y", "double[b,4] y"), "type of output y"),
    ],
)  # fmt: skip
def test_a_changed_interface_is_wrong(model, changed, wrong):
    assert wrong in check.check(model("a"), model("b", text=changed))["wrong"]


def test_a_size_known_from_outputs_alone_may_become_its_number():
    before = onnx.parser.parse_model(
        TEXT.format(last="Relu(a)").replace("float[b,4] y", "float[b,q] y")
    )
    after = onnx.parser.parse_model(TEXT.format(last="Relu(a)"))

    assert check.changed(before, after) == []
    assert check.changed(after, before) == ["size 4 of output y is q"]


def test_optional_inputs_that_are_gone_are_counted(model):
    listed = TEXT.replace("float[b,4] unused", "float[b,4] unused, float[4,4] w")

    assert check.check(model("a", text=listed), model("b"))["dropped"] == 1
    assert check.check(model("b"), model("b"))["dropped"] == 0


def test_external_data_counts_as_part_of_the_file(model, tmp_path):
    path = model("a")
    loaded = onnx.load(path)
    onnx.save(loaded, tmp_path / "c.onnx", save_as_external_data=True, location="c.bin",
              size_threshold=0)  # fmt: skip

    total = (tmp_path / "c.onnx").stat().st_size + (tmp_path / "c.bin").stat().st_size
    assert check.file_bytes(tmp_path / "c.onnx") == total


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        (np.array([1.0, 100.0]), np.array([1.009, 100.0]), True),  # of the scale, not of each
        (np.array([1.0, 100.0]), np.array([1.02, 100.0]), False),
        (np.array([1.0, 100.0], np.float16), np.array([1.4, 100.0], np.float16), True),
        (np.array([np.nan, np.inf]), np.array([np.nan, np.inf]), True),
        (np.array([np.nan, 1.0]), np.array([1.0, 1.0]), False),
        (np.array([1, 2]), np.array([1, 3]), False),
        (np.array([1, 2]), np.array([1, 2], np.int32), False),
        (np.zeros((2, 1)), np.zeros((1, 2)), False),
        ([np.ones(2)], [np.ones(2)], True),
        ([np.ones(2)], [np.ones(2)] * 2, False),
        ({"a": 1.0}, {"a": 1.0}, True),
        ({"a": 1.0}, {"b": 1.0}, False),
        (None, None, True),
        (None, np.ones(1), False),
    ],
)  # fmt: skip
def test_sameness(a, b, same):
    assert (check.differences(["y"], [a], [b]) == []) is same


def test_inputs_have_two_shapes_where_axes_are_dynamic(model):
    found = inputs.samples(inputs.session(model("a")))

    assert [sample["x"].shape for sample in found] == [(2, 4), (3, 4)]
    assert [sample["unused"].shape for sample in found] == [(2, 4), (3, 4)]


def test_integers_are_found_that_a_table_holds(tmp_path):
    text = """<ir_version: 8, opset_import: ["": 17]> g (int64[b,t] ids, int64[b,t] mask)
        => (float[b,t,2] y) { e = Gather(w, ids) m = Cast<to = 1>(mask) u = Unsqueeze(m, last)
        y = Mul(e, u) }"""
    weights = [ir.tensor(np.ones((5, 2), np.float32), name="w"), ir.tensor([2], name="last")]
    ir.save(ir.from_onnx_text(text, weights), tmp_path / "a.onnx")

    first, second = inputs.samples(inputs.session(tmp_path / "a.onnx"))

    assert max(first["ids"].max(), second["ids"].max()) < 5
    assert first["mask"].all()
    assert not second["mask"][:, -2:].any()


def test_a_model_that_runs_with_nothing_is_refused(model):
    text = """<ir_version: 8, opset_import: ["": 17]> g (float[b,4] x) => (float[7] y) {{
        seven = Constant<value = int64[1] {{7}}>() y = Reshape(x, seven) }}"""

    with pytest.raises(ValueError, match="no inputs found"):
        inputs.samples(inputs.session(model("a", text=text)))


def test_a_worker_measures_and_writes(root, model, tmp_path):
    path, output = model("a", last="Identity(a)"), tmp_path / "out.onnx"
    script = root / "tools" / "bench_simplify_tools.py"

    done = subprocess.run(
        [sys.executable, script, "rx-unverified", path, output],
        capture_output=True, text=True, check=True,
    )  # fmt: skip

    found = json.loads(done.stdout)
    assert found["error"] == ""
    assert 0 < found["cpu_seconds"] <= found["cpu_seconds_saved"]
    assert 1 < found["peak_mb"] <= found["peak_mb_saved"]
    assert check.check(path, output)["nodes"] == 1


def test_an_error_of_a_tool_is_a_result(monkeypatch):
    def call(path):
        if "tiny" not in path:
            raise RuntimeError("first line\nsecond")

    broken = tools.Tool("broken", "onnx", lambda: (call, tools.save_proto))

    found = tools.measure(broken, "model.onnx", None)

    assert found == {"error": "first line", "cpu_seconds": None, "peak_mb": None}


@pytest.fixture
def job(tmp_path, model):
    """A job for a model of its own."""

    def make(name, last, feeds):
        loaded = onnx.load(model(f"{name}_source", last=last))
        return batch.prepare(tmp_path, name, loaded, feeds, onnx.save)

    return make


FEEDS = [{"x": np.ones((2, 4), np.float32), "unused": np.ones((2, 4), np.float32)}]


def test_jobs_are_judged(monkeypatch, job):
    def call(path):
        if "bad" in path:
            raise RuntimeError("refused")
        made = onnx.load(path)
        if "wrong" in path:
            made.graph.node[0].op_type = "Neg"
        return made

    tool = tools.Tool("fake", "onnx", lambda: (call, tools.save_proto))
    monkeypatch.setitem(tools.TOOLS, "fake", tool)
    jobs = [job(n, "MatMul(a, w)", FEEDS) for n in ("good", "bad", "wrong")]
    jobs += [job("random", "RandomNormalLike(a)", FEEDS), job("broken", "MatMul(a, w)", [{}])]

    good, bad, wrong, random, broken = batch.work("fake", jobs)

    assert (good["error"], good["skip"], good["wrong"]) == ("", "", [])
    assert good["seconds"] >= 0
    assert bad["error"] == "RuntimeError: refused"
    assert wrong["wrong"] == ["y"]
    assert random["skip"] == "draws random numbers"
    assert broken["skip"]


def test_a_death_or_a_hang_costs_one_job(monkeypatch):
    jobs = [{"name": name} for name in ("a", "b", "c")]
    answers = [[{"error": "", "skip": "", "wrong": []}], [{"error": "own"}]]
    monkeypatch.setattr(batch, "_lines", lambda command, hang: answers.pop(0))

    found = list(batch.run_jobs("rx", jobs))

    assert [(one["name"], one["error"]) for one in found] == [
        ("a", ""), ("b", "crash or hang"), ("c", "own")
    ]  # fmt: skip


@pytest.mark.parametrize("code", ["import os; os._exit(3)", "import time; time.sleep(60)"])
def test_lines_end_when_the_process_dies_or_is_silent(code):
    command = [sys.executable, "-c", f"print('{{}}', flush=True); {code}"]

    assert list(batch._lines(command, 2.0)) == [{}]


def test_the_budget_allows_close_floats_and_no_other_integers():
    a, close, far = np.ones(9), np.ones(9) + 0.01 * np.arange(9), -np.ones(9)

    assert batch._far(["y"], [a], [close]) == []
    assert batch._far(["y"], [a], [far]) == ["y"]
    assert batch._far(["y"], [np.array([1, 2])], [np.array([1, 3])]) == ["y"]


@pytest.mark.parametrize(
    ("change", "reached"),
    [
        ({}, True),
        ({"nodes": 2}, False),
        ({"nodes": None}, False),
        ({"kept": False}, False),
        ({"wrong": ["y"]}, False),
        ({"error": "no"}, False),
    ],
)
def test_a_micro_case_is_reached(change, reached):
    case = cases.Case(**{"name": "n", "group": "elim", "nodes": 1, "target": 1, **change})

    assert case.reached is reached
    assert bool(case.why)


def test_micro_bars():
    good = [
        cases.Case(str(i), "safety" if i < 18 else "elim", nodes=1, target=1) for i in range(120)
    ]
    lost = cases.Case("x", "safety", nodes=1, target=1, kept=False)

    assert list(cases.micro_verdict(good).values()) == [True, True]
    assert list(cases.micro_verdict(good[1:]).values()) == [False, True]
    assert list(cases.micro_verdict([*good, lost]).values()) == [True, False]
    assert list(cases.micro_verdict([]).values()) == [False, False]


def test_backend_bars():
    good, slow, bad = (
        cases.Case("n", "node", seconds=seconds, error=error)
        for seconds, error in ((4.9, ""), (5.1, ""), (1.0, "refused"))
    )

    assert list(cases.backend_verdict([good]).values()) == [True, True]
    assert list(cases.backend_verdict([good, slow]).values()) == [True, False]
    assert list(cases.backend_verdict([good, bad]).values()) == [False, True]
    assert list(cases.backend_verdict([]).values()) == [False, False]


def test_backend_cases_of_the_wheel_have_models_and_inputs():
    found = list(itertools.islice(cases._backend_cases(), 149))  # the node cases come last

    assert {kind for kind, *_ in found} == {
        "simple", "pytorch-converted", "pytorch-operator", "light"
    }  # fmt: skip
    assert all(feeds and all(feeds) for kind, _, _, feeds in found if kind == "pytorch-converted")


def _row(name="m", **counts):
    """A row of 100 nodes and 10 MB whose runs have `counts` nodes and 1 s."""
    runs = {
        tool: models.Run(cpu_seconds=1.0, peak_mb=1.0, nodes=count, bytes=10_000_000)
        for tool, count in counts.items()
    }
    return models.Row(name, 100, 10_000_000, runs)


def test_only_right_results_count_for_the_fewest():
    row = _row(a=50, b=40, c=30)
    row.runs["b"].wrong = ["output y"]

    assert row.fewest(["a", "b"], honest=True) == 50
    assert row.fewest(["b"], honest=True) == 100  # the original's
    assert row.fewest(["a", "b", "c"], honest=True) == 30


@pytest.mark.parametrize(("size", "grown"), [(16_000_000, False), (16_000_001, True)])
def test_a_grown_file_is_not_honest(size, grown):
    row = _row(a=50)
    row.runs["a"].bytes = size

    assert row.grown("a") is grown
    assert row.fewest(["a"], honest=True) == (100 if grown else 50)
    assert row.fewest(["a"], honest=False) == 50


def test_a_dropped_input_is_not_honest():
    row = _row(a=50)
    row.runs["a"].dropped = 1

    assert row.fewest(["a"], honest=True) == 100


def test_bars_of_the_models():
    rows = [_row(rx=50, OnnxSlim=50, onnxsim=60), _row("n", rx=50, OnnxSlim=60, onnxsim=50)]
    for row in rows:
        row.runs["rx"].cpu_seconds = 0.5
    peers = ["OnnxSlim", "onnxsim"]

    assert all(models.verdict(rows, "rx", peers).values())
    rows[0].runs["onnxsim"].nodes = 49
    assert models.more(rows, "rx", peers, honest=True) == ["m (50 > 49)"]
    rows[0].runs["rx"].cpu_seconds = 1.3
    missed = [bar for bar, met in models.verdict(rows, "rx", peers).items() if not met]
    assert missed == [
        "no more nodes than any right peer", "no more nodes than any honest right peer",
        "CPU <= 0.5 x OnnxSlim (median)", "CPU <= 1.2 x OnnxSlim (every model)",
    ]  # fmt: skip
    rows[1].runs["rx"].cpu_seconds = 0.8
    assert models.verdict(rows, "rx", peers)["sum of CPU <= onnxsim's"] is False
    assert not any(models.verdict([], "rx", peers).values())


def test_a_power_law_is_found():
    assert models.slope([(n, 3e-6 * n**1.5) for n in (10, 100, 5000)]) == pytest.approx(1.5)


@pytest.mark.parametrize("count", [1000, 2500])
def test_generated_graphs_have_as_many_nodes_as_asked_for(count):
    assert len(list(transformer(count).graph)) == pytest.approx(count, abs=32)


def test_generated_graphs_run_on_dynamic_shapes(tmp_path):
    ir.save(transformer(100), tmp_path / "t.onnx")
    session = inputs.session(tmp_path / "t.onnx")

    for sample in inputs.samples(session):
        (result,) = inputs.run(session, sample)
        assert result.shape == sample["x"].shape
        assert 0.1 < result.std() < 10


def test_tables_show_marks_and_fewest():
    row = _row(rx=50, a=40)
    row.runs["a"].bytes, row.runs["a"].dropped = 10**9, 3
    row.runs["rx"].wrong = ["output y"]

    lines = tables.node_table([row], ["rx", "a"], ["a"]).splitlines()

    assert lines[1].split() == ["m", "100", "50x", "40!*", "40", "100"]
    assert tables.failures([row], ["rx", "a"]) == ["m, rx: output y"]
    assert "rx: more nodes than the best right peer on 1: m (50 > 40)" in tables.summary(
        [row], ["rx", "a"], ["a"]
    )


def test_the_suite_of_models_end_to_end(model, tmp_path, monkeypatch, capsys):
    model("a", last="Identity(a)")
    monkeypatch.setattr(models, "ASSETS", tmp_path / "nothing")
    out = tmp_path / "report.json"
    arguments = ["models", "--models", str(tmp_path), "--only", "a", "--repeat", "1"]
    monkeypatch.setattr(models, "light_models", lambda: tmp_path / "nothing")

    code = bench.main([*arguments, "--tools", "rx-unverified,ORT basic", "--json", str(out)])

    report = json.loads(out.read_text(encoding="utf-8"))
    assert code == 0
    assert report["rows"][0]["runs"]["rx-unverified"]["nodes"] == 1
    assert report["rows"][0]["runs"]["ORT basic"]["wrong"] == []
    assert all(report["bars"]["rx-unverified"].values())
    assert "met     rx-unverified: right on every model" in capsys.readouterr().out


def test_no_models_is_an_error(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(models, "ASSETS", tmp_path)

    assert bench.main(["big", "--tools", "rx"]) == 2
    assert "no big_decoder.onnx" in capsys.readouterr().err
