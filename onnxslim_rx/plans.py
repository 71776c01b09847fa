"""Budget and plan: what must hold, and what will be done to each layer for it.

A plan is a readable TOML file. `optimize --plan plan.toml` replays it exactly; keys that are not
known are refused, so that a misspelt option is an error and not a silent default.
"""

from __future__ import annotations

import dataclasses
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import tomli_w

from onnxslim_rx.errors import InputError
from onnxslim_rx.ir import write_text
from onnxslim_rx.passbase import Stage
from onnxslim_rx.vocabulary import CosineStat, Minimize

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["SCHEMA_VERSION", "Budget", "LayerPlan", "Plan"]

SCHEMA_VERSION = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Budget:
    """What must hold of the result; the rest is minimised.

    Args:
        min_cosine: least cosine of the outputs with the original's, in (0, 1].
        cosine_stat: which statistic over the held-out samples counts.
        min_snr_db: least signal-to-noise ratio of the worst output, dB.
        max_drop: largest drop of the user's metric, absolute, in the metric's units, >= 0.
        max_bytes: largest size of the saved model, bytes.
        max_latency: largest median latency on this machine, milliseconds.
        max_flops: largest number of operations (two per multiply-add).
        outputs: the outputs that count; None: the worst of all.
        minimize: what to make small first, "latency" or "bytes".

    Raises:
        InputError: a value outside its range.
    """

    min_cosine: float | None = None
    cosine_stat: CosineStat = "mean"
    min_snr_db: float | None = None
    max_drop: float | None = None
    max_bytes: int | None = None
    max_latency: float | None = None
    max_flops: int | None = None
    outputs: tuple[str, ...] | None = None
    minimize: Minimize = "latency"

    def __post_init__(self) -> None:
        for field in ("max_bytes", "max_latency", "max_flops", "max_drop"):
            value = getattr(self, field)
            least = 0 if field == "max_drop" else math.ulp(0.0)
            if value is not None and not (math.isfinite(value) and value >= least):
                expected = "a number of at least 0" if field == "max_drop" else "a number above 0"
                raise InputError(f"the budget has {field} = {value}", expected=expected)
        if self.min_cosine is not None and not 0.0 < self.min_cosine <= 1.0:
            raise InputError(
                f"the budget has min_cosine = {self.min_cosine}", expected="above 0 and at most 1"
            )
        if self.min_snr_db is not None and not math.isfinite(self.min_snr_db):
            raise InputError(f"the budget has min_snr_db = {self.min_snr_db}", expected="a number")
        for field, words in (("cosine_stat", CosineStat), ("minimize", Minimize)):
            if getattr(self, field) not in get_args(words):
                raise InputError(
                    f"the budget has {field} = {getattr(self, field)!r}",
                    expected=" or ".join(get_args(words)),
                )

    @property
    def limits_quality(self) -> bool:
        """Whether any promise about quality is made."""
        return not (self.min_cosine is None and self.min_snr_db is None and self.max_drop is None)

    @property
    def limits_cost(self) -> bool:
        """Whether any promise about size, latency or operations is made."""
        return any(v is not None for v in (self.max_bytes, self.max_latency, self.max_flops))

    def to_dict(self) -> dict[str, Any]:
        """The fields that are set, as plain values."""
        fields = dataclasses.asdict(self)
        return {k: list(v) if k == "outputs" else v for k, v in fields.items() if v is not None}


@dataclasses.dataclass(frozen=True)
class LayerPlan:
    """What is done to one layer.

    Args:
        name: the layer's name (see `passbase.Layer`).
        stages: steps in order; none: the layer is kept.
        error: predicted relative error of the layer's output; None where it is not known.
        damage: predicted share of the whole model's loss of quality; None where it is not known.
    """

    name: str
    stages: tuple[Stage, ...] = ()
    error: float | None = None
    damage: float | None = None


