"""Parts of tools/bench_int8.py: pictures, judges, other tools, memory of ranges, whole runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from tools import bench_int8_data, bench_int8_others, bench_int8_peers, bench_int8_ranges
from tools.bench_data import Task
from tools.bench_int8_data import IMAGES, LENGTHS, Half, Pictures, halves
from tools.bench_int8_others import OTHERS, other_row
from tools.bench_int8_ranges import measure_ranges
from tools.bench_int8_rows import ImagesJudge, ImagesRow, LengthsJudge, LengthsRow
from tools.bench_measure import read, session
from tools.bench_quantize_data import DOMAINS, Data
from tools.bench_quantize_peers import Peer, main
from tools.bench_run import Done, Job

Array = Any


@pytest.fixture
def network(tmp_path: Path) -> Callable[..., Path]:
    """Sums the channels of a picture of 2 x 2 with weights (3, 3)."""

    def make(name: str, weight: Array) -> Path:
        text = """<ir_version: 8, opset_import: ["": 17]>
            g (float[1, 3, 2, 2] input) => (float[1, 3] y) {
            a = Conv (input, w) b = GlobalAveragePool (a) y = Flatten (b) }"""
        model = onnx.parser.parse_model(text)
        kernel = np.asarray(weight, np.float32).reshape(3, 3, 1, 1)
        model.graph.initializer.append(numpy_helper.from_array(kernel, "w"))
        onnx.save(model, tmp_path / name)
        return tmp_path / name

    return make


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pictures whose mean is largest in one channel, which is the right class."""

    def imagenet(name: str, calibrate: int, score: int) -> Callable[..., None]:
        def make(task: Task, rng: np.random.Generator) -> None:
            labels = [number % 3 for number in range(calibrate + score)]
            for number, label in enumerate(labels):
                pixels = rng.normal(scale=0.1, size=(1, 3, 2, 2)).astype(np.float32)
                pixels[0, label] += 1
                task.add("calibrate" if number < calibrate else "score", {name: pixels})
            task.facts = {"labels": labels[calibrate:], "calibrate_labels": labels[:calibrate]}

        return make

    monkeypatch.setattr(bench_int8_data, "imagenet", imagenet)
    return tmp_path / "pictures"


SWAPPED = np.eye(3)[[1, 0, 2]]  # takes class 0 for 1, and 1 for 0


def test_each_half_is_scored_by_what_did_not_see_it(
    network: Callable[..., Path], folder: Path
) -> None:
    model = network("original.onnx", SWAPPED)
    found = halves(model, folder, (6, 9))
    assert [half.data.calibrate.name for half in found] == ["calibrate", "score"]
    assert [half.data.score[IMAGES].name for half in found] == ["score", "calibrate"]
    assert [len(half.labels) for half in found] == [9, 6]
    assert [len(half.data.short) for half in found] == [8, 6]
    # what the model says, not what is right
    labels = [int(sample["label"].item()) for sample in read(folder / "score")]
    assert labels == [[1, 0, 2][label] for label in found[0].labels]
    assert halves(model, folder, (6, 9))[1].labels == found[1].labels


def test_more_pictures_than_there_are_come_mirrored(
    network: Callable[..., Path], folder: Path
) -> None:
    halves(network("original.onnx", np.eye(3)), folder, (2, 3))
    made = Pictures(folder, 7)
    assert len(made) == len(list(made)) == 7
    assert set(made[0]) == {"input"}
    assert (made[5]["input"] == made[0]["input"][..., ::-1]).all()
    assert (made[2]["input"] == read(folder / "score")[0]["input"]).all()
    with pytest.raises(IndexError):
        made[7]


def test_classes_are_compared_and_a_rival_is_timed(
    network: Callable[..., Path], folder: Path
) -> None:
    original = network("original.onnx", np.eye(3))
    half = halves(original, folder, (3, 6))[0]
    swapped = network("swapped.onnx", SWAPPED)
    judge = ImagesJudge(original, half, 1, 0.01, swapped)
    row = judge.measured(ImagesRow("swapped"), swapped)
    assert isinstance(row, ImagesRow)
    assert row.same == pytest.approx(1 / 3)
    assert row.accuracy == pytest.approx((1.0, 1 / 3))
    assert 0 < row.cosine[IMAGES][0] < 1
    assert row.against[0] > 0
    assert row.against[1] <= row.against[2]
    alone = ImagesJudge(original, half, 1, 0.01).measured(ImagesRow("same"), original)
    assert isinstance(alone, ImagesRow)
    assert (alone.same, np.isnan(alone.against[0])) == (1.0, True)


