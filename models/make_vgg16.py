"""Write a network of VGG-16's shape with random weights, to measure time and memory on.

    python models/make_vgg16.py OUTPUT

Thirteen 3x3 convolutions and three Gemm layers for 224 x 224 images, 138,357,544 parameters
(configuration D of Simonyan & Zisserman, ICLR 2015), opset 17, any batch size. Weights after He et
al., ICCV 2015, so that activations keep their size; biases zero. They lie in OUTPUT.data (553 MB)
and are written one at a time. One seed writes the same file.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx
import onnx.checker
import onnx.parser

STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # channels, convolutions before a pool
HIDDEN = 4096
CLASSES = 1000
SIDE = 224
ALIGNMENT = 4096  # bytes; where weights begin, so that they can be mapped

Shapes = dict[str, tuple[int, ...]]


def layout(
    stages: Sequence[tuple[int, int]] = STAGES,
    *,
    hidden: int = HIDDEN,
    classes: int = CLASSES,
    side: int = SIDE,
) -> tuple[str, Shapes]:
    """The network as ONNX text, and the shapes of its weights by name.

    Args:
        stages: channels and number of convolutions of each stage; each ends in a pool of 2x2.
        hidden: width of the first two linear layers.
        classes: width of the last.
        side: of the image, a multiple of 2 to the number of stages.
    """
    lines: list[str] = []
    shapes: Shapes = {}
    value, channels = "image", 3
    for stage, (filters, count) in enumerate(stages, start=1):
        for number in range(1, count + 1):
            name = f"conv{stage}_{number}"
            shapes[f"{name}_weight"], shapes[f"{name}_bias"] = (filters, channels, 3, 3), (filters,)
            attributes = "kernel_shape = [3, 3], pads = [1, 1, 1, 1]"
            lines.append(f"{name} = Conv <{attributes}> ({value}, {name}_weight, {name}_bias)")
            lines.append(f"relu{stage}_{number} = Relu ({name})")
            value, channels = f"relu{stage}_{number}", filters
        lines.append(f"pool{stage} = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> ({value})")
        value = f"pool{stage}"
    lines.append(f"flat = Flatten ({value})")
    value, width = "flat", channels * (side // 2 ** len(stages)) ** 2
    for name, units in (("fc6", hidden), ("fc7", hidden), ("fc8", classes)):
        shapes[f"{name}_weight"], shapes[f"{name}_bias"] = (units, width), (units,)
        output = "logits" if name == "fc8" else name
        lines.append(f"{output} = Gemm <transB = 1> ({value}, {name}_weight, {name}_bias)")
        if name != "fc8":
            lines.append(f"relu_{name} = Relu ({name})")
        value, width = f"relu_{name}", units
    body = "\n    ".join(lines)
    text = f"""
<ir_version: 8, opset_import: ["" : 17], producer_name: "onnxslim_rx models/make_vgg16.py">
vgg16 (float[N, 3, {side}, {side}] image) => (float[N, {classes}] logits) {{
    {body}
}}
"""
    return text, shapes


def write(path: Path, text: str, shapes: Shapes, *, seed: int = 0) -> None:
    """Write the network, its random weights beside it in `path` + ".data"."""
    model = onnx.parser.parse_model(text)
    for node in model.graph.node:
        node.name = node.output[0]
    rng = np.random.default_rng(seed)
    data = path.with_name(path.name + ".data")
    path.parent.mkdir(parents=True, exist_ok=True)
    with data.open("wb") as file:
        for name, shape in shapes.items():
            scale = 0.0 if len(shape) == 1 else math.sqrt(2.0 / math.prod(shape[1:]))
            array = np.float32(scale) * rng.standard_normal(shape, np.float32)
            model.graph.initializer.append(stored(name, array.astype("<f4"), file, data.name))
    onnx.save(model, path)
    onnx.checker.check_model(str(path))


def stored(name: str, array: np.ndarray, file: BinaryIO, location: str) -> onnx.TensorProto:
    """Append an array to a file of weights; the tensor that says where it lies."""
    file.write(b"\0" * (-file.tell() % ALIGNMENT))
    tensor = onnx.TensorProto(name=name, data_type=onnx.TensorProto.FLOAT, dims=array.shape)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entries = {"location": location, "offset": str(file.tell()), "length": str(array.nbytes)}
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    file.write(array.data)
    return tensor


def main(argv: Sequence[str] | None = None) -> int:
    """Write the network."""
    parser = argparse.ArgumentParser(description="Write VGG-16 with random weights as ONNX.")
    parser.add_argument("output", type=Path, help="the ONNX file; weights go to OUTPUT.data")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    text, shapes = layout()
    write(args.output, text, shapes, seed=args.seed)
    print(f"{sum(map(math.prod, shapes.values())):,} parameters")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
