"""Store weights in fewer bits, wherever they are read; compute in floating point as before.

Per channel: INT8 with one scale for each output channel, see `_channel_weights` and
`_channel_rounding`. In blocks: 2, 4 or 8 bits with one scale for each few neighbours, see
`_block_options`, `_block_rounding` and `_block_nodes`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import ClassVar, Literal

import onnx_ir as ir

from onnxslim_rx.errors import InputError
from onnxslim_rx.passbase import (
    Candidate,
    CompressionPass,
    Factors,
    Layer,
    LayerStatistics,
    Skip,
    Skipped,
    Stage,
)
from onnxslim_rx.targets import Target
from onnxslim_rx_passes._block_candidates import block_candidates
from onnxslim_rx_passes._block_factors import round_blocks
from onnxslim_rx_passes._block_nodes import emit_blocks
from onnxslim_rx_passes._block_options import FORMS, METHODS, SCALES, BlockOptions, Wanted
from onnxslim_rx_passes._block_statistics import known_of, settled
from onnxslim_rx_passes._block_weights import BlockWeight
from onnxslim_rx_passes._channel_factors import round_factors
from onnxslim_rx_passes._channel_rounding import GPTQ, method_of
from onnxslim_rx_passes._channel_rounding import METHODS as CHANNEL_METHODS
from onnxslim_rx_passes._channel_weights import (
    CAST_MUL,
    DEQUANTIZE,
    channel_candidate,
    emit_channels,
)
from onnxslim_rx_passes._linear import is_factor, tensor_of
from onnxslim_rx_passes._stored_layers import stored_layers

__all__ = ["QuantizeWeights"]

_BYTE = 8
_FIRST_BROADCAST = 7


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantizeWeights(CompressionPass):
    """Store each weight in fewer bits: INT8 per channel, or 2, 4 or 8 bits in blocks.

    Per channel (any weight): `Mul(Cast(Q), s)` or `DequantizeLinear(Q, s)`; Q int8 has the shape of
    the weight, s has length 1 in all axes but the output channels (rows of an embedding, gates and
    directions of a recurrent weight).

    In blocks (right sides of MatMul and Gemm, tables of Gather): `group` neighbours along the axis
    that is summed over share a scale. Emitted as MatMulNBits and GatherBlockQuantized of
    com.microsoft, or as DequantizeLinear in blocks (opset 21). Optionally `W ~= Q + B A` with thin
    INT8 factors.

    Every reader of a weight reads the new tensor, so tied weights stay tied. An option that is
    given narrows what is offered; without any, INT8 per channel comes first, then blocks from the
    mildest on.

    Args:
        bits: 2 to 8 per channel with form "cast-mul" (fewer bits than 8 give a coarser grid in the
            same int8 file); 2, 4 or 8 in blocks.
        group: 16, 32, 64, 128 or 256 neighbours share a scale; 0: one scale per channel only.
        symmetric: whether blocks do without zero points.
        method: how weights are rounded: "nearest", "clip" (least squared error over clipping
            ranges), "gptq" (least error of the output), of blocks also "hqq" (least error of a
            heavy-tailed norm) and "awq" (scaled inputs), or "auto": "gptq" where statistics allow,
            else "clip"; "clip" for tables. Any but "auto" offers blocks alone, unless `group` is 0
            or `form` "cast-mul".
        rank: components of the low-rank correction, 0 for none.
        form: "cast-mul" (per channel), "nbits" (blocks) or "dequantize-linear".
        scales: "float16" or "float32": the type that scales of blocks are stored in.
        max_row_error: tables get no candidate that has a row with a larger relative error among
            those that calibration read less than twice, above 0.
        min_elements: weights with fewer entries are left alone, since two more nodes would eat
            the gain.

    Raises:
        InputError: an option outside its range.
    """

    name: ClassVar[str] = "quantize-weights"
    replaces: ClassVar[Literal["output", "weight"]] = "weight"
    bits: int | None = None
    group: int | None = None
    symmetric: bool | None = None
    method: str = "auto"
    rank: int | None = None
    form: str | None = None
    scales: str | None = None
    max_row_error: float = 0.4
    min_elements: int = 512

    def __post_init__(self) -> None:
        words = {
            "method": (*METHODS, "auto"),
            "form": (None, CAST_MUL, *FORMS),
            "scales": (None, *SCALES),
            "group": (None, 0, 16, 32, 64, 128, 256),
        }
        for option, allowed in words.items():
            if getattr(self, option) not in allowed:
                text = f"{self.name} has {option} = {getattr(self, option)!r}"
                raise InputError(text, expected=", ".join(str(one) for one in allowed if one))
        ranges = {"bits": (2, 8), "rank": (0, None), "min_elements": (1, None)}
        for option, (least, most) in ranges.items():
            value = getattr(self, option)
            if value is not None and not least <= value <= (most or value):
                expected = f"{least} to {most}" if most else f"at least {least}"
                raise InputError(f"{self.name} has {option} = {value}", expected=expected)
        if not self.max_row_error > 0:
            raise InputError(
                f"{self.name} has max_row_error = {self.max_row_error}", expected="above 0"
            )

    def layers(self, model: ir.Model) -> Iterable[Layer | Skipped]:
        """Weights of every layer kind, in the main graph and in subgraphs."""
        opset = model.opset_imports.get("", 1)
        return stored_layers(model, self.min_elements, lambda layer: _refusal(layer, opset))

    def candidates(
        self, layer: Layer, stats: LayerStatistics | None, target: Target
    ) -> Iterable[Candidate]:
        """Forms that the options allow, that suit the layer, and that are smaller than it was."""
        for bits, form in self._channel_forms(target):
            method = None if self.method == "auto" else self.method
            native = target.allows("rx")
            found = channel_candidate(
                layer, stats, self.name, bits=bits, form=form, method=method, native=native
            )
            if found is not None:
                yield found
        weight = BlockWeight.of(layer)
        if isinstance(weight, BlockWeight) and self._offers_blocks:
            yield from block_candidates(
                weight,
                stats,
                target,
                Wanted(*(getattr(self, field.name) for field in dataclasses.fields(Wanted))),
                name=self.name,
                max_row_error=self.max_row_error,
            )

    def transform(
        self, layer: Layer, stage: Stage, factors: Factors, stats: LayerStatistics | None
    ) -> Factors:
        """Each factor rounded to its grid; of several, each as a layer of its own."""
        options = BlockOptions.of(stage)
        if options is None:
            bits, method = int(stage.options["bits"]), method_of(stage)
            return round_factors(
                layer, factors, bits, self.min_elements, method=method, stats=stats
            )
        weight = BlockWeight.of(layer)
        if isinstance(weight, str):
            raise InputError(f"{layer.name}: {weight}")
        return round_blocks(weight, factors, options, stats, self.min_elements)

    def follows_data(self, stage: Stage) -> bool:
        """Whether weights are rounded under the second moments of what enters."""
        options = BlockOptions.of(stage)
        return method_of(stage) == GPTQ if options is None else options.uses_statistics

    def applied(self, stage: Stage) -> bool:
        """Per channel, ONNX Runtime computes DequantizeLinear in front of a MatMul on integers.

        So activations are rounded, too, which costs more than the weight.
        """
        return BlockOptions.of(stage) is None and stage.options.get("form") == DEQUANTIZE

    def apply(
        self, layer: Layer, stage: Stage, stats: LayerStatistics | None, tape: ir.tape.Tape
    ) -> ir.Value | Mapping[ir.Value, ir.Value] | Skip:
        """Emit the stored integers, the scales, and what computes with them."""
        options = BlockOptions.of(stage)
        if options is None:
            bits, form = int(stage.options["bits"]), str(stage.options["form"])
            return emit_channels(layer, bits, form, tape, method=method_of(stage), stats=stats)
        weight, factor = BlockWeight.of(layer), is_factor(layer.node)
        why = weight if isinstance(weight, str) else weight.why_not(options)
        if isinstance(weight, str) or why is not None:
            # whoever made the plan cannot know which of the factors blocks suit
            return emit_channels(layer, _BYTE, CAST_MUL, tape) if factor else Skip(str(why))
        known = known_of(weight, stats)
        own = settled(options, known, layer.name, factor=factor)
        try:
            stored = weight.rows(tensor_of(weight.root).numpy())
            made = known.rounded(stored, own)
        except ValueError as error:
            return Skip(str(error))
        return emit_blocks(weight, made, own, tape)

    def _channel_forms(self, target: Target) -> Iterator[tuple[int, str]]:
        """Bits and forms of what is offered per channel."""
        for_blocks = (self.group, self.rank, self.scales)
        if any(for_blocks) or self.symmetric is False:
            return
        # one that blocks know, too, is theirs unless channels are asked for
        asked = self.group == 0 or self.form == CAST_MUL
        if self.method != "auto" and not (asked and self.method in CHANNEL_METHODS):
            return
        if self.form == CAST_MUL or (self.form is None and self.bits in (None, _BYTE)):
            yield self.bits or _BYTE, CAST_MUL
        fused = self.form == DEQUANTIZE or (self.form is None and target.allows("ort"))
        if fused and self.bits in (None, _BYTE):
            yield _BYTE, DEQUANTIZE

    @property
    def _offers_blocks(self) -> bool:
        return self.form != CAST_MUL and self.group != 0 and self.bits in (None, 2, 4, _BYTE)


def _refusal(layer: Layer, opset: int) -> str | None:
    if opset < _FIRST_BROADCAST:
        return f"opset {opset} multiplies without broadcasting; {_FIRST_BROADCAST} is the first"
    if tensor_of(layer.weights[0]).dtype == ir.DataType.BFLOAT16:
        return "few runtimes multiply bfloat16"
    return None
