"""Train SimpleConvNet, 620,362 parameters, on CIFAR-10's images; write it as ONNX.

    python models/train_simpleconvnet.py IMAGES OUTPUT [--epochs N] [--test IMAGES] [--limit N]

IMAGES is a folder, or a zip file of one, with `<anything>/<class>/<name>.jpg`, 32 x 32 pixels. The
classes count in alphabetical order. OUTPUT takes RGB/255, less mean (.4914, .4822, .4465), over
standard deviation (.2471, .2435, .2616), channels first, any batch size.

Needs torch and Pillow. One thread and a fixed seed, a few minutes. The weights stay with whoever
trained them: the images come without a licence, so nothing made from them is kept in the project.
"""

from __future__ import annotations

import argparse
import io
import time
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnx.checker
import onnx.numpy_helper
import onnx.parser
import torch
from PIL import Image

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)
SEED = 0
EPOCHS = 4
BATCH = 64
LEARNING_RATE = 0.05
WEIGHT_DECAY = 5e-4
SHIFT = 2  # pixels, each way

GRAPH = """
<ir_version: 8, opset_import: ["" : 17], producer_name: "onnxslim_rx models/train_simpleconvnet.py">
simpleconvnet (float[N, 3, 32, 32] image) => (float[N, 10] logits) {
    conv1 = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (image, conv1_weight, conv1_bias)
    relu1 = Relu (conv1)
    pool1 = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (relu1)
    conv2 = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (pool1, conv2_weight, conv2_bias)
    relu2 = Relu (conv2)
    pool2 = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (relu2)
    conv3 = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (pool2, conv3_weight, conv3_bias)
    relu3 = Relu (conv3)
    pool3 = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (relu3)
    flat = Flatten (pool3)
    fc1 = Gemm <transB = 1> (flat, fc1_weight, fc1_bias)
    relu4 = Relu (fc1)
    logits = Gemm <transB = 1> (relu4, fc2_weight, fc2_bias)
}
"""


def build() -> torch.nn.Sequential:
    """The untrained network: three convolutions, each with ReLU and pooling, two linear layers."""
    layers: OrderedDict[str, torch.nn.Module] = OrderedDict()
    for number, (inputs, filters) in enumerate(((3, 32), (32, 64), (64, 128)), start=1):
        layers[f"conv{number}"] = torch.nn.Conv2d(inputs, filters, 3, padding=1)
        layers[f"relu{number}"] = torch.nn.ReLU()
        layers[f"pool{number}"] = torch.nn.MaxPool2d(2)
    layers["flat"] = torch.nn.Flatten()
    layers["fc1"] = torch.nn.Linear(2048, 256)
    layers["relu4"] = torch.nn.ReLU()
    layers["fc2"] = torch.nn.Linear(256, 10)
    return torch.nn.Sequential(layers)


