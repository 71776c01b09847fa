"""Verbs and options, and the help that explains them. Imports nothing heavy."""

from __future__ import annotations

import argparse
from typing import get_args

from onnxslim_rx.cli import values
from onnxslim_rx.cli.argparser import Parser
from onnxslim_rx.vocabulary import Preset, VerifyMode

__all__ = ["build_parser"]

PROG = "onnxslim-rx"
METRICS = "top1, top5, map, ndcg, spearman, perplexity, wer, cer, psnr"

_DESCRIPTION = """\
Make ONNX models smaller and faster, and keep a promise about their quality.

You say what must hold (a cosine, a metric, a size, a latency). onnxslim-rx searches for the
cheapest graph that keeps it, checks the result on data that nothing was fitted to, and shows
what it did to each layer and why."""

_EXIT_CODES = """\
exit codes:
  0  done
  1  the promise could not be kept; no model was written
  2  bad usage or bad input
  3  a bug of onnxslim-rx; the message says how to report it
  130  interrupted"""

_EPILOG = f"""\
examples:
  {PROG} optimize model.onnx -o small.onnx
  {PROG} optimize model.onnx -o small.onnx --min-cosine 0.995 --calibration samples/
  {PROG} optimize model.onnx -o small.onnx --max-bytes 23MB --report report.html
  {PROG} simplify model.onnx -o clean.onnx
  {PROG} inspect model.onnx
  {PROG} bench model.onnx small.onnx

'{PROG} VERB --help' explains a verb and shows its options.

{_EXIT_CODES}"""


def build_parser() -> Parser:
    """The parser of the whole command line; parsed arguments name the verb in `verb`."""
    parser = Parser(prog=PROG, description=_DESCRIPTION, epilog=_EPILOG)
    parser.add_argument("--version", action="store_true", help="show the version and exit")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", title="verbs", parser_class=Parser)
    _add_optimize(verbs)
    _add_simplify(verbs)
    _add_plan(verbs)
    _add_inspect(verbs)
    _add_compare(verbs)
    _add_bench(verbs)
    _add_lists(verbs)
    return parser


_Verbs = argparse._SubParsersAction  # argparse has no public name for it


def _verb(
    verbs: _Verbs[Parser], name: str, operands: str, short: str, text: str, examples: str = ""
) -> Parser:
    epilog = f"examples:\n{examples}\n\n{_EXIT_CODES}" if examples else _EXIT_CODES
    usage = " ".join(filter(None, (PROG, name, operands, "[options]")))
    return verbs.add_parser(
        name, prog=f"{PROG} {name}", usage=usage, help=short, description=text, epilog=epilog
    )


def _model(parser: Parser, *, output: str = "") -> None:
    parser.add_argument("model", metavar="MODEL", help="the ONNX file")
    if output:
        parser.add_argument("-o", "--output", metavar="OUT", required=True, help=output)


def _add_optimize(verbs: _Verbs[Parser]) -> None:
    parser = _verb(
        verbs,
        "optimize",
        "MODEL -o OUT",
        "compress a model within a budget",
        "Compress MODEL as far as the budget allows and write OUT.\n\n"
        "Without a budget the outputs keep a mean cosine of 0.99 with those of MODEL. Where\n"
        "nothing pays, OUT is the cleaned model and the summary says why.",
        f"  {PROG} optimize model.onnx -o small.onnx\n"
        f"  {PROG} optimize model.onnx -o small.onnx --calibration data.npz --max-drop 0.005 \\\n"
        "      --metric top1\n"
        f"  {PROG} optimize model.onnx -o small.onnx --metric score.py:accuracy --max-drop 0.01\n"
        f"  {PROG} optimize model.onnx -o again.onnx --plan plan.toml",
    )
    _model(parser, output="where the result goes; only written when the budget is kept")
    _add_budget(parser)
    search = _add_search(parser)
    fixed = search.add_mutually_exclusive_group()
    _add_preset(fixed)
    fixed.add_argument("--plan", metavar="FILE", help="carry out this plan instead of searching")
    _add_verify(search)
    output = _add_output(parser)
    output.add_argument("--save-plan", metavar="FILE", help="write the plan, for --plan")
    output.add_argument("--report", metavar="FILE.html", help="write the report as one HTML page")
    _add_profile(output)


