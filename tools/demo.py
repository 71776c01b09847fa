"""The demo that `tools/dev.py demo` runs: one call of the command line, on the project's own model.

Without a model it optimises models/digits.onnx under a budget of half a point of accuracy, and
then measures accuracy on 600 images that neither training nor optimisation has seen. A model of
the user's is optimised under the default budget, on generated inputs.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

import numpy as np

from onnxslim_rx import cli
from onnxslim_rx.runtime import Runner

ROOT = Path(__file__).resolve().parent.parent
MODELS = ROOT / "models"
DIGITS = MODELS / "digits.onnx"
DIGITS_OPTIONS = [
    "--calibration", str(MODELS / "digits_calibration.npz"), "--metric", "top1",
    "--max-drop", "0.005",
]  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Optimise, show, and say where the results lie; the exit code of the command line."""
    parser = argparse.ArgumentParser(description="Optimise a model and show the result.")
    parser.add_argument("model", nargs="?", type=Path, default=DIGITS)
    parser.add_argument("--output", type=Path, default=ROOT / "demo-output")
    args = parser.parse_args(argv)
    own = args.model.resolve() == DIGITS
    args.output.mkdir(parents=True, exist_ok=True)
    base = args.output / args.model.stem
    slim, report = base.with_suffix(".slim.onnx"), base.with_suffix(".html")
    command = ["optimize", str(args.model), "-o", str(slim), "--report", str(report)]
    command += ["--json", str(base.with_suffix(".json"))]
    command += ["--save-plan", str(base.with_suffix(".toml"))]
    command += DIGITS_OPTIONS if own else []
    print("$ " + shlex.join(["onnxslim-rx", *command]), flush=True)
    code = cli.main(command)
    if code != 0:
        return code
    if own:
        before, after = (accuracy(path) for path in (DIGITS, slim))
        print(f"accuracy on 600 images that nothing above has seen: {before:.2%} -> {after:.2%}")
    print(f"report, with plots, for any browser: {report.resolve().as_uri()}")
    return 0


def accuracy(model: Path) -> float:
    """Share of the test digits that `model` gets right."""
    with np.load(MODELS / "digits_test.npz") as data:
        images, labels = data["image"], data["label"]
    logits = Runner(model)({"image": images})["logits"]
    return float(np.mean(np.argmax(logits, axis=1) == labels))


if __name__ == "__main__":
    sys.exit(main())