def test_all_lengths_are_timed(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["": 17]>
        g (int64[1, n] input_ids, int64[1, n] attention_mask) => (float[1, n] y) {
        a = Add (input_ids, attention_mask) y = Cast <to = 1> (a) }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "m.onnx")
    for domain in DOMAINS:
        (tmp_path / domain).mkdir()
        for number in range(4):
            ids = np.concatenate([[101], np.arange(2, 1200), [102]])[None]
            mask = np.ones_like(ids)
            np.savez(tmp_path / domain / f"{number}.npz", input_ids=ids, attention_mask=mask)
    score = {domain: tmp_path / domain for domain in DOMAINS}
    judge = LengthsJudge(tmp_path / "m.onnx", Data(tmp_path, score, []), 1, 0.01)
    shapes = {name: found[0]["input_ids"].shape for name, found in judge.sequences.items()}
    assert shapes == {str(length): (1, length) for length in LENGTHS}
    row = judge.measured(LengthsRow("same"), tmp_path / "m.onnx")
    assert isinstance(row, LengthsRow)
    assert set(row.ratios) == set(shapes)
    assert row.ratio == row.ratios["32"][0]


def test_labels_are_no_inputs(
    network: Callable[..., Path], folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    original = network("original.onnx", np.eye(3))
    halves(original, folder, (2, 3))
    session(original, 1)(read(folder / "score")[0])
    seen: list[Any] = []

    def make(model: onnx.ModelProto, before: onnx.ModelProto, samples: Any) -> onnx.ModelProto:
        seen.extend(samples)
        return before

    output = tmp_path / "made.onnx"
    words = ["tool", *map(str, (original, original, folder / "score", output))]
    assert main(words, {"tool": Peer(make)}) == 0
    assert [set(sample) for sample in seen] == [{"input"}] * 3
    assert float(output.with_suffix(".peak").read_text(encoding="utf-8")) > 0


def test_onnxruntime_quantizes_by_channel(
    network: Callable[..., Path],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    pytest.importorskip("onnxruntime.quantization")
    original = network("original.onnx", SWAPPED)
    halves(original, folder, (2, 3))
    words = [bench_int8_peers.RIVAL, *map(str, (original, original, folder / "score"))]
    words.append(str(tmp_path / "made.onnx"))
    monkeypatch.setattr(sys, "argv", ["script", *words])
    assert main(words, bench_int8_peers.PEERS) == 0
    made = onnx.load(tmp_path / "made.onnx")
    scales = {t.name: t for t in made.graph.initializer if t.name.startswith("w_scale")}
    assert [list(tensor.dims) for tensor in scales.values()] == [[3]]
    assert not list(tmp_path.glob("*.part.onnx"))


def test_ranges_are_measured_in_a_process_of_its_own(
    network: Callable[..., Path], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = network("original.onnx", np.eye(3))
    halves(original, folder, (2, 3))
    found = measure_ranges(original, folder, 7, "quantize-static")
    assert "error" not in found, found
    assert (found["images"], found["layers"]) == (7, 1)
    assert found["tensors"] == 2
    assert set(found["methods"]) == {"entropy", "percentile"}
    assert found["float_mb"] <= found["peak_mb"]
    with pytest.raises(ValueError, match=r"finds no layer in original\.onnx"):
        bench_int8_ranges.run(original, folder, 7, "quantize-dynamic")
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\necho first >&2; echo last >&2; exit 3\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    assert measure_ranges(original, folder, 7) == {"error": "last"}


def test_other_models_are_run_both_ways(
    network: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models").mkdir()
    model = network("models/tiny.onnx", np.eye(3))
    asked: list[Job] = []

    def run(job: Job) -> Done:
        asked.append(job)
        if job.freeze_weights:
            return Done(4, "no such model", 1.0, None, {})
        Path(job.output).write_bytes(model.read_bytes())
        layers: list[Any] = [{"stages": [], "skipped": None, "why": "nothing pays"}]
        return Done(0, "", 2.0, 3.0, {"layers": layers, "notes": ["a note"]})

    def prepare(task: Task, rng: np.random.Generator) -> None:
        for part in ("calibrate", "score"):
            task.add(part, {"input": np.ones((1, 3, 2, 2), np.float32)})

    monkeypatch.setattr(bench_int8_others, "ASSETS", tmp_path)
    monkeypatch.setattr(bench_int8_others, "PREPARE", {"tiny": prepare})
    monkeypatch.setattr(bench_int8_others, "run", run)
    row = other_row("tiny", tmp_path / "work", 1, 0.01)
    assert (row.error, row.notes, row.reasons) == ("", ["a note"], {"nothing pays": 1})
    assert row.bytes_before == row.bytes_after
    assert row.cosine is not None
    assert row.cosine["mean"] == pytest.approx(1.0)
    assert (row.cpu_seconds, row.peak_mb, row.layers) == (2.0, 3.0, {"kept": 1})
    row = other_row("tiny, raised", tmp_path / "work", 1, 0.01)
    assert (row.exit_code, row.error) == (4, "no such model")
    assert [tuple(job.also) for job in asked] == [(), ("raise-opset",)]
    json.dumps(vars(row))


def test_models_of_the_issue_are_measured() -> None:
    named = " ".join(OTHERS)
    for word in ("silero_vad", "ultraface", "super_resolution", "vit_ibp", "magika"):
        assert word in named
    assert bench_int8_ranges.COUNT == 512
    assert isinstance(Half(Data(Path(), {}, []), []), tuple)