def _add_simplify(verbs: _Verbs[Parser]) -> None:
    parser = _verb(
        verbs,
        "simplify",
        "MODEL -o OUT",
        "clean a model up without changing what it computes",
        "Fold, fuse and remove nodes of MODEL and write OUT. Outputs stay the same up to rounding.",
        f"  {PROG} simplify model.onnx -o clean.onnx",
    )
    _model(parser, output="where the result goes")
    rewrites = parser.add_argument_group("rewrites")
    _add_clean(rewrites)
    _add_verify(rewrites)
    output = _add_output(parser)
    _add_profile(output)


def _add_plan(verbs: _Verbs[Parser]) -> None:
    parser = _verb(
        verbs,
        "plan",
        "MODEL",
        "decide what optimize would do, write no model",
        "Search as optimize does and show what would be done to each layer.\n\n"
        "The plan is a readable TOML file; edit it if you like and pass it to optimize --plan.",
        f"  {PROG} plan model.onnx --min-cosine 0.999 -o plan.toml\n"
        f"  {PROG} optimize model.onnx -o small.onnx --plan plan.toml",
    )
    _model(parser)
    parser.add_argument("-o", "--save-plan", metavar="FILE", help="write the plan (TOML)")
    _add_budget(parser)
    search = _add_search(parser)
    _add_preset(search)
    _add_output(parser)


def _add_inspect(verbs: _Verbs[Parser]) -> None:
    parser = _verb(
        verbs,
        "inspect",
        "MODEL",
        "show parameters, operations and bytes of each layer",
        "Show each layer of MODEL with its parameters, multiply-adds and bytes, and whether it\n"
        "can be compressed or why it cannot.",
        f"  {PROG} inspect model.onnx\n  {PROG} inspect model.onnx --json - | jq .totals",
    )
    _model(parser)
    _add_calibration(parser)
    parser.add_argument(
        "--top", metavar="N", type=values.natural, default=20,
        help="list the N largest layers; 0: all of them (default: 20)",
    )  # fmt: skip
    _add_output(parser)


def _add_compare(verbs: _Verbs[Parser]) -> None:
    parser = _verb(
        verbs,
        "compare",
        "A B",
        "measure how close the outputs of two models are",
        "Run A and B on the same inputs and compare every output.",
        f"  {PROG} compare model.onnx small.onnx\n"
        f"  {PROG} compare model.onnx small.onnx --calibration samples/ --json -",
    )
    parser.add_argument("a", metavar="A", help="the reference, an ONNX file")
    parser.add_argument("b", metavar="B", help="the candidate, an ONNX file")
    _add_calibration(parser)
    _add_output(parser)


def _add_bench(verbs: _Verbs[Parser]) -> None:
    parser = _verb(
        verbs,
        "bench",
        "MODEL [MODEL ...]",
        "measure latency, memory and size of models side by side",
        "Time the models by turns, so that whatever else the machine does hits all alike.",
        f"  {PROG} bench model.onnx small.onnx tiny.onnx --calibration samples/",
    )
    parser.add_argument("models", metavar="MODEL", nargs="+", help="ONNX files")
    _add_calibration(parser)
    parser.add_argument("--metric", metavar="NAME|FILE.py:FUNC", help=f"also measure: {METRICS}")
    _add_output(parser)


def _add_lists(verbs: _Verbs[Parser]) -> None:
    for name, text in (
        ("passes", "list the passes that are installed"),
        ("devices", "list the devices that models can run on here"),
    ):
        _add_output(_verb(verbs, name, "", text, text[0].upper() + text[1:] + "."))
    parser = _verb(
        verbs,
        "completion",
        "{bash,zsh,tcsh}",
        "print a script that completes commands in your shell",
        "Print a completion script for your shell.",
        f"  {PROG} completion bash > ~/.local/share/bash-completion/completions/{PROG}",
    )
    parser.add_argument("shell", choices=("bash", "zsh", "tcsh"), help="your shell")


def _add_calibration(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--calibration", metavar="PATH",
        help="your data: a .npz file or a folder of .npz files, arrays named as the inputs; for a"
        " model with state (a cache of keys and values, say), each file or inner folder is a"
        " sequence, whose steps lie along axis 0 or are the files inside"
        " (default: generated inputs, which promise less)",
    )  # fmt: skip


