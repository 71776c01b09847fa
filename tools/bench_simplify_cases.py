"""Suites `micro` and `backend`: many small models, each tool in one process for all of them."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper

from tools.bench_simplify_batch import OPTIMIZE, Job, prepare, run_jobs
from tools.bench_simplify_check import nodes
from tools.bench_simplify_models import ASSETS, light_models

SECONDS = 5.0  # most that one case may take
MICRO, SAFETY = 120, "safety"  # targets that must be reached, and the group that must be whole


@dataclasses.dataclass
class Case:
    """One case and what a tool made of it.

    Args:
        name, group: of the case.
        error: the tool failed.
        skip: why outputs cannot be compared.
        wrong: outputs that are not as before.
        seconds: wall time.
        nodes: of the result; suite `micro` alone, as `target` and `kept`.
        target: nodes that a good simplifier leaves.
        kept: the property that the case is about holds.
    """

    name: str
    group: str
    error: str = ""
    skip: str = ""
    wrong: list[str] = dataclasses.field(default_factory=list)
    seconds: float | None = None
    nodes: int | None = None
    target: int | None = None
    kept: bool = True

    @property
    def right(self) -> bool:
        """There is a result, with the same outputs."""
        return not self.error and not self.wrong

    @property
    def reached(self) -> bool:
        """Right, with the property, and at the target."""
        small = None not in (self.nodes, self.target) and self.nodes <= self.target  # type: ignore[operator]
        return self.right and self.kept and small

    @property
    def why(self) -> str:
        """What is not good, in a few words."""
        if self.error:
            return self.error
        if self.wrong:
            return f"wrong: {', '.join(self.wrong)}"
        if not self.kept:
            return "property lost"
        return f"{self.nodes} > {self.target} nodes"


def micro(tools: Sequence[str]) -> dict[str, list[Case]]:
    """Graphs of one rewrite each, through each tool.

    Raises:
        FileNotFoundError: the assets are not there.
    """
    cases = _micro_cases(ASSETS / "export_set" / "micro_cases.py")
    found: dict[str, list[Case]] = {}
    with tempfile.TemporaryDirectory() as folder:
        jobs = [
            prepare(Path(folder), name, case["model"], case["feeds"], onnx.save)
            for name, case in cases.items()
        ]
        for tool in tools:
            found[tool] = [
                _judged(Case(job["name"], cases[job["name"]]["group"]), result, job, cases)
                for job, result in zip(jobs, run_jobs(tool, jobs), strict=True)
            ]
    return found


def _micro_cases(path: Path) -> dict[str, Any]:
    spec = importlib.util.spec_from_file_location("micro_cases", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise FileNotFoundError(f"no {path}; set ONNXSLIM_RX_ASSETS to the folder that has it")
    module = importlib.util.module_from_spec(spec)
    sys.modules["micro_cases"] = module
    spec.loader.exec_module(module)
    cases: dict[str, Any] = module.CASES
    return cases


def _judged(
    case: Case, result: Mapping[str, Any], job: Job, cases: Mapping[str, Mapping[str, Any]]
) -> Case:
    facts = cases[case.name]
    case.target = facts["target"]
    _take(case, result)
    path = Path(job["output"])
    if not case.error and path.is_file():
        model = onnx.load(path)
        case.nodes = nodes(model).total()
        case.kept = facts["prop"] is None or _holds(facts["prop"], model)
        path.unlink()
    return case


def _holds(check: Callable[[onnx.ModelProto], bool], model: onnx.ModelProto) -> bool:
    try:
        return bool(check(model))
    except (IndexError, AttributeError, ValueError):
        return False  # the node that it looks at is not there


def _take(case: Case, result: Mapping[str, Any]) -> None:
    for key in ("error", "skip", "wrong", "seconds"):
        setattr(case, key, result.get(key, getattr(case, key)))


def backend(tools: Sequence[str], only: str = "") -> dict[str, list[Case]]:
    """ONNX's own backend suite through each tool, without cases that ORT does not run.

    Args:
        tools: names of tools, or OPTIMIZE.
        only: part of the names of cases.
    """
    found: dict[str, list[Case]] = {tool: [] for tool in tools}
    groups: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        jobs = []
        for kind, name, model, feeds in _backend_cases():
            if only in name:
                groups[f"{kind}.{name}"] = kind
                jobs.append(prepare(Path(folder), f"{kind}.{name}", model, feeds, _write))
        for tool in tools:
            for job, result in zip(jobs, run_jobs(tool, jobs), strict=True):
                case = Case(job["name"], groups[job["name"]])
                _take(case, result)
                if case.error.startswith(("InputError", "BudgetError")) and tool == OPTIMIZE:
                    case.skip = case.skip or f"refused, untouched: {case.error}"
                    case.error = ""
                if not case.skip:
                    found[tool].append(case)
                Path(job["output"]).unlink(missing_ok=True)
    return found


def _write(model: onnx.ModelProto | Path, path: str) -> None:
    """Write a model, or the copy of a file."""
    content = model.read_bytes() if isinstance(model, Path) else model.SerializeToString()
    Path(path).write_bytes(content)


def _backend_cases() -> Iterator[tuple[str, str, onnx.ModelProto | Path, list[dict[str, Any]]]]:
    """Kind, name, model and inputs of each case."""
    from onnx.backend.test.loader import load_model_tests

    for kind in ("simple", "pytorch-converted", "pytorch-operator"):
        for case in load_model_tests(kind=kind):
            folder = Path(case.model_dir or "")
            path = folder / "model.onnx"
            model = onnx.load(path)
            feeds = [_read(model, data) for data in sorted(folder.glob("test_data_set_*"))]
            yield kind, case.name, path, feeds
    for path in sorted(light_models().glob("*.onnx")):
        value = onnx.load(path).graph.input[0]
        shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        array = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        yield "light", path.stem, path, [{value.name: array}]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy overflows on purpose in these cases
        from onnx.backend.test.case.node import collect_testcases

        made = collect_testcases(None)
    for case in made:
        assert case.model is not None
        names = [value.name for value in case.model.graph.input]
        feeds = [_named(names, inputs) for inputs, _ in case.data_sets or ()]
        yield "node", case.name, case.model, feeds


def _named(names: Sequence[str], inputs: Any) -> dict[str, Any]:
    """Inputs by name; a mapping comes as it is, an optional that is absent as nothing."""
    if isinstance(inputs, Mapping):
        return dict(inputs)
    return {name: value for name, value in zip(names, inputs, strict=False) if value is not None}


def _read(model: onnx.ModelProto, folder: Path) -> dict[str, Any]:
    """A set of inputs in the files input_0.pb, input_1.pb, ..."""
    feed: dict[str, Any] = {}
    weights = {tensor.name for tensor in model.graph.initializer}
    values = [value for value in model.graph.input if value.name not in weights]
    for index, value in enumerate(values):
        path = folder / f"input_{index}.pb"
        if not path.is_file():
            continue
        content = path.read_bytes()
        if value.type.HasField("sequence_type"):
            sequence = onnx.SequenceProto.FromString(content)
            feed[value.name] = onnx.numpy_helper.to_list(sequence)
        elif value.type.HasField("tensor_type"):
            feed[value.name] = onnx.numpy_helper.to_array(onnx.TensorProto.FromString(content))
    return feed


def micro_verdict(cases: Sequence[Case]) -> dict[str, bool]:
    """The bars of suite `micro`."""
    safe = [case for case in cases if case.group == SAFETY]
    return {
        f"at least {MICRO} at their target": sum(case.reached for case in cases) >= MICRO,
        "all of the group safety": bool(safe) and all(case.reached for case in safe),
    }


def backend_verdict(cases: Sequence[Case]) -> dict[str, bool]:
    """The bars of suite `backend`."""
    times = [case.seconds for case in cases if case.seconds is not None]
    return {
        "all right": bool(cases) and all(case.right for case in cases),
        f"each below {SECONDS:g} s": bool(times) and max(times) < SECONDS,
    }