def read_images(
    source: Path, limit: int | None = None
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Pixels (N, 3, 32, 32) and classes (N,) of a folder or zip file, in the order of the names.

    Args:
        source: see the module.
        limit: at most so many, spread evenly over all.

    Raises:
        ValueError: no images, or one that is not 32 x 32.
    """
    files = list(_files(source))
    if not files:
        raise ValueError(f"{source} has no images <class>/<name>.jpg")
    classes = sorted({name for name, _ in files})
    if limit is not None and limit < len(files):
        files = [files[i] for i in np.linspace(0, len(files) - 1, limit, dtype=int)]
    pixels = np.empty((len(files), 3, 32, 32), np.uint8)
    for number, (_, data) in enumerate(files):
        image = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        if image.shape != (32, 32, 3):
            raise ValueError(f"an image of {source} has shape {image.shape}, expected (32, 32, 3)")
        pixels[number] = image.transpose(2, 0, 1)
    return pixels, np.array([classes.index(name) for name, _ in files], np.int64)


def _files(source: Path) -> Iterator[tuple[str, bytes]]:
    """Class and content of each image, sorted by path."""
    if source.is_dir():
        for path in sorted(source.rglob("*.jpg")):
            yield path.parent.name, path.read_bytes()
        return
    with zipfile.ZipFile(source) as archive:
        for name in sorted(archive.namelist()):
            if name.endswith(".jpg"):
                yield Path(name).parent.name, archive.read(name)


def normal(pixels: npt.NDArray[np.uint8]) -> torch.Tensor:
    """Pixels (N, 3, 32, 32) of 0 to 255 as the network takes them."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return (torch.from_numpy(pixels).float() / 255.0 - mean) / std


def varied(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Each image flipped or not, and moved by up to `SHIFT` pixels, zeros coming in."""
    count, _, height, width = images.shape
    flip = torch.rand(count, generator=generator) < 0.5
    images = torch.where(flip.view(-1, 1, 1, 1), images.flip(3), images)
    padded = torch.nn.functional.pad(images, (SHIFT,) * 4)
    offsets = torch.randint(0, 2 * SHIFT + 1, (2, count, 1), generator=generator)
    rows, columns = offsets[0] + torch.arange(height), offsets[1] + torch.arange(width)
    chosen = torch.arange(count).view(-1, 1, 1)
    moved = padded.permute(0, 2, 3, 1)[chosen, rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2)  # (N, 3, height, width), channels last in memory


def train(
    network: torch.nn.Module,
    pixels: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int64],
    *,
    epochs: int = EPOCHS,
    seed: int = SEED,
) -> float:
    """Minimise cross-entropy, the rate rising and falling once (Smith & Topin, 2018).

    Returns:
        The mean loss of the last epoch, nats.
    """
    generator = torch.Generator().manual_seed(seed)
    classes = torch.from_numpy(labels)
    steps = epochs * -(-len(pixels) // BATCH)
    optimizer = torch.optim.SGD(
        network.parameters(), LEARNING_RATE, momentum=0.9, weight_decay=WEIGHT_DECAY, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    network.train()
    mean = 0.0
    for epoch in range(epochs):
        begin, total = time.perf_counter(), 0.0
        for chosen in torch.randperm(len(pixels), generator=generator).split(BATCH):
            logits = network(varied(normal(pixels[chosen.numpy()]), generator))
            loss = torch.nn.functional.cross_entropy(logits, classes[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.detach().item() * len(chosen)
        mean, seconds = total / len(pixels), time.perf_counter() - begin
        print(f"epoch {epoch + 1}/{epochs}  loss {mean:.4f}  {seconds:.0f} s", flush=True)
    return mean


def accuracy(
    network: torch.nn.Module, pixels: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64]
) -> float:
    """Share of images whose class is found."""
    network.eval()
    with torch.no_grad():
        found = [
            network(normal(pixels[first : first + 500])).argmax(1)
            for first in range(0, len(pixels), 500)
        ]
    return float((torch.cat(found).numpy() == labels).mean())


def to_onnx(weights: Mapping[str, npt.NDArray[np.float32]]) -> onnx.ModelProto:
    """The network as ONNX: opset 17, any batch; weights by their names in torch."""
    model = onnx.parser.parse_model(GRAPH)
    for node in model.graph.node:
        node.name = node.output[0]
    for name, array in weights.items():
        tensor = onnx.numpy_helper.from_array(array, name.replace(".", "_"))
        model.graph.initializer.append(tensor)
    onnx.checker.check_model(model, full_check=True)
    return model


def main(argv: Sequence[str] | None = None) -> int:
    """Train, measure, write."""
    parser = argparse.ArgumentParser(description="Train SimpleConvNet and write it as ONNX.")
    parser.add_argument("images", type=Path, help="folder or zip file")
    parser.add_argument("output", type=Path, help="the ONNX file to write")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--limit", type=int, help="train on so many images alone")
    parser.add_argument("--test", type=Path, help="folder or zip file of images to measure on")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    torch.manual_seed(SEED)  # of the first weights
    network = build().to(memory_format=torch.channels_last)
    train(network, *read_images(args.images, args.limit), epochs=args.epochs)
    if args.test:
        print(f"top-1 {accuracy(network, *read_images(args.test)):.2%} of {args.test.name}")
    state = network.state_dict()
    weights = {name: np.ascontiguousarray(value.numpy()) for name, value in state.items()}
    args.output.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(to_onnx(weights), args.output)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
