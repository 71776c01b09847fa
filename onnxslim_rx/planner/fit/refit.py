"""Factors fitted to the original's outputs under the inputs that the compressed network makes.

Factors are found for each layer on its own, from the inputs that it has in the original network.
Here both networks are walked side by side, once, from the front to the back; each factorized layer
is fitted to what the original computes in its place, from what the layers before it, which are
fitted already, really give it.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy.typing as npt
import onnx_ir as ir

from onnxslim_rx.calibration import ChannelMoments, Dataset, Moments, Stop, walk
from onnxslim_rx.calibration.collect import MEMORY_BYTES, shapes_of
from onnxslim_rx.ir import spooled
from onnxslim_rx.planner.fit.chains import Chain
from onnxslim_rx.planner.fit.fit import Fit
from onnxslim_rx.planner.fit.forms import Form, forms, weight_names
from onnxslim_rx.planner.fit.norms import Norm, norms
from onnxslim_rx.planner.fit.products import target_of
from onnxslim_rx.planner.fit.rectified import is_rectified
from onnxslim_rx.planner.fit.refitted import Refitted
from onnxslim_rx.planner.fit.rounding import RoundedFit, Rounding, rounded_pairs

__all__ = ["Refitted", "Rounding", "refit"]

Array = npt.NDArray[Any]
AnyFit: TypeAlias = Fit | RoundedFit | Norm

# Matrices of the size of a layer's weight, and of its Gram matrix, that a fit holds at once.
_WEIGHTS, _GRAMS = 6, 3
# Multiply-adds of a product of a kernel with the Gram matrix of its patches, of which the fit of a
# chain takes some 80: 3 s in one thread.
_MOST_WORK = 1 << 30
_ROWS = 4096  # rows to see by what a ReLU lets through


def refit(
    original: ir.Model,
    compressed: ir.Model,
    data: Dataset,
    *,
    roundings: Sequence[Rounding] = (),
    memory_bytes: int = MEMORY_BYTES,
) -> list[Refitted]:
    """Fit the factors of `compressed` to the outputs of `original`, in place.

    A layer of two factors gets both anew, of the same rank; where the first factor serves several
    layers, or there is one matrix only, that which makes the output. Where BatchNormalization
    remains, its statistics are estimated anew, see `norms`. What will be rounded is fitted for
    that, see `rounding`. No layer gets worse on `data`.

    Args:
        original: the network before its layers were factorized; not changed.
        compressed: a copy with factorized layers, whose outputs kept their names.
        data: complete inputs, one dict a sample.
        roundings: what will be done to weights of `compressed` afterwards.
        memory_bytes: what sums and weights in use take at most; layers whose fit takes more keep
            their factors. The weights of both models stay where they are.

    Returns:
        One entry for each factorized layer, each whose weight will be rounded, and for each
        BatchNormalization behind any, in the order of the network.

    Raises:
        InputError: see `calibration.walk`.
    """
    by_weight = {rounding.weight: rounding for rounding in roundings}
    fits, skipped = _fits(original, compressed, by_weight, data, memory_bytes)
    found = {name: Refitted(name, math.nan, math.nan, 0, why) for name, why in skipped.items()}
    if fits:
        fresh: dict[str, ir.TensorProtocol] = {}

        def react(stop: Stop, moments: Moments | ChannelMoments) -> Mapping[str, Array]:
            fit = fits[stop.name]
            fitted = fit.best(moments)
            found[stop.name] = fitted.report
            for weight in fit.weights:  # the walk may start again
                fresh.pop(weight, None)
            fresh.update(_kept(compressed, fitted.arrays))
            same = fitted.shown is fitted.arrays
            shown = fresh if same else _kept(compressed, fitted.shown)
            return {weight: shown[weight].numpy() for weight in fitted.shown}

        stops = [fit.stop for fit in fits.values()]
        others = [rounding for name, rounding in by_weight.items() if not _is_fitted(name, fits)]
        with _rounded(compressed, others):
            reasons = walk(original, compressed, stops, data, react, memory_bytes=memory_bytes)
        for name, why in reasons.items():
            found[name] = Refitted(name, math.nan, math.nan, 0, why)
        for weight, tensor in fresh.items():
            compressed.graph.initializers[weight].const_value = tensor
    order = [*fits, *skipped]
    return [found[name] for name in order]


def _kept(model: ir.Model, arrays: Mapping[str, Array]) -> dict[str, ir.TensorProtocol]:
    """As tensors, which take no memory where the model is large."""
    return {name: spooled(model, ir.tensor(array, name=name)) for name, array in arrays.items()}


def _is_fitted(weight: str, fits: Mapping[str, AnyFit]) -> bool:
    return any(isinstance(fit, RoundedFit) and weight in fit.weights for fit in fits.values())


@contextlib.contextmanager
def _rounded(model: ir.Model, roundings: Sequence[Rounding]) -> Iterator[None]:
    """Weights that are rounded, but not fitted, hold what will stand for them."""
    before = {rounding.weight: rounding.layer.weight.const_value for rounding in roundings}
    try:
        for rounding in roundings:
            array = rounding.of(rounding.stored(), rounding.stats)
            rounding.layer.weight.const_value = _kept(model, {rounding.weight: array})[
                rounding.weight
            ]
        yield
    finally:
        for rounding in roundings:
            rounding.layer.weight.const_value = before[rounding.weight]


def _fits(
    original: ir.Model,
    compressed: ir.Model,
    roundings: Mapping[str, Rounding],
    data: Dataset,
    memory_bytes: int,
) -> tuple[dict[str, AnyFit], dict[str, str]]:
    """Layers to fit by name, in an order that `walk` wants, and why others are not."""
    wanted, known = _values(original), _values(compressed)
    names = weight_names(original)
    places = {name: number for number, name in enumerate(known)}
    shapes = shapes_of(original, data) if len(data) else {}
    found: list[tuple[int, int, AnyFit]] = []
    skipped: dict[str, str] = {}
    taken: set[str] = set()
    factorized = list(forms(original, compressed))
    done = {output for output, _ in factorized}
    # an output that has another name in the original is no layer of it
    rounded = (
        both
        for both in rounded_pairs(compressed, roundings)
        if both[0] in wanted and both[0] not in done
    )
    for output, form in (*factorized, *rounded):
        name = names.get(output, output)
        if name in taken:  # layers of the original share a weight
            name = output
        taken.add(name)
        why = form if isinstance(form, str) else _too_large(form, memory_bytes)
        if why:
            skipped[name] = why
            continue
        assert not isinstance(form, str)
        columns = form.shape[1]
        target = target_of(output, columns, wanted, known, shapes)
        changes = form.names if form.bias is None else (*form.names, str(form.bias.name))
        # what is rounded is fitted to sums alone
        rectified = output in done and is_rectified(wanted[target]) and is_rectified(known[target])
        stop = Stop(
            name,
            form.layer,
            target,
            columns,
            form.makes_transposed,
            changes,
            form.patches,
            kept=_ROWS if rectified else 0,
        )
        fit = Fit(stop, form)
        rounding = None if output in done else roundings[form.names[0]]
        found.append(
            (places[target], places[output], RoundedFit(fit, rounding) if rounding else fit)
        )
    for output, norm in norms(original, compressed):
        if isinstance(norm, str):
            skipped[output] = norm
        else:
            found.append((places[norm.stop.target], places[output], norm))
    found.sort(key=lambda item: item[:2])
    return {fit.stop.name: fit for _, _, fit in found}, skipped


def _too_large(form: Form, memory_bytes: int) -> str:
    k, columns = form.shape
    if 8 * (_WEIGHTS * k * columns + _GRAMS * k * k) > memory_bytes:
        return f"a fit of {k} x {columns} takes more than {memory_bytes >> 20} MiB"
    if isinstance(form, Chain) and columns * k * k > _MOST_WORK:
        return f"a fit of patches of {k} numbers to {columns} filters takes too long"
    return ""


def _values(model: ir.Model) -> dict[str, ir.Value]:
    """The values that nodes of the main graph make, by name, in order."""
    return {str(v.name): v for node in model.graph for v in node.outputs if v.name}
