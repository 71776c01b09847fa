"""What has to be reached by tools/bench_int8.py, and whether it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from tools.bench_int8_data import LENGTHS
from tools.bench_int8_others import OtherRow, judge_other
from tools.bench_int8_rows import ImagesRow, LengthsRow
from tools.bench_quantize_bars import RATIO_SLACK
from tools.bench_quantize_data import DOMAINS
from tools.bench_quantize_rows import Row

__all__ = ["Bar", "judge_minilm", "judge_mobilenet", "judge_others", "judge_ranges"]

MEAN, RATIO = 0.993, 0.45  # cosine, and latency of float32's, MiniLM
SAME, SMALLER = 0.97, 0.30  # classes, and bytes of float32's, MobileNetV2
RANGES_MB = 1500.0  # above the float model's
MOST = 200  # letters of an error

Kind = TypeVar("Kind", bound=Row)


class Bar(NamedTuple):
    """One bar: what was found beside what is wanted, and whether that is enough."""

    what: str
    met: bool


def judge_minilm(rows: Sequence[LengthsRow]) -> list[Bar]:
    """One of our models is good enough and fast enough, at all lengths."""
    return _of_best(rows, _minilm, lambda row: -row.ratio)


def _minilm(row: LengthsRow) -> list[Bar]:
    found = []
    for domain in DOMAINS:
        mean = row.cosine[domain][0]
        found.append(Bar(f"{domain}: mean cosine {mean:.4f}, bar {MEAN}", mean >= MEAN))
    for length in LENGTHS:
        ratio = row.ratios[str(length)][0]
        found.append(
            Bar(f"{length} tokens: {ratio:.3f} x the latency, bar {RATIO}", ratio <= RATIO)
        )
    return found


def judge_mobilenet(rows: Sequence[ImagesRow]) -> list[Bar]:
    """One of our models agrees, is small, and is no slower than the rival's."""
    return _of_best(rows, _mobilenet, lambda row: row.same)


def _mobilenet(row: ImagesRow) -> list[Bar]:
    smaller, (against, low, high) = 1.0 / row.times_smaller, row.against
    found = [
        Bar(f"{row.same:.1%} of the classes are the same, bar {SAME:.0%}", row.same >= SAME),
        Bar(f"{smaller:.3f} x the bytes, bar {SMALLER:.2f}", smaller <= SMALLER),
    ]
    if not math.isnan(against):
        words = f"{against:.3f} x the rival's latency ({low:.3f} to {high:.3f}), bar 1"
        found.append(Bar(words, against <= 1.0 + RATIO_SLACK))
    return found


def _of_best(
    rows: Sequence[Kind], bars: Callable[[Kind], list[Bar]], then: Callable[[Kind], float]
) -> list[Bar]:
    """The bars of that model of ours that meets most of them; and each that there is not."""
    own = [row for row in rows if not row.peer]
    failed = [Bar(f"{row.name}: {row.error[:MOST]}", met=False) for row in own if row.error]
    made = [row for row in own if not row.error]
    if not made:
        return failed
    best = max(made, key=lambda row: (sum(bar.met for bar in bars(row)), then(row)))
    return [Bar(f"{best.name}: {what}", met) for what, met in bars(best)] + failed


def judge_others(rows: Iterable[OtherRow]) -> list[Bar]:
    """Never worse; a gain, or a reason."""
    return [
        Bar(f"{row.name}: {what}", met)
        for row in rows
        for what, met in judge_other(row).items()
    ]  # fmt: skip


def judge_ranges(found: Mapping[str, Any]) -> list[Bar]:
    """Memory."""
    if "error" in found:
        return [Bar(f"ranges: {found['error'][:MOST]}", met=False)]
    above = found["peak_mb"] - found["float_mb"]
    words = f"{found['images']} images: {above:.0f} MB above the float model's, bar {RANGES_MB:.0f}"
    return [Bar(words, above <= RANGES_MB)]