@dataclasses.dataclass(frozen=True)
class Plan:
    """One candidate per layer, for one model on one target.

    Args:
        model_digest: SHA-256 of the cleaned model that the plan was made for, hex.
        target: name of the target.
        budget: the budget that the plan was made for, as plain values.
        layers: what is done to each compressible layer.
        min_onnxruntime: least version of onnxruntime that runs the result, such as "1.17".
        seed: seed of the planning run.
        refit: whether weights of factorized layers are fitted to the original's outputs on the
            calibration data.
        opset: version of the standard operators that the model is brought to first; 0: none.
        also: optional passes of the clean-up that were used.
        measured: optional passes that ran after it, by name, with options that calibration settled.
    """

    model_digest: str
    target: str
    budget: Mapping[str, Any]
    layers: tuple[LayerPlan, ...]
    min_onnxruntime: str = ""
    seed: int = 0
    refit: bool = False
    opset: int = 0
    also: tuple[str, ...] = ()
    measured: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)

    @property
    def changes(self) -> tuple[LayerPlan, ...]:
        """The layers that are not kept."""
        return tuple(layer for layer in self.layers if layer.stages)

    def to_toml(self) -> str:
        """The plan as a TOML document that `from_toml` reads back to an equal plan."""
        layers = []
        for layer in self.layers:
            entry: dict[str, Any] = {"name": layer.name}
            for key in ("error", "damage"):
                if (value := getattr(layer, key)) is not None:
                    entry[key] = value
            entry["stages"] = [{"pass": s.pass_name, **s.options} for s in layer.stages]
            layers.append(entry)
        head = {
            "schema_version": SCHEMA_VERSION,
            "model": self.model_digest,
            "target": self.target,
            "seed": self.seed,
            "min_onnxruntime": self.min_onnxruntime,
            "refit": self.refit,
            "opset": self.opset,
            "also": list(self.also),
            "budget": dict(self.budget),
        }
        if self.measured:
            head["measured"] = {name: dict(options) for name, options in self.measured.items()}
        return tomli_w.dumps({**head, "layer": layers})

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the plan as TOML, atomically.

        Raises:
            InputError: the file cannot be written.
        """
        write_text(path, self.to_toml())

    @classmethod
    def from_toml(cls, text: str, *, origin: str = "plan") -> Plan:
        """Read a plan.

        Raises:
            InputError: not valid TOML, a key that is not known, missing or of the wrong type.
        """
        try:
            table = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise InputError(f"{origin} is not valid TOML: {error}") from error
        _expect(
            table,
            {
                "schema_version": int,
                "model": str,
                "target": str,
                "seed": int,
                "min_onnxruntime": str,
                "budget": dict,
                "layer": list,
            },
            origin,
            {"refit": bool, "opset": int, "also": list, "measured": dict},
        )
        if table["schema_version"] != SCHEMA_VERSION:
            raise InputError(
                f"{origin} has schema_version {table['schema_version']}",
                expected=str(SCHEMA_VERSION),
                advice="make the plan again with this version",
            )
        names = [layer.get("name") for layer in table["layer"] if isinstance(layer, dict)]
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise InputError(f"{origin} names the layer {twice!r} twice", expected="one entry each")
        return cls(
            model_digest=table["model"],
            target=table["target"],
            budget=table["budget"],
            layers=tuple(_layer(entry, origin) for entry in table["layer"]),
            min_onnxruntime=table["min_onnxruntime"],
            seed=table["seed"],
            refit=table.get("refit", False),
            opset=table.get("opset", 0),
            also=tuple(map(str, table.get("also", ()))),
            measured=table.get("measured", {}),
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Plan:
        """Read a plan from a file.

        Raises:
            InputError: the file cannot be read, or see `from_toml`.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot read the plan {os.fspath(path)}: {error}") from error
        return cls.from_toml(text, origin=f"the plan {os.fspath(path)}")


def _layer(entry: Any, origin: str) -> LayerPlan:
    if not isinstance(entry, dict):
        raise InputError(f"{origin} has a layer that is no table", expected="[[layer]] tables")
    optional: dict[str, Any] = {"error": (int, float), "damage": (int, float)}
    _expect(entry, {"name": str, "stages": list}, origin, optional)
    stages = []
    for stage in entry["stages"]:
        if not isinstance(stage, dict) or not isinstance(stage.get("pass"), str):
            raise InputError(
                f"{origin} has a stage of {entry['name']!r} that names no pass",
                expected='{ pass = "name", option = value }',
            )
        options = {key: value for key, value in stage.items() if key != "pass"}
        for key, value in options.items():
            if not isinstance(value, (bool, int, float, str)):
                raise InputError(
                    f"{origin} has {key} = {value!r} in a stage of {entry['name']!r}",
                    expected="a number, a string or a boolean",
                )
        stages.append(Stage(stage["pass"], options))
    return LayerPlan(
        entry["name"],
        tuple(stages),
        float(entry["error"]) if "error" in entry else None,
        float(entry["damage"]) if "damage" in entry else None,
    )


def _expect(
    table: Mapping[str, Any],
    required: Mapping[str, Any],
    origin: str,
    optional: Mapping[str, Any] | None = None,
) -> None:
    known = {**required, **(optional or {})}
    for key, value in table.items():
        if key not in known:
            raise InputError(
                f"{origin} has an unknown key {key!r}", expected="one of " + ", ".join(known)
            )
        if not isinstance(value, known[key]) or isinstance(value, bool) != (known[key] is bool):
            raise InputError(f"{origin} has {key} = {value!r}, of the wrong type")
    missing = sorted(set(required) - set(table))
    if missing:
        raise InputError(f"{origin} lacks {', '.join(missing)}")
