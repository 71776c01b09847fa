"""One run of `quantize`: every weight by itself, without data and without a search.

One weight is in memory at a time. What was made of it goes to files at once: those of the spool of
a large model, and those of the cache, from which a run that was killed goes on.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import os
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import onnx_ir as ir

from onnxslim_rx import registry
from onnxslim_rx.errors import InputError
from onnxslim_rx.fragments import Fragment
from onnxslim_rx.ir import ModelLike, constant, digest, load
from onnxslim_rx.native_form import native_target, to_native
from onnxslim_rx.optimizer import Outcome
from onnxslim_rx.passbase import CompressionPass, Layer, Skip, Skipped, Stage
from onnxslim_rx.pipeline import clean
from onnxslim_rx.plans import Budget, LayerPlan, Plan
from onnxslim_rx.preparation import Phased, flops_counter, size_on_disk
from onnxslim_rx.progress import task
from onnxslim_rx.report import LayerRow
from onnxslim_rx.rewriter import Editor
from onnxslim_rx.runtime import least_onnxruntime
from onnxslim_rx.shelf import Shelf
from onnxslim_rx.stages import splice
from onnxslim_rx.summary import Facts, make_report
from onnxslim_rx.targets import Target, load_target
from onnxslim_rx.vocabulary import Rounding, WeightForm

__all__ = ["Quantizer"]

_PASS = "quantize-weights"
_MILD = {"bits": 8, "group": 0, "form": "cast-mul"}
"""What a weight gets that the format asked for does not suit: INT8, one scale a channel."""

_NAMED = 5
"""So many weights are named in a note; the report has all of them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quantizer:
    """A run of `quantize`; arguments as there."""

    model: ModelLike
    bits: int
    group: int
    symmetric: bool
    method: Rounding
    embedding_bits: int | None
    form: WeightForm | None
    target: str | Target
    only: tuple[str, ...]
    skip: tuple[str, ...]
    also: tuple[str, ...]
    cache: Path | None

    def run(self) -> Outcome:
        """Quantize the model.

        Raises:
            InputError: an option, the model or the cache folder cannot be used, or a pattern fits
                no weight.
        """
        return _Run(self).outcome()

    def asked(self, target: Target) -> dict[str, Any]:
        """Options of the pass that say what is asked for.

        Raises:
            InputError: a method or a form that there is not.
        """
        for what, given, words in (
            ("method", self.method, get_args(Rounding)),
            ("form", self.form, (None, *get_args(WeightForm))),
        ):
            if given not in words:
                expected = " or ".join(filter(None, words))
                raise InputError(f"there is no {what} {given!r}", expected=expected)
        return {
            "bits": self.bits,
            "group": self.group,
            "symmetric": self.symmetric,
            "method": self.method,
            "rank": 0,
            "form": self.form or ("nbits" if target.allows("ort") else "dequantize-linear"),
        }

    def wants(self, layer: str) -> bool:
        """Whether the weight of this name is to be quantized."""
        patterns = self.only or ("*",)
        return _fits(layer, patterns) and not _fits(layer, self.skip)


