"""Replace a table that rows are looked up in by two thinner ones.

`Gather(E, i)` becomes `Gather(P, i) Q` with `E ~= P Q`. Rows that are read often count more (see
`_row_svd`). A table that also projects to logits, `X E^T`, stays tied: `(X Q^T) P^T` reads the same
two factors.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim_rx.analysis import constant_root
from onnxslim_rx.errors import InputError
from onnxslim_rx.passbase import (
    Array,
    Candidate,
    Factors,
    Layer,
    LayerStatistics,
    Skip,
    Skipped,
    Stage,
)
from onnxslim_rx.targets import Target
from onnxslim_rx_passes._factors import is_finite
from onnxslim_rx_passes._linear import is_factor, store, tensor_of
from onnxslim_rx_passes._ranks import LowRankPass
from onnxslim_rx_passes._row_svd import RowMoments, projections, row_curve, row_moments, times
from onnxslim_rx_passes._tables import Read, reads_of, table_layers, table_statistics

__all__ = ["FactorizeEmbedding"]

Matrix = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FactorizeEmbedding(LowRankPass):
    """Replace ``Gather(E, i)`` by ``Gather(P, i) Q`` with ``E ~= P Q``, wherever E is read.

    Shapes: E (V, K), P (V, R), Q (R, K). MatMul and Gemm that read the same table, on either side,
    plain or transposed, read the same factors afterwards.

    A candidate's error is the largest of three: of the rows that calibration read, weighed by how
    often; of the rows that it never read, what 95% of them keep; of the logits, where there is a
    tied projection. A text like those of the calibration meets the first, one unlike them the
    second, and every text the third, so that none is promised less error than it gets.

    Args:
        rank, ratio, energy, max_rel_error, min_quality, rule, min_saving, min_elements: see
            `LowRankPass`; errors are the ones above.
        method: "svd" (all rows alike), "scaled-svd" (rows by how often they are read, plus one),
            "whitened-svd" (also directions by what a tied projection multiplies them with) or
            "auto": the last of these that the statistics allow.
        max_side: tables with longer rows are left alone: matrices of K x K are decomposed, which
            takes a minute at 4,096.

    Raises:
        InputError: an option outside its range, or more than one that settles the rank.

    Source: Eckart & Young, Psychometrika 1(3), 1936; row frequencies as weights: GroupReduce,
    Chen et al., NeurIPS 2018.
    """

    name: ClassVar[str] = "factorize-embedding"
    max_side: int = 4096

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_side < 1:
            raise InputError(f"{self.name} has max_side = {self.max_side}", expected="at least 1")

    def layers(self, model: ir.Model) -> Iterable[Layer | Skipped]:
        """Constant tables that Gather reads along axis 0, with all their other readers."""
        for layer in table_layers(model, min_elements=self.min_elements):
            if isinstance(layer, Skipped):
                yield layer
            elif any(map(is_factor, layer.nodes)):
                yield Skipped(layer.name, "Gather: is a factor already")
            elif (side := _shape(layer)[1]) > self.max_side:
                yield Skipped(layer.name, f"Gather: rows of {side}, above {self.max_side}")
            else:
                yield layer

    def candidates(
        self, layer: Layer, stats: LayerStatistics | None, target: Target
    ) -> Iterable[Candidate]:
        """The rank that the options settle, or the ladder, where it saves enough."""
        table = tensor_of(_root(layer)).numpy()
        rows, columns = table.shape
        if not is_finite(table) or self.largest(rows, columns) < 1:
            return
        method = _settled(self.method, layer, stats)
        counts, gram = _known(layer, stats, method)
        moments = row_moments(table, counts)
        a, q = projections(moments, gram, min(self.largest(rows, columns), columns))
        curve = row_curve(moments, gram, a, q)

        def spectra() -> Iterator[Matrix]:
            values = np.linalg.eigvalsh(moments.weighted)[::-1]
            yield np.sqrt(np.maximum(values, 0.0))[: min(rows, columns)]

        for rank in self.ranks(rows, columns, target, curve, spectra):
            stage = Stage(self.name, {"method": method, "rank": rank})
            size = rank * (rows + columns) * table.dtype.itemsize
            error = float(curve[rank])
            yield Candidate((stage,), error=error, bytes=size, flops=_flops(layer, rank))

    def transform(
        self, layer: Layer, stage: Stage, factors: Factors, stats: LayerStatistics | None
    ) -> Factors:
        """`(P, Q)`, (V, R) and (R, K)."""
        if len(factors) != 1:
            raise InputError(f"{layer.name} is factorized already", expected="one table")
        return _factorize(layer, factors[0], stage, stats, np.float64)

    def restore(self, layer: Layer, factors: Factors) -> Factors:
        """The table that `factors` stand for."""
        return (factors[0] if len(factors) == 1 else factors[0] @ factors[1],)

    def apply(
        self, layer: Layer, stage: Stage, stats: LayerStatistics | None, tape: ir.tape.Tape
    ) -> Mapping[ir.Value, ir.Value] | Skip:
        """Emit a look-up or a product with both factors for each reader of the table."""
        root = _root(layer)
        reads = reads_of(layer.nodes, root)
        if layer.node not in [read.node for read in reads]:
            return Skip("the other readers of the table lie in another graph")
        tensor = tensor_of(root)
        table = tensor.numpy()
        if not is_finite(table):
            return Skip("the table has NaN or infinity")
        if not 1 <= int(stage.options["rank"]) <= min(table.shape):
            return Skip(f"rank {stage.options['rank']} does not fit a table of {table.shape}")
        factors = _factorize(layer, table, stage, stats, table.dtype)
        first, second = store(tape, factors, [f"{root.name}.p", f"{root.name}.q"], tensor.dtype)
        pair = _Pair(first, second, tape)
        return {read.node.outputs[0]: pair.emit(read) for read in reads}


class _Pair:
    """Both factors, and each transposed once, for as many readers as there are."""

    def __init__(self, p: ir.Value, q: ir.Value, tape: ir.tape.Tape) -> None:
        self._p, self._q, self._tape = p, q, tape
        self._flipped: dict[ir.Value, ir.Value] = {}

    def emit(self, read: Read) -> ir.Value:
        """What takes the place of the reader's output."""
        node, x, tape = read.node, read.activation, self._tape
        if node.op_type == "Gather":
            rows = tape.op("Gather", [self._p, x], node.attributes)
            return tape.op("MatMul", [rows, self._q])
        outer, inner = (self._p, self._q) if read.index == 0 else (self._q, self._p)
        if read.flipped:
            outer, inner = inner, outer
        if node.op_type == "Gemm":
            return self._gemm(read, outer, inner)
        # the table is `first second`; `inner` is the factor that meets the activation
        near, far = self._turned(inner, read.flipped), self._turned(outer, read.flipped)
        if read.index == 0:
            return tape.op("MatMul", [far, tape.op("MatMul", [near, x])])
        return tape.op("MatMul", [tape.op("MatMul", [x, near]), far])

    def _gemm(self, read: Read, outer: ir.Value, inner: ir.Value) -> ir.Value:
        """The second product carries scaling and bias, and transposes its factor itself."""
        node, tape, x = read.node, self._tape, read.activation
        kept = {k: v for k, v in node.attributes.items() if k not in ("transA", "transB")}
        if node.attributes.get_int("transA" if read.index else "transB", 0):
            x = tape.op("Transpose", [x], {"perm": [1, 0]})
        near, left = self._turned(inner, read.flipped), read.index == 0
        middle = tape.op("MatMul", [near, x] if left else [x, near])
        if read.flipped:
            name = "transA" if left else "transB"
            kept[name] = ir.AttrInt64(name, 1)
        sides = [outer, middle] if left else [middle, outer]
        return tape.op("Gemm", [*sides, *node.inputs[2:]], kept)

    def _turned(self, factor: ir.Value, flipped: bool) -> ir.Value:
        if flipped and factor not in self._flipped:
            turned = self._tape.op("Transpose", [factor], {"perm": [1, 0]})
            self._flipped[factor] = turned
        return self._flipped[factor] if flipped else factor


