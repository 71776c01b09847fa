"""Write a decoder of GPT-2's shape with random weights, to measure time and memory on.

    python models/make_gpt2.py OUTPUT [--layers 24] [--width 1024] [--vocabulary 50257]

The medium size of Radford et al., 2019: 24 layers of width 1,024 and 16 heads, 50,257 tokens, 1,024
positions, the output layer tied to the embedding; 354,823,168 parameters (1.4 GB), opset 20, any
batch size and length. Input `input_ids` (batch, length), output `logits`. Half of what a weight
holds has a low rank, as trained ones have in part, so that there is something to find. The weights
lie in OUTPUT.data and are written one at a time. One seed writes the same file.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnx.checker
import onnx.parser

sys.path.append(str(Path(__file__).resolve().parent.parent))

from models.make_vgg16 import Shapes, stored

LAYERS, WIDTH, VOCABULARY = 24, 1024, 50257
POSITIONS = 1024
HEAD = 64  # width of a head
DEVIATION = 0.02  # of a weight's entries, as GPT-2 starts

START = """
    batch_length = Shape (input_ids)
    length = Gather (batch_length, one)
    position = Range (zero, length, one)
    token_row = Gather (token_embedding, input_ids)
    position_row = Gather (position_embedding, position)
    x0 = Add (token_row, position_row)
    column = Unsqueeze (position, last)
    later = Less (column, position)
    mask = Where (later, never, always)"""

LAYER = """
    l{i}_n1 = LayerNormalization (x{i}, l{i}_norm1_scale, l{i}_norm1_bias)
    l{i}_qkv_product = MatMul (l{i}_n1, l{i}_qkv_weight)
    l{i}_qkv = Add (l{i}_qkv_product, l{i}_qkv_bias)
    l{i}_q, l{i}_k, l{i}_v = Split <axis = -1, num_outputs = 3> (l{i}_qkv)
    l{i}_q_split = Reshape (l{i}_q, heads)
    l{i}_k_split = Reshape (l{i}_k, heads)
    l{i}_v_split = Reshape (l{i}_v, heads)
    l{i}_q_heads = Transpose <perm = [0, 2, 1, 3]> (l{i}_q_split)
    l{i}_k_heads = Transpose <perm = [0, 2, 3, 1]> (l{i}_k_split)
    l{i}_v_heads = Transpose <perm = [0, 2, 1, 3]> (l{i}_v_split)
    l{i}_products = MatMul (l{i}_q_heads, l{i}_k_heads)
    l{i}_scaled = Mul (l{i}_products, scale)
    l{i}_masked = Add (l{i}_scaled, mask)
    l{i}_attention = Softmax <axis = -1> (l{i}_masked)
    l{i}_context = MatMul (l{i}_attention, l{i}_v_heads)
    l{i}_context_rows = Transpose <perm = [0, 2, 1, 3]> (l{i}_context)
    l{i}_merged = Reshape (l{i}_context_rows, rows)
    l{i}_out_product = MatMul (l{i}_merged, l{i}_out_weight)
    l{i}_out = Add (l{i}_out_product, l{i}_out_bias)
    l{i}_middle = Add (x{i}, l{i}_out)
    l{i}_n2 = LayerNormalization (l{i}_middle, l{i}_norm2_scale, l{i}_norm2_bias)
    l{i}_up_product = MatMul (l{i}_n2, l{i}_up_weight)
    l{i}_up = Add (l{i}_up_product, l{i}_up_bias)
    l{i}_gelu = Gelu <approximate = "tanh"> (l{i}_up)
    l{i}_down_product = MatMul (l{i}_gelu, l{i}_down_weight)
    l{i}_down = Add (l{i}_down_product, l{i}_down_bias)
    x{j} = Add (l{i}_middle, l{i}_down)"""

END = """
    normal = LayerNormalization (x{layers}, norm_scale, norm_bias)
    output_weight = Transpose <perm = [1, 0]> (token_embedding)
    logits = MatMul (normal, output_weight)"""


def layout(
    layers: int = LAYERS,
    width: int = WIDTH,
    *,
    vocabulary: int = VOCABULARY,
    positions: int = POSITIONS,
) -> tuple[str, Shapes]:
    """The network as ONNX text, and the shapes of its weights by name.

    Args:
        layers: blocks of attention and two linear layers.
        width: of a token, a multiple of the width of a head, 64.
        vocabulary: number of tokens.
        positions: greatest length.
    """
    shapes: Shapes = {
        "token_embedding": (vocabulary, width),
        "position_embedding": (positions, width),
    }
    for i in range(layers):
        linear = {"qkv": (width, 3 * width), "out": (width, width)}
        linear |= {"up": (width, 4 * width), "down": (4 * width, width)}
        for name, shape in linear.items():
            shapes[f"l{i}_{name}_weight"], shapes[f"l{i}_{name}_bias"] = shape, shape[1:]
        for norm in ("norm1", "norm2"):
            shapes[f"l{i}_{norm}_scale"] = shapes[f"l{i}_{norm}_bias"] = (width,)
    shapes["norm_scale"] = shapes["norm_bias"] = (width,)
    body = START + "".join(LAYER.format(i=i, j=i + 1) for i in range(layers))
    text = f"""
<ir_version: 9, opset_import: ["" : 20], producer_name: "onnxslim_rx models/make_gpt2.py">
gpt2 (int64[batch, length] input_ids) => (float[batch, length, {vocabulary}] logits)
<int64 zero = {{0}}, int64 one = {{1}}, int64[1] last = {{-1}},
 float never = {{-1e9}}, float always = {{0}}, float scale = {{{HEAD**-0.5}}},
 int64[4] heads = {{0, 0, -1, {HEAD}}}, int64[3] rows = {{0, 0, {width}}}>
{{{body}{END.format(layers=layers)}
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
            array = _weight(name, shape, rng)
            model.graph.initializer.append(stored(name, array, file, data.name))
    onnx.save(model, path)
    onnx.checker.check_model(str(path))


def _weight(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Scales are 1, biases 0; of a weight, half of the variance has a rank of width / 16."""
    if len(shape) == 1:
        return np.full(shape, float(name.endswith("_scale")), "<f4")
    array = np.float32(DEVIATION) * rng.standard_normal(shape, np.float32)
    if name.endswith("_weight"):
        rank = min(shape) // 16
        left = rng.standard_normal((shape[0], rank), np.float32)
        right = rng.standard_normal((rank, shape[1]), np.float32)
        array += left @ (np.float32(DEVIATION / math.sqrt(rank)) * right)
        array *= np.float32(math.sqrt(0.5))
    return array.astype("<f4", copy=False)


def main(argv: Sequence[str] | None = None) -> int:
    """Write the network."""
    parser = argparse.ArgumentParser(description="Write GPT-2 with random weights as ONNX.")
    parser.add_argument("output", type=Path, help="the ONNX file; weights go to OUTPUT.data")
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--width", type=int, default=WIDTH, help=f"a multiple of {HEAD}")
    parser.add_argument("--vocabulary", type=int, default=VOCABULARY)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    if args.width < 1 or args.width % HEAD:
        parser.error(f"--width: {args.width}, expected a multiple of {HEAD}")
    text, shapes = layout(args.layers, args.width, vocabulary=args.vocabulary)
    write(args.output, text, shapes, seed=args.seed)
    print(f"{sum(map(math.prod, shapes.values())):,} parameters")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