class _Run(Phased):
    """One run: load, clean, quantize, report."""

    def __init__(self, options: Quantizer) -> None:
        self.options = options
        self.target = native_target(load_target(options.target))
        self.asked = options.asked(self.target)
        self.tables = self.asked | {"bits": options.embedding_bits or options.bits}
        if options.method == "hqq":  # which is made for weights that sums run over
            self.tables["method"] = "clip"
        self.one = _pass(self.asked)
        _pass(self.tables)  # checks the options
        self.shelf: Shelf | None = None
        if options.cache is not None:
            target = dataclasses.asdict(self.target)
            about = [self.asked, self.tables, target, version("onnxslim-rx")]
            self.shelf = Shelf(options.cache, about)
        super().__init__()
        self.notes: list[str] = []

    def outcome(self) -> Outcome:
        source = self.options.model
        path = os.fspath(source) if isinstance(source, (str, os.PathLike)) else None
        with self.phase("load"):
            original = load(source)
        with self.phase("clean"):
            also = self.options.also
            cleaned = clean(original, verify=None, target=self.target, also=also)
        model, whole = cleaned.model, digest(cleaned.model)
        with self.phase("quantize"):
            treated = self.treat(model)
            model = to_native(model, self.target)
        facts = Facts(
            name=path or "a model in memory",
            original=original,
            original_bytes=size_on_disk(original, path),
            journal=cleaned.journal,
            budget=Budget(),
            target=self.target.name,
            seed=0,
            metric_name="",
            synthetic=True,
            timings=self.timings,
            notes=self.notes,
            count_flops=flops_counter({}),
            model=model,
        )
        self.tell_milder([row for row, _ in treated])
        report = make_report(facts, [], [], [])
        report.layers = [row for row, _ in treated]
        planned = tuple(LayerPlan(row.name, stages, row.error) for row, stages in treated if stages)
        least = least_onnxruntime(model)
        return Outcome(model, Plan(whole, self.target.name, {}, planned, least), report)

    def treat(self, model: ir.Model) -> list[tuple[LayerRow, tuple[Stage, ...]]]:
        """Quantize every weight that is wanted, in place; what was done to each."""
        found = list(self.one.layers(model))
        self.check_patterns(found)
        sizes = [_size(one) if self.wants(one) else 0 for one in found]
        editor, opsets = Editor(model), dict(model.opset_imports)
        rows: list[tuple[LayerRow, tuple[Stage, ...]]] = []
        with task("quantize", total=sum(sizes)) as advance:
            for one, size in zip(found, sizes, strict=True):
                if isinstance(one, Skipped):
                    row = LayerRow(one.where, one.why.partition(":")[0], skipped=one.why)
                    rows.append((row, ()))
                elif not self.wants(one):
                    rows.append((LayerRow(one.name, one.op, skipped="left out, as asked"), ()))
                else:
                    with task(f"{one.name}, {size / 1e6:,.0f} MB"):
                        rows.append(self.treat_one(one, editor, opsets))
                advance(size)
        if self.shelf is not None:
            self.shelf.limit()
        return rows

    def wants(self, one: Layer | Skipped) -> bool:
        return isinstance(one, Layer) and self.options.wants(one.name)

    def check_patterns(self, found: Sequence[Layer | Skipped]) -> None:
        names = [one.name if isinstance(one, Layer) else one.where for one in found]
        for pattern in (*self.options.only, *self.options.skip):
            if not any(_fits(name, [pattern]) for name in names):
                raise InputError(
                    f"no weight has a name like {pattern!r}",
                    advice="`onnxslim-rx inspect` lists the weights",
                )

    def treat_one(
        self, layer: Layer, editor: Editor, opsets: Mapping[str, int]
    ) -> tuple[LayerRow, tuple[Stage, ...]]:
        """Quantize one weight, or find what was made of it in an earlier run."""
        tensor = _tensor(layer)
        row = LayerRow(layer.name, layer.op, params_before=tensor.size, bytes_before=tensor.nbytes)
        place = self.shelf.place(layer, opsets) if self.shelf is not None else None
        kept = place.take() if place is not None else None
        made = kept or self.make(layer)
        if isinstance(made, Skip):
            row.skipped = made.why
            return row, ()
        if place is not None and kept is None:
            place.keep(made)
        splice(editor, layer, made.made, made.tape, self.one)
        stage = Stage(_PASS, made.about["options"])
        row.stages, row.why, row.error = [str(stage)], made.about["why"], made.about["error"]
        row.params_after, row.bytes_after = row.params_before, made.about["bytes"]
        return row, (stage,)

    def make(self, layer: Layer) -> Fragment | Skip:
        """What is asked for; else the milder format, and why; else why not."""
        asked = self.tables if layer.kind == "embedding" else self.asked
        made = self.emit(asked, layer, "")
        if made is not None:
            return made
        why = _refusal(asked, layer)
        return self.emit(_MILD, layer, why) or Skip(why)

    def emit(self, options: Mapping[str, Any], layer: Layer, why: str) -> Fragment | None:
        """What the pass makes of a weight; None where it offers nothing."""
        one = _pass(options)
        for candidate in one.candidates(layer, None, self.target):
            (stage,) = candidate.stages
            tape = ir.tape.Tape()
            made = one.apply(layer, stage, None, tape)
            if not isinstance(made, Skip):
                about = {
                    "options": dict(stage.options),
                    "why": why,
                    "error": float(candidate.error),
                    "bytes": candidate.bytes,
                }
                return Fragment(tape, made, about)
        return None

    def tell_milder(self, rows: Sequence[LayerRow]) -> None:
        """Name the weights that did not get what was asked for."""
        names: dict[str, list[str]] = {}
        for row in rows:
            if row.changed and row.why:
                names.setdefault(row.why, []).append(row.name)
        for why, found in names.items():
            more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
            listed = ", ".join(found[:_NAMED]) + more
            self.notes.append(f"8 bits, with one scale a channel, for {listed}: {why}.")


def _refusal(asked: Mapping[str, Any], layer: Layer) -> str:
    """Why the pass offers nothing for a weight."""
    tape = ir.tape.Tape()
    stage = Stage(_PASS, {**asked, "scales": "float16"})
    made = _pass(asked).apply(layer, stage, None, tape)
    if isinstance(made, Skip):
        return made.why
    size = sum(value.const_value.nbytes for value in tape.initializers if value.const_value)
    for node in tape.nodes:  # which would count as readers of the model's values
        for index in range(len(node.inputs)):
            node.replace_input_with(index, None)
    if size >= _tensor(layer).nbytes or layer.kind != "embedding":
        return "would not be smaller in blocks"
    return "some row would lose too much in blocks"


def _pass(options: Mapping[str, Any]) -> CompressionPass:
    made = registry.make(_PASS, options)
    assert isinstance(made, CompressionPass)  # it is our own
    return made


def _fits(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _size(one: Layer | Skipped) -> int:
    return _tensor(one).nbytes if isinstance(one, Layer) else 0


def _tensor(layer: Layer) -> ir.TensorProtocol:
    tensor = constant(layer.weights[0])
    assert tensor is not None  # `layers` lists constants only
    return tensor
