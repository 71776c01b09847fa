"""SimpleConvNet at the ranks of the literature: our decompositions with data beside plain ones."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import onnx

import onnxslim_rx as rx
from onnxslim_rx.passbase import Stage
from onnxslim_rx.plans import LayerPlan
from onnxslim_rx.registry import offered
from tools import bench_measure
from tools.bench_conv_cifar import PASS
from tools.bench_conv_macs import sites
from tools.bench_conv_peers import at_ranks
from tools.bench_data import ASSETS
from tools.bench_run import ROOT, Job, run

__all__ = ["SETTINGS", "SimpleRow", "parameters", "simple_rows", "stages", "trained"]

LINEAR_PASS = "tensorize-gemm"
WEIGHTING = "patches"
SMALL = {"min_elements": 1, "min_saving": 0.0}  # the first and the last layer are small, too


@dataclasses.dataclass(frozen=True)
class Setting:
    """Ranks for all layers.

    Args:
        method: "tucker" or "tt".
        rank_in, rank_out: of the side of the channels, and of the filters; cut to each layer's.
        literature: how many times fewer parameters that is, as published.
    """

    method: str
    rank_in: int
    rank_out: int
    literature: float

    def __str__(self) -> str:
        return f"{self.method} {self.rank_in}-{self.rank_out}"


# Tucker ranks are published as [filters, channels], those of tensor trains along the train
SETTINGS = (
    Setting("tucker", 32, 16, 7.0), Setting("tucker", 16, 8, 14.2), Setting("tt", 8, 16, 22.0)
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class SimpleRow:
    """One compressed network.

    Args:
        setting: see `Setting`.
        way: "ours" or "plain".
        literature: parameters, before by after, as published.
        params: before and after, biases included.
        accuracy: top-1 on held-out images, before and after.
        ratio: latency, of the original's.
        seconds: CPU time.
        error: why there is none of the above, or what was left out.
    """

    setting: str
    way: str
    literature: float
    params: tuple[int, int] = (0, 0)
    accuracy: tuple[float, float] = (math.nan, math.nan)
    ratio: float = math.nan
    seconds: float = 0.0
    error: str = ""

    @property
    def compression(self) -> float:
        """Parameters, before by after."""
        return self.params[0] / self.params[1] if self.params[1] else math.nan


def trained(work: Path, python: str = sys.executable) -> Path:
    """SimpleConvNet, trained once by a Python that has torch, and kept in `work`.

    Raises:
        RuntimeError: it could not be trained.
    """
    target = work / "simpleconvnet.onnx"
    if not target.is_file():
        script, data = ROOT / "models" / "train_simpleconvnet.py", ASSETS / "data"
        command = [python, str(script), str(data / "cifar10_train.zip"), str(target)]
        command += ["--test", str(data / "cifar10_test_half.zip")]
        if code := subprocess.run(command, check=False).returncode:
            raise RuntimeError(f"training ended with {code}; --python names one that has torch")
    return target


def simple_rows(
    model: Path, data: Path, work: Path, threads: int, seconds: float
) -> Iterator[SimpleRow]:
    """Each setting, ours and plain."""
    for setting in SETTINGS:
        for way, make in (("ours", _ours), ("plain", _plain)):
            row = SimpleRow(str(setting), way, setting.literature)
            output = work / f"simple_{str(setting).replace(' ', '_')}_{way}.onnx"
            cost, error = make(model, data, setting, output)
            row = dataclasses.replace(row, seconds=cost, error=error)
            if not output.is_file():
                yield row
                continue
            found = bench_measure.measure(model, output, data, threads, seconds)
            yield dataclasses.replace(
                row, params=(parameters(model), parameters(output)), ratio=found["ratio"],
                accuracy=(found["task"][1], found["task"][2]),
            )  # fmt: skip


def _plain(model: Path, _: Path, setting: Setting, output: Path) -> tuple[float, str]:
    """By tensorly."""
    start = time.process_time()
    ranks = (setting.rank_in, setting.rank_out)
    onnx.save(at_ranks(onnx.load(model), setting.method, ranks), output)
    return time.process_time() - start, ""


def _ours(model: Path, data: Path, setting: Setting, output: Path) -> tuple[float, str]:
    """By a plan that says everything; it is carried out on calibration data and fitted to it."""
    chosen = stages(model, setting)
    missing = sorted({stage.pass_name for stage in chosen.values()} - offered().keys())
    layers = tuple(
        LayerPlan(name, (stage,)) for name, stage in chosen.items() if stage.pass_name in offered()
    )
    empty = rx.plan(model, preset="safe", progress=False)
    # a size that holds anyway, so that nothing is promised of the outputs
    budget = {"max_bytes": 2 * model.stat().st_size}
    plan = dataclasses.replace(empty, layers=layers, refit=True, budget=budget)
    written = output.with_suffix(".toml")
    written.write_text(plan.to_toml(), encoding="utf-8")
    options = {name: SMALL for name in (PASS, LINEAR_PASS) if name in offered()}
    job = Job(
        str(model), str(output), data=str(data / "calibrate"), plan=str(written), options=options
    )
    done = run(job)
    error = done.error or (f"no pass {', '.join(missing)}" if missing else "")
    return done.cpu_seconds, error


def stages(model: Path, setting: Setting) -> dict[str, Stage]:
    """What is done to each weight: all layers in which that takes fewer parameters."""
    found: dict[str, Stage] = {}
    for site in sites(onnx.load(model)):
        ranks = _cut(setting, site.weight)
        make, size = (
            (conv_stage, conv_size) if len(site.weight) > 2 else (linear_stage, linear_size)
        )
        if size(setting.method, ranks, site.weight) < math.prod(site.weight):
            found[site.node.input[1]] = make(setting.method, ranks, site.weight)
    return found


def _cut(setting: Setting, shape: Sequence[int]) -> tuple[int, int]:
    return min(setting.rank_in, shape[1]), min(setting.rank_out, shape[0])


def conv_stage(method: str, ranks: tuple[int, int], _: Sequence[int]) -> Stage:
    """A convolution becomes three."""
    options = {"method": method, "weighting": WEIGHTING}
    return Stage(PASS, {**options, "rank_in": ranks[0], "rank_out": ranks[1]})


def conv_size(_: str, ranks: tuple[int, int], shape: Sequence[int]) -> int:
    """Weights of the three."""
    inner, outer = ranks
    return shape[1] * inner + inner * outer * math.prod(shape[2:]) + outer * shape[0]


def linear_stage(method: str, ranks: tuple[int, int], shape: Sequence[int]) -> Stage:
    """A Gemm becomes three products."""
    options: dict[str, int | str] = {"method": method, "rank_in": ranks[0], "rank_out": ranks[1]}
    return Stage(LINEAR_PASS, options | ({"split": _split(ranks, shape)} if method == "tt" else {}))


def linear_size(method: str, ranks: tuple[int, int], shape: Sequence[int]) -> int:
    """Weights of the three, or what they were where there is no such train."""
    if method != "tt":
        return conv_size(method, ranks, shape)
    split = _split(ranks, shape)
    train = shape[1] * ranks[0] + ranks[0] * split * ranks[1] + ranks[1] * shape[0] // split
    return train if split > 1 else math.prod(shape)


def _split(ranks: tuple[int, int], shape: Sequence[int]) -> int:
    """The first of the two sides of a train's filters: that with the fewest weights, 1 if none.

    The other side is no smaller than its rank.
    """
    filters, (inner, outer) = shape[0], ranks
    sides = [side for side in range(2, filters) if filters % side == 0]
    sides = [side for side in sides if filters // side >= outer]
    return min(
        sides, key=lambda side: (inner * side * outer + outer * filters // side, -side), default=1
    )


def parameters(path: Path) -> int:
    """Floating-point constants of a model."""
    tensors = onnx.load(path).graph.initializer
    return sum(math.prod(t.dims) for t in tensors if t.data_type == onnx.TensorProto.FLOAT)
