"""What has to be reached by tools/bench_conv.py, one clause for each bar that is missed."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tools.bench_conv_cifar import MIX, Row
from tools.bench_conv_models import ModelRow, unexplained
from tools.bench_conv_simple import SimpleRow

__all__ = ["judge_cifar", "judge_kept", "judge_simple", "judge_vgg"]

DROPS = {0.4: 0.5, 0.25: 2.0}  # points of accuracy, at shares of the multiply-adds
RATIO = 0.65  # latency, at one of these shares
THIRD, THIRD_RATIO = 2 / 3, 0.85  # where multiply-adds fall by a third, latency falls
COSINE, SLOWEST = 0.99, 1.05
SLACK = 0.99  # of the compression in the literature, which is rounded
MARGIN = 2.0  # points of accuracy above plain decomposition at the same ranks
VGG_SECONDS, VGG_MB = 180.0, 3000.0


def judge_cifar(rows: Sequence[Row]) -> list[str]:
    """Accuracy and latency of the mix, and program against uniform allocation."""
    found = {row.key: row for row in rows}
    missed = [f"{' '.join(map(str, row.key))}: {row.error}" for row in rows if row.error]
    missed += [
        f"{' '.join(map(str, row.key))}: {row.kept:.3f} of the multiply-adds are left"
        for row in rows
        if not row.error and not row.kept <= row.share + 1e-6
    ]
    mixes = {share: found[MIX, "program", share] for _, _, share in found
             if (MIX, "program", share) in found}  # fmt: skip
    for share, drop in DROPS.items():
        if share in mixes and not mixes[share].drop <= drop + 1e-9:
            missed.append(f"mix at {share}: {mixes[share].drop:.2f} points lost, bar {drop}")
    ratios = [mixes[share].ratio for share in DROPS if share in mixes]
    if len(ratios) == len(DROPS) and not any(ratio <= RATIO for ratio in ratios):
        missed.append(f"latency of the mix: {min(ratios):.2f}, bar {RATIO} at one share")
    for share, mix in mixes.items():
        other = found.get((MIX, "uniform", share))
        if other is not None and not other.error and not mix.accuracy[1] >= other.accuracy[1]:
            missed.append(
                f"mix at {share}: {mix.accuracy[1]:.4f} by program, below {other.accuracy[1]:.4f}"
                " uniform"
            )
    return missed


def judge_kept(rows: Sequence[ModelRow]) -> list[str]:
    """Never worse, every layer explained, and fewer multiply-adds are faster."""
    missed = []
    for row in rows:
        name = f"{row.name} ({row.way})"
        if row.error or row.bytes is None or row.ratio is None or row.cosine is None:
            missed.append(f"{name}: {row.error or 'not measured'}")
            continue
        if row.cosine < COSINE:
            missed.append(f"{name}: cosine {row.cosine:.4f}, bar {COSINE}")
        if row.bytes[1] > row.bytes[0]:
            missed.append(f"{name}: grows from {row.bytes[0]:,} to {row.bytes[1]:,} bytes")
        if row.ratio > SLOWEST:
            missed.append(f"{name}: latency x {row.ratio:.2f}, bar {SLOWEST}")
        fewer = row.macs is not None and row.macs[1] <= THIRD * row.macs[0]
        if fewer and row.ratio > THIRD_RATIO:
            missed.append(f"{name}: fewer multiply-adds, latency x {row.ratio:.2f}")
        if count := unexplained(row):
            missed.append(f"{name}: {count} convolutions were left without a reason")
    return missed


def judge_simple(rows: Sequence[SimpleRow]) -> list[str]:
    """Compression of the literature, and accuracy above plain decomposition's."""
    plain = {row.setting: row for row in rows if row.way == "plain"}
    missed = []
    for row in (row for row in rows if row.way == "ours"):
        if row.error:
            missed.append(f"{row.setting}: {row.error}")
        if not row.compression >= SLACK * row.literature:
            missed.append(f"{row.setting}: x {row.compression:.2f}, literature {row.literature}")
        other = plain.get(row.setting)
        gain = 100.0 * (row.accuracy[1] - other.accuracy[1]) if other else math.nan
        if not gain >= MARGIN:
            missed.append(f"{row.setting}: {gain:.1f} points above plain, bar {MARGIN}")
    return missed


def judge_vgg(row: ModelRow) -> list[str]:
    """Time and memory of the whole run."""
    if row.error or row.peak_mb is None:
        return [f"vgg16: {row.error or 'not measured'}"]
    missed = []
    if row.cpu_seconds > VGG_SECONDS:
        missed.append(f"vgg16: {row.cpu_seconds:.0f} s CPU, bar {VGG_SECONDS:.0f}")
    if row.peak_mb > VGG_MB:
        missed.append(f"vgg16: {row.peak_mb:.0f} MB, bar {VGG_MB:.0f}")
    return missed
