"""What has to be reached by tools/bench_quantize.py, one clause for each bar that is missed."""

from __future__ import annotations

from collections.abc import Sequence

from tools.bench_quantize_data import DOMAINS
from tools.bench_quantize_rows import Row

__all__ = ["judge_minilm", "smallest"]

SIZES = ((0.99, 0.985, 6.2), (0.96, 0.0, 8.0))
"""Mean cosine and 5th percentile, and how many times smaller a model that has them is."""

SECONDS, PEAK_MB = 240.0, 3000.0
COSINE_SLACK = 1e-4  # of a front: what other sentences would change
RATIO_SLACK = 0.03  # of a front: what timings scatter
FLOAT32 = Row("float32", bytes=(1, 1), cosine=dict.fromkeys(DOMAINS, (1.0, 1.0)), ratio=1.0)
"""The model as it came is a point of every front."""


def judge_minilm(rows: Sequence[Row]) -> list[str]:
    """Sizes, time, memory, and our front against every peer's point, on both domains."""
    own = [row for row in rows if not row.peer]
    missed = [f"{row.name}: {row.error}" for row in own if row.error]
    for row in own:
        if not row.seconds <= SECONDS:
            missed.append(f"{row.name}: {row.seconds:.0f} s of CPU time, bar {SECONDS:.0f}")
        if row.peak_mb > PEAK_MB:
            missed.append(f"{row.name}: {row.peak_mb:.0f} MB, bar {PEAK_MB:.0f}")
    for domain in DOMAINS:
        for mean, p5, times in SIZES:
            best = smallest(own, domain, mean, p5)
            if best is None or best.times_smaller < times:
                found = "none" if best is None else f"1/{best.times_smaller:.2f}"
                missed.append(f"{domain}: bytes at {mean} / {p5}: {found}, bar 1/{times}")
        for row in rows:
            if row.peer and not row.error:
                missed += _above(row, own, domain)
    return missed


def smallest(rows: Sequence[Row], domain: str, mean: float, p5: float) -> Row | None:
    """The smallest model that has these cosines on a domain."""
    usable = [row for row in rows if not row.error and row.reaches(domain, mean, p5)]
    return max(usable, key=lambda row: row.times_smaller, default=None)


def _above(peer: Row, own: Sequence[Row], domain: str) -> list[str]:
    """Planes on which a peer's point lies above our front."""
    found = []
    wanted = peer.cosine[domain][0] - COSINE_SLACK
    good = [row for row in (*own, FLOAT32) if not row.error and row.reaches(domain, wanted)]
    if not any(row.times_smaller >= peer.times_smaller for row in good):
        found.append(f"{_point(peer, domain)} at 1/{peer.times_smaller:.2f} of the bytes")
    if not any(row.ratio <= peer.ratio * (1.0 + RATIO_SLACK) for row in good):
        found.append(f"{_point(peer, domain)} at {peer.ratio:.2f} x the latency")
    return [f"{line} is above our front" for line in found]


def _point(peer: Row, domain: str) -> str:
    return f"{domain}: {peer.name} with {peer.cosine[domain][0]:.4f}"
