"""Make the ranges of channels between linear layers alike, so that rounding costs them alike."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim_rx.analysis.facts import Facts
from onnxslim_rx.errors import InputError
from onnxslim_rx.ir import nodes
from onnxslim_rx.passbase import PassContext, PassResult, RewritePass, Skipped
from onnxslim_rx.rewriter import Editor
from onnxslim_rx.rules import Scene
from onnxslim_rx_passes._channel_changes import Change
from onnxslim_rx_passes._channel_raises import carry_out, exponents_of, raisable
from onnxslim_rx_passes._equalization import exponents_between, imbalance
from onnxslim_rx_passes._products import PRODUCTS, Product, product
from onnxslim_rx_passes._weights import Array, tensor_of

__all__ = ["Equalize"]

Matrix = npt.NDArray[np.float64]

# f(s x) = s f(x) for s above 0, channel by channel
_HOMOGENEOUS = (
    *("Relu", "LeakyRelu", "PRelu", "Identity", "Dropout"),
    *("MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool"),
)
_LEAST_GAIN = 0.1  # of the imbalance; what rounding to powers of two leaves is not treated again


@dataclasses.dataclass(frozen=True)
class Equalize(RewritePass):
    """Scale channels between Conv, ConvTranspose, Gemm and MatMul in a row by powers of two.

    Between them may be Relu, LeakyRelu, PRelu, pooling and, behind a product, the Add of a constant
    row; depthwise convolutions are layers of the row like all others. The scales are folded into
    weights and biases, exactly: results are the same to the last bit as long as no number leaves
    the range of its type. Integers made of such weights and activations afterwards are used more
    evenly.

    Refused: Clip, whose upper end scales would move; results that are read elsewhere; weights that
    are computed or shared; what would not be exact. Rows whose ranges would not become more alike
    stay as they are.

    With `raises`, instead: channels that stay far below the upper end of a Clip (6 of ReLU6)
    between two convolutions are made larger, so that they use more of the integers that stand for
    0 to the upper end. That is exact as long as they stay there, and cuts off what does not; so
    there is a margin above the largest value that calibration saw, and results must be verified.

    Args:
        raises: by the name of what leaves such a Clip, a digit for each channel: by which power of
            two it is raised.

    Raises:
        InputError: `raises` has something else than digits.

    Source: Nagel et al., ICCV 2019; raises by measured peaks are ours.
    """

    name: ClassVar[str] = "equalize"
    helps: ClassVar[str] = "quantize-static"
    raises: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        # a plan is somebody's file: what is in it need not be text
        known = list(self.raises.values()) if hasattr(self.raises, "values") else [None]
        if not all(re.fullmatch(r"[0-9]+", str(digits)) for digits in known):
            raise InputError(
                f"{self.name} has raises = {str(self.raises)[:60]!r}",
                expected="a string of digits for each tensor",
            )

    def measures(self, model: ir.Model, ctx: PassContext) -> Sequence[str]:
        """What leaves the Clips between two convolutions."""
        return list(raisable(Scene(model, ctx.facts or Facts(model), ctx.target)))

    def measured(
        self, model: ir.Model, ctx: PassContext, peaks: Mapping[str, Array]
    ) -> Equalize | None:
        """With the powers of two that `peaks` leave room for; None: with none."""
        links = raisable(Scene(model, ctx.facts or Facts(model), ctx.target))
        raises = {name: exponents_of(links[name], peak) for name, peak in peaks.items()}
        raises = {name: digits for name, digits in raises.items() if digits.strip("0")}
        return dataclasses.replace(self, raises=raises) if raises else None

    def __call__(self, model: ir.Model, ctx: PassContext) -> PassResult:
        """See `RewritePass`; works in place."""
        scene = Scene(model, ctx.facts or Facts(model), ctx.target)
        skipped: list[Skipped] = []
        if self.raises:
            rewritten = carry_out(self.raises, scene, skipped)
            return PassResult(model, rewritten > 0, rewritten, tuple(skipped))
        links = dict(_links(model, scene, skipped))
        behind = {link.first.node for link in links.values()}
        editor, rewritten = Editor(model), 0
        for last, link in links.items():
            if last in behind:
                continue  # the row goes on
            row = [link]
            while (before := links.get(row[0].first.node)) is not None:
                row.insert(0, before)
            rewritten += _equalized(row, scene, editor, skipped)
        return PassResult(model, rewritten > 0, rewritten, tuple(skipped))


@dataclasses.dataclass(frozen=True)
class _Link:
    """Two layers, of which the second alone reads what the first makes.

    Args:
        first: the layer that makes the channels.
        second: the layer that reads them.
        adds: nodes between that add a constant row, and which input that is.
    """

    first: Product
    second: Product
    adds: tuple[tuple[ir.Node, int], ...]


def _links(
    model: ir.Model, scene: Scene, skipped: list[Skipped]
) -> Iterator[tuple[ir.Node, _Link]]:
    """By its second layer."""
    for node in nodes(model):
        if node.domain != "" or node.op_type not in PRODUCTS:
            continue
        second = product(node, scene)
        found = None if second is None else _first(second, scene)
        if second is None or found is None:
            continue
        why = found if isinstance(found, str) else _why_not(found, scene)
        if why is not None:
            skipped.append(Skipped(_name(node), why))
        elif isinstance(found, _Link):
            yield node, found


def _first(second: Product, scene: Scene) -> _Link | str | None:
    """What makes the activations of a layer, why it is no use, or None where no layer does."""
    value: ir.Value | None = second.x
    adds: list[tuple[ir.Node, int]] = []
    while True:
        node = scene.sole(value, *_HOMOGENEOUS, *PRODUCTS, "Add", "Clip")
        if node is None:
            return None
        if node.op_type == "Clip":
            inner = scene.sole(node.inputs[0], *PRODUCTS)
            return None if inner is None else "the upper end of Clip would have to move"
        if node.op_type in PRODUCTS:
            first = product(node, scene)
            return None if first is None else _Link(first, second, tuple(adds))
        place = 0
        if node.op_type == "Add":
            place = next((i for i, v in enumerate(node.inputs) if tensor_of(v, scene) is None), 0)
            adds.append((node, 1 - place))
        elif any(v.uses() for v in node.outputs[1:]):
            return None
        value = node.inputs[place]


def _why_not(link: _Link, scene: Scene) -> str | None:
    first, second = link.first, link.second
    if first.trailing != second.trailing or first.channels != second.channels_in:
        return "the layers have other channels"
    if second.node.op_type == "Gemm" and second.node.attributes.get_int("transA", 0) != 0:
        return "the activations are transposed"
    if first.tensor is None or second.tensor is None:
        return "weights are computed, or may be overridden"
    if first.shared(scene) or second.shared(scene):
        return "the weight has other readers"
    if link.adds and first.trailing:
        return "a constant is added behind a convolution"
    biases = [node.inputs[index] for node, index in link.adds]
    for value in [*biases, first.bias] if first.bias is not None else biases:
        tensor = tensor_of(value, scene)
        if tensor is None:
            return "the bias is computed, or may be overridden"
        shape = tuple(tensor.shape.numpy())
        if tensor.size not in (1, first.channels) or shape[-1:] not in ((), (1,), (tensor.size,)):
            return "the bias is no row"
    return None


def _equalized(row: Sequence[_Link], scene: Scene, editor: Editor, skipped: list[Skipped]) -> bool:
    """Scale the channels between the layers of a row, if that makes them more alike."""
    layers = [row[0].first, *(link.second for link in row)]
    sizes = [_sizes(layer) for layer in layers]
    exponents = exponents_between(sizes)
    before = imbalance(sizes, [np.zeros_like(one) for one in exponents])
    if before == 0 or imbalance(sizes, exponents) > (1 - _LEAST_GAIN) * before:
        return False
    changes = []
    for number, layer in enumerate(layers):
        factor: Matrix = np.ones(())
        if number > 0:
            factor = layer.by_input(np.exp2(exponents[number - 1].astype(np.float64)))
        if number < len(row):
            scales = np.exp2(-exponents[number].astype(np.float64))
            factor = np.multiply(factor, layer.by_output(scales))
            biases = [*row[number].adds, *([(layer.node, 2)] if layer.bias is not None else [])]
            changes += [Change.of(node, index, scales, scene) for node, index in biases]
        place = 0 if layer.on_left else 1
        changes.append(Change.of(layer.node, place, factor, scene))
    if not all(change.is_exact for change in changes):
        skipped.append(Skipped(_name(row[-1].second.node), "a weight would leave its type's range"))
        return False
    for change in changes:
        change.carry_out(editor)
    return True


def _sizes(layer: Product) -> Matrix:
    """(groups, outputs, inputs) of one group: the largest absolute weight of all positions."""
    assert layer.tensor is not None  # links are made of layers with constant weights
    array = np.abs(layer.tensor.numpy().astype(np.float64))
    taps: Matrix = array.reshape(*array.shape[:2], -1).max(axis=2)
    if layer.node.op_type == "Conv":
        return taps.reshape(layer.groups, -1, taps.shape[1])
    if layer.node.op_type == "ConvTranspose":
        return np.swapaxes(taps.reshape(layer.groups, -1, taps.shape[1]), 1, 2)
    outputs_first = layer.by_output(np.ones(layer.channels)).shape[0] == layer.channels
    return (taps if outputs_first else taps.T)[None]


def _name(node: ir.Node) -> str:
    return node.name or str(node.outputs[0].name)