def _add_budget(parser: Parser) -> None:
    group = parser.add_argument_group("budget", "What must hold; everything else is made small.")
    quality = group.add_mutually_exclusive_group()
    quality.add_argument(
        "--min-cosine", metavar="X", type=values.cosine,
        help="least mean cosine with the original's outputs (default: 0.99)",
    )  # fmt: skip
    quality.add_argument(
        "--min-snr", metavar="DB", type=values.decibel, help="least signal-to-noise ratio"
    )
    quality.add_argument(
        "--max-drop", metavar="X", type=values.drop,
        help="largest loss of --metric, absolute, in its units",
    )  # fmt: skip
    group.add_argument(
        "--metric", metavar="NAME|FILE.py:FUNC",
        help=f"measured before and after; higher is better: {METRICS}, or a function of yours"
        " that takes (run, data) and returns a number",
    )  # fmt: skip
    group.add_argument(
        "--max-bytes", metavar="SIZE", type=values.size, help="largest file, such as 23MB or 1.5GiB"
    )
    group.add_argument(
        "--max-latency", metavar="TIME", type=values.duration_ms,
        help="largest median latency on this machine, such as 12ms (plain numbers: ms)",
    )  # fmt: skip
    group.add_argument(
        "--max-flops", metavar="N", type=values.count,
        help="largest number of operations, two per multiply-add, such as 1.2G",
    )  # fmt: skip


def _add_search(parser: Parser) -> argparse._ArgumentGroup:
    group = parser.add_argument_group("search")
    _add_calibration(group)
    group.add_argument(
        "--target", metavar="NAME|FILE.toml", default="ort-cpu",
        help="the device to optimise for: " + ", ".join(_targets()) + " (default: ort-cpu)",
    )  # fmt: skip
    _add_clean(group)
    group.add_argument(
        "--only", metavar="PASS", action="append", default=[],
        help="use no pass but this one; may be given again",
    )  # fmt: skip
    group.add_argument(
        "--seed", metavar="N", type=values.natural, default=0,
        help="seed of everything random (default: 0)",
    )  # fmt: skip
    group.add_argument(
        "--cache", metavar="DIR",
        help="keep what calibration measures here, up to 20 GiB: the same run again need not"
        " measure it, and a run that was killed goes on (default: keep nothing)",
    )  # fmt: skip
    return group


def _add_clean(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--skip", metavar="PASS", action="append", default=[],
        help="leave this pass out; may be given again ('onnxslim-rx passes' lists them)",
    )  # fmt: skip
    group.add_argument(
        "--also", metavar="PASS", action="append", default=[],
        help="use this optional pass, which needs operators of com.microsoft or a newer opset; may"
        " be given again",
    )  # fmt: skip
    group.add_argument(
        "--freeze-weights", action="store_true",
        help="weights that the model also lists as inputs, as old exporters do, become constants:"
        " they can be compressed, and callers can no longer override them",
    )  # fmt: skip
    group.add_argument(
        "--fold-limit", metavar="BYTES", type=values.size,
        help="let the folding of constants add so much to the file, such as 10MB (default: 1 MiB,"
        " and 64 KiB for each constant)",
    )  # fmt: skip


def _add_verify(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--verify", choices=get_args(VerifyMode), default="end",
        help="check the result at the end, after each pass (slow; names the guilty pass), or not"
        " at all (default: end)",
    )  # fmt: skip


def _targets() -> list[str]:
    from onnxslim_rx.targets import target_names

    return target_names()


def _add_preset(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--preset", choices=get_args(Preset),
        help="safe: clean-up alone, nothing lossy; balanced: fast first, then small; small: size"
        " first; fast: latency alone (default: balanced)",
    )  # fmt: skip


def _add_output(parser: Parser) -> argparse._ArgumentGroup:
    group = parser.add_argument_group("output")
    group.add_argument("--json", metavar="FILE", help="write the numbers as JSON; -: to the screen")
    group.add_argument("-q", "--quiet", action="store_true", help="no tables, no progress")
    return group


def _add_profile(group: argparse._ActionsContainer) -> None:
    group.add_argument("--profile", action="store_true", help="show what each pass did and cost")
