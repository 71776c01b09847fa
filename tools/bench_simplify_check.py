#!/usr/bin/env python3
"""Is a simplified model right, and how large is it? Judged by plain ONNX Runtime and onnx alone.

    python3 tools/bench_simplify_check.py ORIGINAL [RESULT]

prints one JSON object: `nodes`, `operators`, `bytes` of the result, `wrong`, a list of what is not
as in the original, and `dropped`, the number of optional inputs that are gone (weights that
callers could override, as old exporters list them). Both run without graph optimisations, on two
shapes where axes are dynamic.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

sys.path.append(str(Path(__file__).resolve().parent.parent))

from tools.bench_simplify_inputs import Sample, run, samples, session

TOLERANCE = 1e-4  # of the largest absolute value of an output
COARSE = {np.dtype(np.float16): 5e-3}  # five units in the last place


def nodes(model: onnx.ModelProto) -> Counter[str]:
    """Nodes by operator type in all graphs and functions; `Constant` is none."""
    found: Counter[str] = Counter()
    todo = [list(model.graph.node), *(list(function.node) for function in model.functions)]
    while todo:
        for node in todo.pop():
            if node.op_type != "Constant":
                found[node.op_type if not node.domain else f"{node.domain}.{node.op_type}"] += 1
            for attribute in node.attribute:
                todo.extend(list(graph.node) for graph in (attribute.g, *attribute.graphs))
    return found


def file_bytes(path: Path) -> int:
    """Of a model and the external data that it names."""
    model = onnx.load(path, load_external_data=False)
    locations = {
        entry.value
        for tensor in model.graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return sum(file.stat().st_size for file in (path, *(path.parent / name for name in locations)))


def interface(model: onnx.ModelProto) -> dict[str, list[tuple[str, int, tuple[str, ...]]]]:
    """Names, element types and sizes of the inputs without weights, and of the outputs."""
    weights = {tensor.name for tensor in model.graph.initializer}

    def facts(value: onnx.ValueInfoProto) -> tuple[str, int, tuple[str, ...]]:
        tensor = value.type.tensor_type
        sizes = tuple(dim.dim_param or str(dim.dim_value) for dim in tensor.shape.dim)
        return value.name, tensor.elem_type, sizes

    return {
        "input": [facts(value) for value in model.graph.input if value.name not in weights],
        "output": [facts(value) for value in model.graph.output],
    }


def changed(before: onnx.ModelProto, after: onnx.ModelProto) -> list[str]:
    """What the result's interface does not keep: an input, an output, a type, a dynamic size.

    A size that is named in the outputs alone, as exporters do with what they do not know, may
    become the number that it is.
    """
    wrong = []
    symbols = {size for *_, sizes in interface(before)["input"] for size in sizes}
    for kind, old in interface(before).items():
        new = interface(after)[kind]
        if [name for name, *_ in old] != [name for name, *_ in new]:
            wrong.append(f"{kind}s renamed, dropped or moved")
            continue
        for (name, old_type, old_sizes), (_, new_type, new_sizes) in zip(old, new, strict=True):
            if old_type != new_type:
                wrong.append(f"type of {kind} {name}")
            if old_sizes and len(old_sizes) != len(new_sizes):
                wrong.append(f"rank of {kind} {name}")
            for a, b in zip(old_sizes, new_sizes, strict=False):
                unknown = a == "0" or (kind == "output" and a not in symbols and not a.isdigit())
                if a != b and not (unknown and (a == "0" or b.isdigit())):
                    wrong.append(f"size {a} of {kind} {name} is {b}")
    return wrong


def differences(
    names: Sequence[str], before: Sequence[Any], after: Sequence[Any], tolerance: float = TOLERANCE
) -> list[str]:
    """Outputs that are not the same within `tolerance` of the largest absolute value of each."""
    return [
        name for name, a, b in zip(names, before, after, strict=True) if not _same(a, b, tolerance)
    ]


def _same(a: Any, b: Any, tolerance: float) -> bool:
    if isinstance(a, Mapping):
        return (
            isinstance(b, Mapping)
            and a.keys() == b.keys()
            and all(_same(a[key], b[key], tolerance) for key in a)
        )
    if isinstance(a, list):
        return (
            isinstance(b, list)
            and len(a) == len(b)
            and all(_same(x, y, tolerance) for x, y in zip(a, b, strict=True))
        )
    if a is None or b is None:
        return a is b
    x, y = np.asarray(a), np.asarray(b)
    if x.dtype != y.dtype or x.shape != y.shape:
        return False
    if x.dtype.kind not in "fc":
        return bool(np.array_equal(x, y))
    limit = max(tolerance, COARSE.get(x.dtype, 0.0))
    finite = np.isfinite(x)
    scale = float(np.abs(x[finite].astype(np.float64)).max(initial=0.0))
    close = np.abs(x[finite].astype(np.float64) - y[finite].astype(np.float64))
    same_special = np.array_equal(x[~finite], y[~finite], equal_nan=True)
    return bool(same_special and (close <= limit * scale + 1e-12).all())


def _references(original: Path) -> Iterator[tuple[Sample, list[Any]]]:
    model = session(original)
    for sample in samples(model):
        yield sample, run(model, sample)


def dropped(before: onnx.ModelProto, after: onnx.ModelProto) -> int:
    """Weights that callers could override in the original and cannot in the result."""
    weights = {tensor.name for tensor in before.graph.initializer}
    kept = {value.name for value in after.graph.input}
    return sum(v.name in weights and v.name not in kept for v in before.graph.input)


def size(path: Path) -> dict[str, Any]:
    """Nodes, operators and bytes of a model."""
    operators = nodes(onnx.load(path, load_external_data=False))
    return {"nodes": operators.total(), "operators": dict(operators), "bytes": file_bytes(path)}


def check(original: Path, result: Path) -> dict[str, Any]:
    """Everything about a result."""
    before, after = (onnx.load(path, load_external_data=False) for path in (original, result))
    wrong = changed(before, after)
    try:
        references = list(_references(original))
        model = session(result)
        names = [output.name for output in before.graph.output]
        for sample, outputs in references:
            wrong += [f"output {n}" for n in differences(names, outputs, run(model, sample))]
    except Exception as error:  # noqa: BLE001 - a result that does not run is a finding
        wrong.append(f"does not run: {str(error).strip()[:200]}")
    return {**size(result), "wrong": list(dict.fromkeys(wrong)), "dropped": dropped(before, after)}


def main(argv: list[str] | None = None) -> int:
    """Check and print."""
    parser = argparse.ArgumentParser(description="Compare a simplified model with its original.")
    parser.add_argument("original", type=Path)
    parser.add_argument("result", type=Path, nargs="?", help="without it: the original's size")
    args = parser.parse_args(argv)
    found = check(args.original, args.result) if args.result else size(args.original)
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
