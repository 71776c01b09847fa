"""Everything that a run measured, decided and did, as data.

`Report` is what `Result.report` holds, what `--json` writes and what the HTML page is made from.
Its JSON form is stable: `SCHEMA_VERSION` goes up when a key changes its meaning or goes away.
Numbers that were not measured, or are not finite, are None (null).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from onnxslim_rx.errors import InputError
from onnxslim_rx.report.codec import decode, encode
from onnxslim_rx.report.curves import SpectrumRow

__all__ = [
    "SCHEMA_VERSION",
    "BeforeAfter",
    "Cosine",
    "Environment",
    "Latency",
    "LayerRow",
    "MetricRow",
    "PassRow",
    "Quality",
    "Report",
    "Rung",
    "SpectrumRow",
]

SCHEMA_VERSION = 1


@dataclasses.dataclass
class BeforeAfter:
    """A count or a size, before and after; None where it is not known."""

    before: int | None
    after: int | None


@dataclasses.dataclass
class Latency:
    """Median times of one run, ms, and the median of `after / before` of interleaved runs."""

    before: float | None = None
    after: float | None = None
    ratio: float | None = None


@dataclasses.dataclass
class Cosine:
    """Cosine between the outputs of the two models over the samples, of the output that counts.

    Args:
        mean, p5, min: over samples, in [-1, 1]; p5 is the 5th percentile.
    """

    mean: float | None = None
    p5: float | None = None
    min: float | None = None


@dataclasses.dataclass
class MetricRow:
    """The user's metric, higher is better.

    Args:
        name: as given by the user.
        before: of the original model, in the metric's units.
        after: of the written model.
        interval: bootstrap interval (low, high) of `after - before`; empty where not computed.
    """

    name: str
    before: float | None
    after: float | None
    interval: tuple[float | None, ...] = ()


@dataclasses.dataclass
class Quality:
    """How close the written model's outputs are to the original's.

    Args:
        cosine: see `Cosine`.
        snr_db: signal to noise ratio of the output that counts, dB; None also where it is infinite.
        max_abs: largest absolute difference.
        max_rel: largest relative difference, no unit.
        metric: the user's metric, if there is one.
        outputs: one dictionary per output, from `verify.OutputError.to_dict`.
        samples: how many samples were compared.
        split: "confirm" (the user's data, held back until the end) or "synthetic".
    """

    cosine: Cosine = dataclasses.field(default_factory=Cosine)
    snr_db: float | None = None
    max_abs: float | None = None
    max_rel: float | None = None
    metric: MetricRow | None = None
    outputs: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    samples: int = 0
    split: str = "synthetic"


@dataclasses.dataclass
class LayerRow:
    """What was done to one layer and why, or why nothing was.

    Args:
        name: of the layer, as in the plan.
        op: operator type.
        stages: steps carried out, in words such as "quantize-weights(bits=8)"; none: kept.
        why: the reason for the choice, one clause.
        error: relative error of the layer's output, `||Y' - Y||_F / ||Y||_F`, no unit.
        damage: what the choice alone costs end to end, `1 - cosine`, no unit.
        params_before, params_after: numbers of weights.
        bytes_before, bytes_after: size of the weights as stored, bytes.
        latency_before_ms, latency_after_ms: of the layer alone, ms.
        skipped: why the layer could not be treated; None where it could.
        spectrum: of a layer that was factorized; None for all others and where it was not computed.
    """

    name: str
    op: str
    stages: list[str] = dataclasses.field(default_factory=list)
    why: str = ""
    error: float | None = None
    damage: float | None = None
    params_before: int | None = None
    params_after: int | None = None
    bytes_before: int | None = None
    bytes_after: int | None = None
    latency_before_ms: float | None = None
    latency_after_ms: float | None = None
    skipped: str | None = None
    spectrum: SpectrumRow | None = None

    @property
    def changed(self) -> bool:
        """Whether anything was done to the layer."""
        return bool(self.stages)


@dataclasses.dataclass
class PassRow:
    """What one pass did and cost.

    Args:
        name: as registered.
        seconds: wall time over all calls.
        cpu_seconds: processor time over all calls.
        calls: how often it ran.
        nodes_before, nodes_after: nodes of the model before the first and after the last call;
            rules that share a drive over the model share them.
        changed: whether it changed the model.
        rewritten: number of places rewritten.
        skipped: reasons of refusal, each with how often it was given.
        failure: why what the pass did was taken back; empty where it stands.
    """

    name: str
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    calls: int = 0
    nodes_before: int | None = None
    nodes_after: int | None = None
    changed: bool = False
    rewritten: int = 0
    skipped: dict[str, int] = dataclasses.field(default_factory=dict)
    failure: str = ""

    @property
    def remarks(self) -> str:
        """Why the pass left places alone, or all of them, in one clause."""
        failed = [f"taken back: {self.failure}"] if self.failure else []
        return ", ".join(failed + [f"{why} ({count})" for why, count in self.skipped.items()])


@dataclasses.dataclass
class Rung:
    """One plan of the ladder that the planner walked.

    Args:
        name: short, such as "int8 on 37 layers, rank on 4".
        bytes: size of the model under this plan, bytes.
        latency_ms: measured, ms.
        cosine: measured on the split that selects; of a plan that was not tried, the predicted one.
        metric: the user's metric.
        chosen: whether this plan was carried out; at most one rung.
        passed: whether it kept the budget; None where it was not tried.
        why: one clause.
        predicted: cosine that was predicted before any measurement of the plan.
        predicted_ms: latency of the whole model as the timings of single layers predict it, ms.
    """

    name: str
    bytes: int
    latency_ms: float | None = None
    cosine: float | None = None
    metric: float | None = None
    chosen: bool = False
    passed: bool | None = None
    why: str = ""
    predicted: float | None = None
    predicted_ms: float | None = None


@dataclasses.dataclass
class Environment:
    """Where the run took place and what the written model needs.

    Args:
        versions: of the packages that take part, by name.
        device: what latency was measured on.
        min_onnxruntime: least version that runs the written model, such as "1.17".
        threads: intra-op threads of the measurements.
    """

    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    device: str = ""
    min_onnxruntime: str = ""
    threads: int | None = None


@dataclasses.dataclass
class Report:
    """One run of `optimize` or `simplify`.

    Args:
        model: path or name of the input.
        params, bytes, flops, nodes: of the whole model; flops are two per multiply-add.
        operators: nodes by type of operator, those of other domains as `domain::Type`.
        quality: output differences, measured on data that nothing was fitted to.
        latency_ms: end to end.
        layers: every compressible layer, and those refused, in graph order.
        passes: in the order of their first call.
        ladder: plans tried, from the least to the most compressed.
        budget: the fields of `plan.Budget` that were set.
        target: name of the device profile.
        seed: of everything random.
        notes: what the user should know, one sentence each.
        timings: wall seconds of each phase, in order.
        environment: see `Environment`.
        output: path of the written model; empty where none was written.
        command: what to type to get the same result again; empty for calls from Python.
        failure: why the promise could not be kept; empty where it was.
        schema_version: of the JSON form.
    """

    model: str
    params: BeforeAfter
    bytes: BeforeAfter
    flops: BeforeAfter
    nodes: BeforeAfter
    operators: dict[str, BeforeAfter] = dataclasses.field(default_factory=dict)
    quality: Quality = dataclasses.field(default_factory=Quality)
    latency_ms: Latency = dataclasses.field(default_factory=Latency)
    layers: list[LayerRow] = dataclasses.field(default_factory=list)
    passes: list[PassRow] = dataclasses.field(default_factory=list)
    ladder: list[Rung] = dataclasses.field(default_factory=list)
    budget: dict[str, Any] = dataclasses.field(default_factory=dict)
    target: str = ""
    seed: int = 0
    notes: list[str] = dataclasses.field(default_factory=list)
    timings: dict[str, float] = dataclasses.field(default_factory=dict)
    environment: Environment = dataclasses.field(default_factory=Environment)
    output: str = ""
    command: str = ""
    failure: str = ""
    schema_version: int = SCHEMA_VERSION

    def to_dict(self) -> dict[str, Any]:
        """JSON values; what is not finite becomes None."""
        table: dict[str, Any] = encode(self)
        return {"schema_version": table.pop("schema_version"), **table}

    def to_json(self) -> str:
        """The report as indented JSON, ending in a newline."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> Report:
        """The report that `to_dict` gave.

        Raises:
            InputError: unknown or missing keys, values of wrong types, or another schema version.
        """
        version = table.get("schema_version")
        if version != SCHEMA_VERSION:
            raise InputError(
                f"the report has schema_version {version!r}", expected=str(SCHEMA_VERSION)
            )
        report: Report = decode(cls, dict(table), "report")
        return report

    @classmethod
    def from_json(cls, text: str) -> Report:
        """The report in `text`, as `to_json` wrote it.

        Raises:
            InputError: see `from_dict`, or no valid JSON.
        """
        try:
            table = json.loads(text)
        except json.JSONDecodeError as error:
            raise InputError(f"the report is not valid JSON: {error}") from error
        return cls.from_dict(decode(dict[str, Any], table, "report"))