def _factorize(
    layer: Layer,
    table: Array,
    stage: Stage,
    stats: LayerStatistics | None,
    dtype: npt.DTypeLike,
) -> tuple[Array, Matrix]:
    counts, gram = _known(layer, stats, _settled(str(stage.options["method"]), layer, stats))
    moments: RowMoments = row_moments(table, counts)
    a, q = projections(moments, gram, int(stage.options["rank"]))
    # balanced factors are as large as roots of singular values, so that narrow types hold them
    lengths = np.sqrt(np.maximum(np.einsum("kr,kr->r", a, moments.plain @ a), 0.0))
    widths = np.linalg.norm(q, axis=1)
    live = (lengths > 0) & (widths > 0)
    scale = np.sqrt(np.divide(widths, lengths, out=np.ones_like(widths), where=live))
    return times(table, a * scale, dtype), q / scale[:, None]


def _settled(method: str, layer: Layer, stats: LayerStatistics | None) -> str:
    """The method to take, where the statistics allow it."""
    counts, gram = table_statistics(layer.name, _shape(layer), stats)
    if method == "auto":
        return "svd" if counts is None else "scaled-svd" if gram is None else "whitened-svd"
    if (method != "svd" and counts is None) or (method == "whitened-svd" and gram is None):
        raise InputError(
            f"factorize-embedding has method = {method} and no statistics for it",
            advice="give calibration data (a plan: those it was made with), or use method svd",
        )
    return method


def _known(
    layer: Layer, stats: LayerStatistics | None, method: str
) -> tuple[Array | None, Matrix | None]:
    """Counts and Gram matrix, as far as `method` uses them."""
    counts, gram = table_statistics(layer.name, _shape(layer), stats)
    return counts if method != "svd" else None, gram if method == "whitened-svd" else None


def _flops(layer: Layer, rank: int) -> int:
    """Of one row looked up, and of one row of each product."""
    rows, columns = _shape(layer)
    reads = reads_of(layer.nodes, _root(layer))
    products = sum(read.node.op_type != "Gather" for read in reads)
    return int(2 * rank * (columns * (len(reads) - products) + (rows + columns) * products))


def _shape(layer: Layer) -> tuple[int, int]:
    rows, columns = tensor_of(_root(layer)).shape.numpy()
    return rows, columns


def _root(layer: Layer) -> ir.Value:
    root, _ = constant_root(layer.weight)
    assert root is not None  # `layers` lists constants only
    return root
