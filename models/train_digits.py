"""Train the demo model on scikit-learn's handwritten digits; write model, data and manifest.

A convolutional stem and three Gemm layers, in plain numpy, so that anyone can rerun it:

    python models/train_digits.py

The 1,797 images are split once, by a seeded permutation, into 897 to train on, 300 to calibrate
on and 600 to test on; no image is in two parts. One thread and a fixed seed: the same versions on
the same machine write the same files.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # sums in one order, before numpy loads its BLAS

import numpy as np
import numpy.typing as npt
import onnx
import onnx.checker
import onnx.numpy_helper
import onnx.parser
from numpy.lib.stride_tricks import sliding_window_view
from sklearn.datasets import load_digits

sys.path.append(str(Path(__file__).resolve().parent.parent))

from models.manifest import HERE, write_manifest

Array = npt.NDArray[np.float32]

SEED = 0
EPOCHS = 120
BATCH = 64
LEARNING_RATE = 2e-2
WEIGHT_DECAY = 2e-2
SPLIT = (897, 1197)  # train up to the first, calibrate up to the second, test on the rest

GRAPH = """
<ir_version: 8, opset_import: ["" : 17], producer_name: "onnxslim_rx models/train_digits.py">
digits (float[N, 1, 8, 8] image) => (float[N, 10] logits) {
    scaled = Div (image, full_scale)
    conv1 = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (scaled, conv1_weight)
    norm1 = BatchNormalization (conv1, norm1_scale, norm1_bias, norm1_mean, norm1_var)
    relu1 = Relu (norm1)
    conv2 = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (relu1, conv2_weight)
    norm2 = BatchNormalization (conv2, norm2_scale, norm2_bias, norm2_mean, norm2_var)
    relu2 = Relu (norm2)
    pool = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (relu2)
    flat = Flatten (pool)
    fc1 = Gemm <transB = 1> (flat, fc1_weight, fc1_bias)
    relu3 = Relu (fc1)
    fc2 = Gemm <transB = 1> (relu3, fc2_weight, fc2_bias)
    relu4 = Relu (fc2)
    logits = Gemm <transB = 1> (relu4, fc3_weight, fc3_bias)
}
"""


class Layer:
    """A step of the network: `forward`, then `backward`, which also fills `grads`."""

    def __init__(self, **params: Array) -> None:
        self.params = params
        self.grads: dict[str, Array] = {}
        self.velocity: dict[str, Array] = {}

    def forward(self, x: Array, rng: np.random.Generator | None) -> Array:
        """The output for `x`; `rng` is given while training, None otherwise."""
        raise NotImplementedError

    def backward(self, grad: Array) -> Array:
        """The gradient of the loss by the input, from that by the output."""
        raise NotImplementedError


class Conv(Layer):
    """A 3x3 convolution with padding 1; weight (C_out, C_in, 3, 3), no bias."""

    def forward(self, x: Array, rng: np.random.Generator | None) -> Array:
        padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
        windows = sliding_window_view(padded, (3, 3), axis=(2, 3))  # (N, C, H, W, 3, 3)
        self.columns = windows.transpose(0, 2, 3, 1, 4, 5).reshape(-1, x.shape[1] * 9)
        self.shape = x.shape
        weight = self.params["weight"]
        y = self.columns @ weight.reshape(len(weight), -1).T  # (N*H*W, C_out)
        n, _, h, w = x.shape
        return np.ascontiguousarray(y.reshape(n, h, w, -1).transpose(0, 3, 1, 2))

    def backward(self, grad: Array) -> Array:
        weight = self.params["weight"]
        rows = grad.transpose(0, 2, 3, 1).reshape(-1, len(weight))
        self.grads["weight"] = (rows.T @ self.columns).reshape(weight.shape)
        n, c, h, w = self.shape
        columns = (rows @ weight.reshape(len(weight), -1)).reshape(n, h, w, c, 3, 3)
        padded = np.zeros((n, c, h + 2, w + 2), np.float32)
        for i in range(3):
            for j in range(3):
                padded[:, :, i : i + h, j : j + w] += columns[..., i, j].transpose(0, 3, 1, 2)
        return padded[:, :, 1:-1, 1:-1]


class BatchNorm(Layer):
    """Normalise each channel (Ioffe & Szegedy, ICML 2015); epsilon as in ONNX, 1e-5."""

    def __init__(self, channels: int) -> None:
        super().__init__(scale=np.ones(channels, np.float32), bias=np.zeros(channels, np.float32))
        self.mean = np.zeros(channels, np.float32)
        self.var = np.ones(channels, np.float32)

    def forward(self, x: Array, rng: np.random.Generator | None) -> Array:
        mean, var = self.mean, self.var
        if rng is not None:
            mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3))
            self.mean = 0.9 * self.mean + 0.1 * mean
            self.var = 0.9 * self.var + 0.1 * var
        self.deviation = np.sqrt(var + np.float32(1e-5))
        self.normal = (x - mean[:, None, None]) / self.deviation[:, None, None]
        scale, bias = (self.params[name][:, None, None] for name in ("scale", "bias"))
        return self.normal * scale + bias

    def backward(self, grad: Array) -> Array:
        self.grads["bias"] = grad.sum((0, 2, 3))
        self.grads["scale"] = (grad * self.normal).sum((0, 2, 3))
        count = grad.size // grad.shape[1]
        spread = self.grads["bias"][:, None, None] / count
        spread = spread + self.normal * self.grads["scale"][:, None, None] / count
        return (grad - spread) * (self.params["scale"] / self.deviation)[:, None, None]


class Dense(Layer):
    """`x @ weight.T + bias`; weight (out, in), x flattened to (N, in)."""

    def forward(self, x: Array, rng: np.random.Generator | None) -> Array:
        self.shape = x.shape
        self.x = x.reshape(len(x), -1)
        return self.x @ self.params["weight"].T + self.params["bias"]

    def backward(self, grad: Array) -> Array:
        self.grads = {"weight": grad.T @ self.x, "bias": grad.sum(0)}
        return (grad @ self.params["weight"]).reshape(self.shape)


class Relu(Layer):
    """`max(x, 0)`."""

    def forward(self, x: Array, rng: np.random.Generator | None) -> Array:
        self.positive = x > 0
        return x * self.positive

    def backward(self, grad: Array) -> Array:
        return grad * self.positive


class MaxPool(Layer):
    """The greatest of each 2x2 square; equals share the gradient."""

    def forward(self, x: Array, rng: np.random.Generator | None) -> Array:
        n, c, h, w = x.shape
        squares = x.reshape(n, c, h // 2, 2, w // 2, 2)
        y = squares.max((3, 5), keepdims=True)
        self.chosen = squares == y
        return y.reshape(n, c, h // 2, w // 2)

    def backward(self, grad: Array) -> Array:
        n, c, h, w = grad.shape
        share = grad[:, :, :, None, :, None] / self.chosen.sum((3, 5), keepdims=True)
        return (self.chosen * share).reshape(n, c, 2 * h, 2 * w).astype(np.float32)


class Dropout(Layer):
    """Zero a quarter of the values while training (Srivastava et al., JMLR 15, 2014)."""

    def forward(self, x: Array, rng: np.random.Generator | None) -> Array:
        self.kept = 1.0 if rng is None else (rng.random(x.shape) < 0.75) / np.float32(0.75)
        return (x * self.kept).astype(np.float32)

    def backward(self, grad: Array) -> Array:
        return (grad * self.kept).astype(np.float32)


def step(layers: list[Layer], rate: float) -> None:
    """Stochastic gradient descent with momentum 0.9; weight decay on matrices and filters alone."""
    for layer in layers:
        for name, param in layer.params.items():
            velocity = layer.velocity.setdefault(name, np.zeros_like(param))
            velocity *= np.float32(0.9)
            velocity += layer.grads[name] + (WEIGHT_DECAY * param if param.ndim > 1 else 0)
            param -= np.float32(rate) * velocity


def build(rng: np.random.Generator) -> dict[str, Layer]:
    """The untrained network, in order; weights after He et al., ICCV 2015."""

    def he(*shape: int) -> Array:
        scale = np.sqrt(2 / np.prod(shape[1:]))
        return (scale * rng.standard_normal(shape)).astype(np.float32)

    def dense(inputs: int, outputs: int) -> Dense:
        return Dense(weight=he(outputs, inputs), bias=np.zeros(outputs, np.float32))

    return {
        "conv1": Conv(weight=he(16, 1, 3, 3)),
        "norm1": BatchNorm(16),
        "relu1": Relu(),
        "conv2": Conv(weight=he(32, 16, 3, 3)),
        "norm2": BatchNorm(32),
        "relu2": Relu(),
        "pool": MaxPool(),
        "drop1": Dropout(),
        "fc1": dense(512, 256),
        "relu3": Relu(),
        "drop2": Dropout(),
        "fc2": dense(256, 256),
        "relu4": Relu(),
        "fc3": dense(256, 10),
    }


def forward(layers: list[Layer], x: Array, rng: np.random.Generator | None = None) -> Array:
    """(N, 1, 8, 8) of 0..1 to logits (N, 10)."""
    for layer in layers:
        x = layer.forward(x, rng)
    return x


def shifted(x: Array, rng: np.random.Generator) -> Array:
    """Each image moved by up to one pixel, zeros coming in."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    offsets = rng.integers(0, 3, (len(x), 2))
    return np.stack(
        [image[:, i : i + 8, j : j + 8] for image, (i, j) in zip(padded, offsets, strict=True)]
    )


