"""Verbs and options, and the help that explains them. Imports nothing heavy."""

from __future__ import annotations

import argparse
from typing import get_args

from onnxslim_rx.cli import values
from onnxslim_rx.cli.argparser import Parser
from onnxslim_rx.cli.options import (
    METRICS,
    add_budget,
    add_calibration,
    add_clean,
    add_device,
    add_memory,
    add_output,
    add_preset,
    add_profile,
    add_quantization,
    add_search,
    add_verify,
)
from onnxslim_rx.vocabulary import FloatType

__all__ = ["build_parser"]

PROG = "onnxslim-rx"

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
    _add_quantize(verbs)
    _add_dequantize(verbs)
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
    add_budget(parser)
    search = add_search(parser)
    fixed = search.add_mutually_exclusive_group()
    add_preset(fixed)
    fixed.add_argument("--plan", metavar="FILE", help="carry out this plan instead of searching")
    add_verify(search)
    output = add_output(parser)
    output.add_argument("--save-plan", metavar="FILE", help="write the plan, for --plan")
    output.add_argument("--report", metavar="FILE.html", help="write the report as one HTML page")
    add_profile(output)


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
    add_clean(rewrites)
    add_verify(rewrites)
    output = add_output(parser)
    add_profile(output)


def _add_plan(verbs: _Verbs[Parser]) -> None:
    parser = _verb(
        verbs,
        "plan",
        "MODEL",
        "decide what optimize would do, write no model",
        "Search as optimize does and show what would be done to each layer, what that is\n"
        "predicted to cost, and the curve of all plans that were tried or predicted.\n\n"
        "The plan is a readable TOML file; edit it if you like and pass it to optimize --plan.",
        f"  {PROG} plan model.onnx --min-cosine 0.999 -o plan.toml --html plan.html\n"
        f"  {PROG} optimize model.onnx -o small.onnx --plan plan.toml",
    )
    _model(parser)
    parser.add_argument("-o", "--save-plan", metavar="FILE", help="write the plan (TOML)")
    add_budget(parser)
    search = add_search(parser)
    add_preset(search)
    output = add_output(parser)
    output.add_argument("--html", metavar="FILE.html", help="write the report as one HTML page")


def _add_quantize(verbs: _Verbs[Parser]) -> None:
    parser = _verb(
        verbs,
        "quantize",
        "MODEL -o OUT",
        "store weights in a few bits, without data",
        "Store the weights of MODEL in 4 bits, one after the other, and write OUT. Needs no data\n"
        "and hardly any memory; a run that was killed goes on with --cache. Nothing is promised\n"
        "of the outputs: where optimize can run, it keeps its promise and finds smaller models.",
        f"  {PROG} quantize model.onnx -o small.onnx --cache kept\n"
        f"  {PROG} quantize model.onnx -o small.onnx --group 128 --skip 'lm_head*'",
    )
    _model(parser, output="where the result goes")
    add_quantization(parser)
    output = add_output(parser)
    _add_top(output)
    add_profile(output)


def _add_dequantize(verbs: _Verbs[Parser]) -> None:
    parser = _verb(
        verbs,
        "dequantize",
        "MODEL -o OUT",
        "bring a quantized model back to floating point",
        "Put weights of MODEL that are stored as integers, and what it computes on integers, in\n"
        "floating point, clean up and write OUT. What quantization lost stays lost; optimize with\n"
        "--requantize does this first and then compresses the model anew.",
        f"  {PROG} dequantize model.int8.onnx -o model.onnx\n"
        f"  {PROG} dequantize model.int4.onnx -o model.onnx --type float16",
    )
    _model(parser, output="where the result goes")
    rewrites = parser.add_argument_group("rewrites")
    rewrites.add_argument(
        "--type", choices=get_args(FloatType), default="float32",
        help="how weights are stored: float16 halves the file where 16 bits hold them with an error"
        " below 0.1%% (default: float32)",
    )  # fmt: skip
    rewrites.add_argument(
        "--keep-activations", action="store_true",
        help="bring back weights alone; activations are rounded as before",
    )  # fmt: skip
    add_clean(rewrites)
    add_verify(rewrites)
    output = add_output(parser)
    add_profile(output)


def _add_top(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--top", metavar="N", type=values.natural, default=20,
        help="list the N largest layers; 0: all of them (default: 20)",
    )  # fmt: skip


def _add_inspect(verbs: _Verbs[Parser]) -> None:
    parser = _verb(
        verbs,
        "inspect",
        "MODEL",
        "show parameters, operations and bytes of each layer",
        "Show each layer of MODEL with its parameters, multiply-adds and bytes, and whether it\n"
        "can be compressed or why it cannot.\n\n"
        "With --spectra also which rank keeps how much of each weight and, with your data, of\n"
        "what the layer puts out: where that rank is below break-even, low rank pays.",
        f"  {PROG} inspect model.onnx\n  {PROG} inspect model.onnx --json - | jq .totals\n"
        f"  {PROG} inspect model.onnx --spectra --calibration samples.npz --html spectra.html",
    )
    _model(parser)
    add_calibration(parser)
    add_memory(parser)
    parser.add_argument(
        "--spectra", action="store_true",
        help="singular values: the rank that keeps 90, 99 and 99.9 %% of each weight's energy",
    )  # fmt: skip
    _add_top(parser)
    output = add_output(parser)
    output.add_argument(
        "--html", metavar="FILE.html", help="write what is shown, and plots of spectra, as a page"
    )


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
    add_calibration(parser)
    add_output(parser)


def _add_bench(verbs: _Verbs[Parser]) -> None:
    parser = _verb(
        verbs,
        "bench",
        "MODEL [MODEL ...]",
        "measure latency, memory and size of models side by side",
        "Time the models by turns, so that whatever else the machine does hits all alike.",
        f"  {PROG} bench model.onnx small.onnx tiny.onnx --calibration samples/\n"
        f"  {PROG} bench model.onnx native.onnx --device opencl --profile",
    )
    parser.add_argument("models", metavar="MODEL", nargs="+", help="ONNX files")
    add_calibration(parser)
    add_device(parser)
    parser.add_argument("--metric", metavar="NAME|FILE.py:FUNC", help=f"also measure: {METRICS}")
    add_output(parser)


_DEVICES = """\
List the processor and every OpenCL device: what it is called, its driver, compute units and
memory, which families of kernels are tuned for it, and whether a few small products come out
right on it (the self-test, at most two seconds each; exit code 1 where one fails). Where no driver
is installed, 'pip install onnxslim-rx[opencl]' gives an OpenCL device for the processor."""


def _add_devices(verbs: _Verbs[Parser]) -> None:
    text, examples = "list the devices that models can run on here", f"  {PROG} devices"
    parser = _verb(verbs, "devices", "", text, _DEVICES, examples)
    parser.add_argument("--no-selftest", action="store_true", help="only look, compute nothing")
    add_output(parser)


def _add_lists(verbs: _Verbs[Parser]) -> None:
    text = "list the passes that are installed"
    add_output(_verb(verbs, "passes", "", text, text[0].upper() + text[1:] + "."))
    _add_devices(verbs)
    parser = _verb(
        verbs,
        "completion",
        "{bash,zsh,tcsh}",
        "print a script that completes commands in your shell",
        "Print a completion script for your shell.",
        f"  {PROG} completion bash > ~/.local/share/bash-completion/completions/{PROG}",
    )
    parser.add_argument("shell", choices=("bash", "zsh", "tcsh"), help="your shell")
