"""What a report comes to, in one sentence."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

from onnxslim_rx.report.model import Report, Rung
from onnxslim_rx.report.text import (
    bytes_text,
    cosine_text,
    count_text,
    ms_text,
    number_text,
    ratio_text,
    size_change,
)

__all__ = ["Promise", "full_ladder", "headline", "is_tried", "promises", "why_nothing"]


@dataclasses.dataclass(frozen=True)
class Promise:
    """One limit of the budget beside what was measured.

    Args:
        limit: such as "cosine >= 0.99".
        measured: such as "0.9987"; "not measured" where it was not.
        kept: None where it was not measured.
    """

    limit: str
    measured: str
    kept: bool | None


def promises(report: Report) -> list[Promise]:
    """Every limit of the budget, in the order of `plans.Budget`."""
    quality = report.quality
    stat = str(report.budget.get("cosine_stat", "mean"))
    cosine = getattr(quality.cosine, stat, None)
    metric = quality.metric
    drop = None
    if metric and metric.before is not None and metric.after is not None:
        drop = metric.before - metric.after
    snr = quality.snr_db
    if snr is None and cosine is not None and cosine_text(cosine) == "1.0000":
        snr = math.inf  # equal outputs; JSON has no infinity
    rows: list[tuple[str, str, float | None, Callable[[float], str], bool]] = [
        ("min_cosine", "cosine" if stat == "mean" else f"{stat} cosine", cosine, cosine_text, True),
        ("min_snr_db", "SNR", snr, _db_text, True),
        ("max_drop", f"drop of {metric.name if metric else 'metric'}", drop, number_text, False),
        ("max_bytes", "size", report.bytes.after, bytes_text, False),
        ("max_latency", "latency", report.latency_ms.after, ms_text, False),
        ("max_flops", "operations", report.flops.after, count_text, False),
    ]
    return [
        _promise(label, report.budget[key], measured, text, at_least)
        for key, label, measured, text, at_least in rows
        if report.budget.get(key) is not None
    ]


def _db_text(value: float) -> str:
    return "infinite" if math.isinf(value) else f"{value:.1f} dB"


def _promise(
    label: str, limit: float, measured: float | None, text: Callable[[float], str], at_least: bool
) -> Promise:
    shown = f"{limit:g}" if text in (cosine_text, number_text) else text(limit)
    words = f"{label} {'>=' if at_least else '<='} {shown}"
    if measured is None:
        return Promise(words, "not measured", None)
    return Promise(words, text(measured), measured >= limit if at_least else measured <= limit)


def headline(report: Report) -> str:
    """The verdict: "Keeps cosine >= 0.99: 0.9987; 3.9x smaller, 1.02x latency"."""
    if report.failure:
        return f"The promise could not be kept: {report.failure}"
    words = []
    if report.layers and not any(layer.changed for layer in report.layers):
        words.append("No layer was changed")
    limits = promises(report)
    if limits:
        verb = "Misses" if any(promise.kept is False for promise in limits) else "Keeps"
        words.append(f"{verb} " + ", ".join(f"{p.limit}: {p.measured}" for p in limits))
    elif report.quality.cosine.mean is not None:
        words.append(f"Cosine {cosine_text(report.quality.cosine.mean)}")
    ratio = report.latency_ms.ratio
    costs = [size_change(report.bytes.before, report.bytes.after)]
    costs += [f"{ratio_text(ratio)} latency"] if ratio is not None else []
    words.append(", ".join(cost for cost in costs if cost))
    return "; ".join(word for word in words if word) or "Done"


def full_ladder(report: Report) -> list[Rung]:
    """The ladder from the original model on, the chosen plan with its final measurements."""
    rungs = [
        dataclasses.replace(rung, latency_ms=report.latency_ms.after)
        if rung.chosen and rung.latency_ms is None
        else rung
        for rung in report.ladder
    ]
    if not rungs or report.bytes.before is None:
        return rungs
    metric = report.quality.metric.before if report.quality.metric else None
    latency = report.latency_ms.before
    return [Rung("original model", report.bytes.before, latency, 1.0, metric), *rungs]


def is_tried(rung: Rung) -> bool:
    """Whether the plan was built and measured, not only predicted."""
    return rung.passed is not None or rung.predicted is None


def why_nothing(report: Report, most: int = 5) -> list[tuple[str, int]]:
    """Why layers were left as they are: the commonest reasons, each with how many layers."""
    counts: dict[str, int] = {}
    for layer in report.layers:
        if not layer.changed:
            why = layer.skipped or layer.why or "kept"
            counts[why] = counts.get(why, 0) + 1
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:most]
