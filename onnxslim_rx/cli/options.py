"""Options that several verbs share. Imports nothing heavy."""

from __future__ import annotations

import argparse
from typing import get_args

from onnxslim_rx.cli import values
from onnxslim_rx.cli.argparser import Parser
from onnxslim_rx.vocabulary import CosineStat, Minimize, Preset, Rounding, VerifyMode, WeightForm

__all__ = [
    "METRICS",
    "add_budget",
    "add_calibration",
    "add_clean",
    "add_device",
    "add_memory",
    "add_output",
    "add_preset",
    "add_profile",
    "add_quantization",
    "add_search",
    "add_verify",
]

METRICS = "top1, top5, map, ndcg, spearman, perplexity, wer, cer, psnr, agreement"


def add_calibration(parser: argparse._ActionsContainer) -> None:
    """Where samples come from."""
    parser.add_argument(
        "--calibration", metavar="PATH",
        help="your data: a .npz file or a folder of .npz files, arrays named as the inputs; for a"
        " model with state (a cache of keys and values, say), each file or inner folder is a"
        " sequence, whose steps lie along axis 0 or are the files inside"
        " (default: generated inputs, which promise less)",
    )  # fmt: skip


def add_budget(parser: Parser) -> None:
    """What must hold."""
    group = parser.add_argument_group("budget", "What must hold; everything else is made small.")
    quality = group.add_mutually_exclusive_group()
    quality.add_argument(
        "--min-cosine", metavar="X", type=values.cosine,
        help="least cosine with the original's outputs, see --cosine-stat (default: 0.99)",
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
    group.add_argument(
        "--cosine-stat", choices=get_args(CosineStat),
        help="the cosine that counts, over the samples: their mean, the 5th percentile, or the"
        " least (default: mean)",
    )  # fmt: skip
    group.add_argument(
        "--outputs", metavar="NAME[,NAME...]", type=values.word_list,
        help="the outputs of the model that count (default: the worst of all)",
    )  # fmt: skip
    group.add_argument(
        "--minimize", choices=get_args(Minimize),
        help="what to make small first (default: latency, or as --preset says)",
    )  # fmt: skip


def add_search(parser: Parser) -> argparse._ArgumentGroup:
    """How to search; the group, for more of it."""
    group = parser.add_argument_group("search")
    add_calibration(group)
    _add_target(group)
    add_clean(group)
    group.add_argument(
        "--requantize", action="store_true",
        help="what comes quantized is brought back to floating point and planned anew; the budget"
        " is held against MODEL as it is, and nothing larger or slower is written (give it again"
        " with --plan)",
    )  # fmt: skip
    group.add_argument(
        "--only", metavar="PASS", action="append", default=[],
        help="use no pass but this one; may be given again",
    )  # fmt: skip
    group.add_argument(
        "--set", metavar="PASS.OPTION=VALUE", action="append", default=[], type=values.setting,
        help="an option of a compression pass, such as factorize-conv.method=cp; may be given again"
        " ('onnxslim-rx passes --json -' lists them)",
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
    add_memory(group)
    return group


def add_device(parser: argparse._ActionsContainer) -> None:
    """Where operators of our domain run, and what they took."""
    parser.add_argument(
        "--device", metavar="DEVICE",
        help="where operators of ai.onnxslim.rx run: cpu, opencl, opencl:P:D (see"
        " 'onnxslim-rx devices') or auto, the first GPU or else the processor (default: auto)",
    )  # fmt: skip
    parser.add_argument(
        "--profile", action="store_true",
        help="also show what each kernel took: launches, time, bytes, and its share of what the"
        " card can do",
    )  # fmt: skip


def add_memory(group: argparse._ActionsContainer) -> None:
    """What calibration may take."""
    group.add_argument(
        "--calibration-memory", metavar="BYTES", type=values.size,
        help="what measurements and weights may take in memory during calibration, such as 500MB;"
        " with less, parts of the model run more often (default: 1GiB)",
    )  # fmt: skip


def add_clean(group: argparse._ActionsContainer) -> None:
    """What the clean-up may do."""
    group.add_argument(
        "--skip", metavar="PASS", action="append", default=[],
        help="leave this pass out; may be given again ('onnxslim-rx passes' lists them)",
    )  # fmt: skip
    _add_also(group)
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


def add_quantization(parser: Parser) -> None:
    """How weights are stored, and which."""
    group = parser.add_argument_group("weights")
    for name, default, text in (
        ("--bits", 4, "of an entry (default: 4)"),
        ("--embedding-bits", None, "of an entry of an embedding (default: as --bits)"),
    ):
        group.add_argument(name, type=int, choices=(2, 4, 8), default=default, help=text)
    group.add_argument(
        "--group", metavar="N", type=values.natural, default=32,
        help="neighbours that share a scale: a power of two, 16 to 256; 0: a whole row (default:"
        " 32)",
    )  # fmt: skip
    group.add_argument(
        "--asymmetric", action="store_true",
        help="each group has a zero point as well: more exact, larger",
    )  # fmt: skip
    group.add_argument(
        "--method", choices=get_args(Rounding), default="clip",
        help="how to round: to the nearest, with the ends of groups clipped for the least squared"
        " error, or by half-quadratic quantization, which takes three times as long and is rarely"
        " better (default: clip)",
    )  # fmt: skip
    group.add_argument(
        "--form", choices=get_args(WeightForm),
        help="operators of com.microsoft, or DequantizeLinear, which needs opset 21 (default: as"
        " the target allows)",
    )  # fmt: skip
    for name, what in (("--only", "no weights but those"), ("--skip", "no weights")):
        group.add_argument(
            name, metavar="PATTERN", action="append", default=[],
            help=f"quantize {what} whose name fits, such as '*.mlp.*'; may be given again",
        )  # fmt: skip
    _add_target(group)
    _add_also(group)
    group.add_argument(
        "--cache", metavar="DIR",
        help="keep finished weights here, up to 20 GiB, so that a run that was killed goes on"
        " (default: keep nothing)",
    )  # fmt: skip


def add_verify(group: argparse._ActionsContainer) -> None:
    """When rewrites are checked."""
    group.add_argument(
        "--verify", choices=get_args(VerifyMode), default="end",
        help="check the result at the end, after each pass (slow; names the guilty pass), or not"
        " at all (default: end)",
    )  # fmt: skip


def _add_target(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--target", metavar="NAME|FILE.toml", default="ort-cpu",
        help="the device to optimise for: " + ", ".join(_targets()) + " (default: ort-cpu)",
    )  # fmt: skip


def _add_also(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--also", metavar="PASS", action="append", default=[],
        help="use this optional pass, which needs operators of com.microsoft or a newer opset; may"
        " be given again",
    )  # fmt: skip


def _targets() -> list[str]:
    from onnxslim_rx.targets import target_names

    return target_names()


def add_preset(group: argparse._ActionsContainer) -> None:
    """What to aim for."""
    group.add_argument(
        "--preset", choices=get_args(Preset),
        help="safe: clean-up alone, nothing lossy; balanced: fast first, then small; small: size"
        " first; fast: latency alone (default: balanced)",
    )  # fmt: skip


def add_output(parser: Parser) -> argparse._ArgumentGroup:
    """Where the numbers go; the group, for more of it."""
    group = parser.add_argument_group("output")
    group.add_argument("--json", metavar="FILE", help="write the numbers as JSON; -: to the screen")
    group.add_argument("-q", "--quiet", action="store_true", help="no tables, no progress")
    return group


def add_profile(group: argparse._ActionsContainer) -> None:
    """Whether to show passes."""
    group.add_argument("--profile", action="store_true", help="show what each pass did and cost")