def train(layers: list[Layer], x: Array, y: npt.NDArray[np.int64]) -> None:
    """Minimise cross-entropy, the rate falling along a half cosine."""
    rng = np.random.default_rng(SEED + 1)
    for epoch in range(EPOCHS):
        rate = LEARNING_RATE * 0.5 * (1 + np.cos(np.pi * epoch / EPOCHS))
        order = rng.permutation(len(x))
        total = 0.0
        for start in range(0, len(x), BATCH):
            chosen = order[start : start + BATCH]
            logits = forward(layers, shifted(x[chosen], rng), rng)
            odds = np.exp(logits - logits.max(1, keepdims=True))
            odds /= odds.sum(1, keepdims=True)
            rows = np.arange(len(chosen))
            total -= float(np.log(odds[rows, y[chosen]] + 1e-12).sum())
            grad = odds
            grad[rows, y[chosen]] -= 1
            grad /= len(chosen)
            for layer in reversed(layers):
                grad = layer.backward(grad)
            step(layers, rate)
        if epoch % 10 == 9:
            print(f"epoch {epoch + 1}/{EPOCHS}  loss {total / len(x):.4f}")


def to_onnx(network: dict[str, Layer]) -> onnx.ModelProto:
    """The trained network as ONNX: opset 17, any batch, dropout left out."""
    arrays = {"full_scale": np.array(16, np.float32)}
    for name, layer in network.items():
        arrays |= {f"{name}_{key}": value for key, value in layer.params.items()}
        if isinstance(layer, BatchNorm):
            arrays |= {f"{name}_mean": layer.mean, f"{name}_var": layer.var}
    model = onnx.parser.parse_model(GRAPH)
    for node in model.graph.node:
        node.name = node.output[0]
    for name, array in arrays.items():
        tensor = onnx.numpy_helper.from_array(array.astype(np.float32), name)
        model.graph.initializer.append(tensor)
    onnx.checker.check_model(model, full_check=True)
    return model


def main() -> None:
    """Train, measure, write."""
    images, digits = load_digits(return_X_y=True)
    order = np.random.default_rng(SEED).permutation(len(images))
    x = images[order].reshape(-1, 1, 8, 8).astype(np.float32)
    y = digits[order].astype(np.int64)
    network = build(np.random.default_rng(SEED + 2))
    layers = list(network.values())
    train(layers, x[: SPLIT[0]] / 16, y[: SPLIT[0]])
    parts = {"digits_calibration": slice(*SPLIT), "digits_test": slice(SPLIT[1], None)}
    for name, part in parts.items():
        accuracy = (forward(layers, x[part] / 16).argmax(1) == y[part]).mean()
        print(f"{name}: top-1 {accuracy:.2%} of {len(y[part])}")
        np.savez_compressed(HERE / f"{name}.npz", image=x[part], label=y[part])
    onnx.save(to_onnx(network), HERE / "digits.onnx")
    write_manifest()


if __name__ == "__main__":
    main()
