#!/usr/bin/env python3
"""Calibration and held-back data for the models of bench_models.py, from the assets' data.

    python3 tools/bench_data.py MODEL FOLDER

writes FOLDER/calibrate/NNNN.npz, FOLDER/score/NNNN.npz (one complete sample each) and
FOLDER/task.json (what can be scored with the labels). No sample is in both folders. The assets
lie where ONNXSLIM_RX_ASSETS says, default ../shared beside the checkout.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import sysconfig
import wave
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).resolve().parent.parent
ASSETS = Path(os.environ.get("ONNXSLIM_RX_ASSETS", ROOT.parent / "shared"))
Array = npt.NDArray[Any]
Sample = dict[str, Array]

CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
WINDOW, CONTEXT = 512, 64  # samples of a Silero window, and of the one before that go with it


class Task:
    """Where the samples go, and what is known about those that score."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.facts: dict[str, Any] = {"kind": "none"}
        self.counts = {"calibrate": 0, "score": 0}
        for part in self.counts:
            (folder / part).mkdir(parents=True, exist_ok=True)

    def add(self, part: str, sample: Sample) -> None:
        """Write one sample to "calibrate" or "score"."""
        np.savez(self.folder / part / f"{self.counts[part]:05d}.npz", **sample)  # type: ignore[arg-type]
        self.counts[part] += 1

    def close(self) -> None:
        """Write what is known about the samples."""
        text = json.dumps({**self.facts, "samples": self.counts})
        (self.folder / "task.json").write_text(text, encoding="utf-8")


def prepared(folder: Path, make: Callable[[Task, np.random.Generator], None]) -> Path:
    """The folder, which `make` fills once."""
    if not (folder / "task.json").is_file():
        task = Task(folder)
        make(task, np.random.default_rng(0))
        task.close()
    return folder


def minilm(task: Task, rng: np.random.Generator, calibrate: int = 256) -> None:
    """256 sentences to calibrate, 400 others to score, each of its own length."""
    lines = (ASSETS / "data" / "sst2_train.tsv").read_text(encoding="utf-8").splitlines()[1:]
    sentences = sorted({line.split("\t")[0].strip() for line in lines})
    order = rng.permutation(len(sentences))
    # the same 400 score, however many calibrate
    chosen = [*np.concatenate([order[:256], order[656:]])[:calibrate], *order[256:656]]
    for number, sample in enumerate(tokens([sentences[index] for index in chosen])):
        task.add("calibrate" if number < calibrate else "score", sample)


def tokens(sentences: Iterable[str]) -> Iterator[Sample]:
    """What MiniLM reads of each sentence, a batch of one, all of its tokens."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(ASSETS / "models" / "minilm_tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    for sentence in sentences:
        yield sentence_of(np.array(tokenizer.encode(sentence).ids, np.int64))


def sentence_of(ids: Array) -> Sample:
    """The inputs of MiniLM for one sequence of tokens, int64 (length,)."""
    row = ids[None]
    return {
        "input_ids": row,
        "attention_mask": np.ones_like(row),
        "token_type_ids": np.zeros_like(row),
    }


def cifar(
    name: str, calibrate: int = 256, score: int = 1000
) -> Callable[[Task, np.random.Generator], None]:
    """256 training images to calibrate, 1,000 test images with labels to score."""

    def prepare(task: Task, rng: np.random.Generator) -> None:
        train = _members("cifar10_train.zip", rng, calibrate)
        test = _members("cifar10_test_half.zip", rng, score)
        classes = sorted({member.split("/")[1] for member, _ in test})
        for part, images in (("calibrate", train), ("score", test)):
            for _, data in images:
                task.add(part, {name: _normal(_rgb(data), CIFAR_MEAN, CIFAR_STD)})
        labels = [classes.index(member.split("/")[1]) for member, _ in test]
        task.facts = {"kind": "top1", "labels": labels}

    return prepare


def imagenet(
    name: str, calibrate: int = 128, score: int = 200
) -> Callable[[Task, np.random.Generator], None]:
    """128 images to calibrate, 200 others to score, with labels."""

    def prepare(task: Task, rng: np.random.Generator) -> None:
        images = _members("imagenet_half.zip", rng, calibrate + score)
        for number, (_, data) in enumerate(images):
            pixels = _normal(_crop(_rgb(data, short=256), 224), IMAGENET_MEAN, IMAGENET_STD)
            task.add("calibrate" if number < calibrate else "score", {name: pixels})
        labels = [int(Path(member).stem) for member, _ in images]
        task.facts = {
            "kind": "top1", "labels": labels[calibrate:], "calibrate_labels": labels[:calibrate]
        }  # fmt: skip

    return prepare


def faces(task: Task, rng: np.random.Generator) -> None:
    """96 pictures to calibrate, 150 others to score, at 320 x 240."""
    for number, (_, data) in enumerate(_members("imagenet_half.zip", rng, 246)):
        pixels = (_rgb(data, size=(320, 240)) - 127.0) / 128.0
        sample = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None], np.float32)
        task.add("calibrate" if number < 96 else "score", {"input": sample})


def super_resolution(task: Task, rng: np.random.Generator) -> None:
    """Luma of 32 pictures to calibrate, of 48 others to score."""
    for number, (_, data) in enumerate(_members("imagenet_half.zip", rng, 80)):
        pixels = _crop(_rgb(data, short=256), 224) @ np.array([0.299, 0.587, 0.114]) / 255.0
        task.add("calibrate" if number < 32 else "score", {"input": _batch(pixels[None])})


def magika(task: Task, rng: np.random.Generator) -> None:
    """First 1,024 bytes of 200 files to calibrate, of 300 others to score; 256 stands for none."""
    found = sorted(path for path in _files() if path.stat().st_size > 0)
    seen: set[bytes] = set()
    for index in rng.permutation(len(found)):
        with found[index].open("rb") as file:
            head = file.read(4096).lstrip()[:1024]
        if head in seen or not head:
            continue
        seen.add(head)
        tokens = np.full((1, 1024), 256, np.int32)
        tokens[0, : len(head)] = np.frombuffer(head, np.uint8)
        task.add("calibrate" if len(seen) <= 200 else "score", {"bytes": tokens})
        if len(seen) == 500:
            return


def _files() -> Iterator[Path]:
    """Files of many types that every Python has, and the assets; two a folder and type."""
    for top in (ASSETS, Path(sysconfig.get_path("stdlib")), Path(sysconfig.get_path("purelib"))):
        taken: dict[tuple[Path, str], int] = {}
        for path in sorted(top.rglob("*")):
            key = (path.parent, path.suffix)
            if path.is_file() and taken.get(key, 0) < 2:
                taken[key] = taken.get(key, 0) + 1
                yield path


def forest(task: Task, rng: np.random.Generator) -> None:
    """Random rows in the ranges of the four iris measurements, cm."""
    low, high = np.array([4.3, 2.0, 1.0, 0.1]), np.array([7.9, 4.4, 6.9, 2.5])
    for number in range(264):
        row = rng.uniform(low, high, (1, 4)).astype(np.float32)
        task.add("calibrate" if number < 64 else "score", {"X": row})


def silero(task: Task, rng: np.random.Generator) -> None:
    """Windows of ten recordings to calibrate, of five others with labels to score.

    The state is carried on by the original model.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(ASSETS / "models" / "silero_vad_16k_op15.onnx")
    recordings = sorted((ASSETS / "data" / "vad_half").glob("*.wav"))
    labels: list[int] = []
    starts: list[int] = []
    windows: list[Sample] = []
    for number, path in enumerate(recordings):
        sound, speech = _sound(path), _speech(path.with_suffix(".scv"))
        state = np.zeros((2, 1, 128), np.float32)
        if number >= 10:
            starts.append(len(labels))
        for first in range(0, len(sound) - WINDOW + 1, WINDOW):
            context = sound[max(first - CONTEXT, 0) : first]
            padded = np.concatenate([np.zeros(CONTEXT - len(context)), context])
            window = np.concatenate([padded, sound[first : first + WINDOW]])[None]
            sample = {"input": window.astype(np.float32), "state": state, "sr": np.array(16000)}
            state = np.asarray(session.run(None, sample)[1])
            if number < 10:
                windows.append(sample)
            else:
                task.add("score", sample)
                labels.append(int(speech((first + WINDOW / 2) / 16000)))
    for index in rng.permutation(len(windows))[:256]:
        task.add("calibrate", windows[index])
    task.facts = {"kind": "auc", "labels": labels, "starts": starts}


def _sound(path: Path) -> npt.NDArray[np.float32]:
    """A recording of 16-bit mono, in [-1, 1)."""
    with wave.open(str(path)) as file:
        frames = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    sound: npt.NDArray[np.float32] = frames.astype(np.float32) / np.float32(32768)
    return sound


def _speech(path: Path) -> Callable[[float], bool]:
    """Whether someone speaks at a time, s: name, then start, end, label for each segment."""
    with path.open(newline="", encoding="utf-8") as file:
        row = next(csv.reader(file))[1:]
    segments = [(float(a), float(b), int(c)) for a, b, c in zip(*[iter(row)] * 3, strict=False)]
    return lambda time: any(a <= time < b and label == 1 for a, b, label in segments)


def _members(archive: str, rng: np.random.Generator, count: int) -> list[tuple[str, bytes]]:
    """Names and bytes of `count` random images of a zip file."""
    with zipfile.ZipFile(ASSETS / "data" / archive) as file:
        names = sorted(name for name in file.namelist() if name.lower().endswith((".jpg", ".jpeg")))
        chosen = [names[index] for index in rng.permutation(len(names))[:count]]
        return [(name, file.read(name)) for name in chosen]


def _rgb(data: bytes, *, short: int = 0, size: tuple[int, int] | None = None) -> Array:
    """An image (height, width, 3), 0 to 255; resized to a short side or a (width, height)."""
    from PIL import Image

    image = Image.open(io.BytesIO(data)).convert("RGB")
    if short:
        scale = short / min(image.size)
        size = (round(image.width * scale), round(image.height * scale))
    if size is not None:
        image = image.resize(size, Image.Resampling.BILINEAR)
    return np.asarray(image, np.float64)


def _crop(pixels: Array, side: int) -> Array:
    top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
    return pixels[top : top + side, left : left + side]


def _normal(pixels: Array, mean: Sequence[float], std: Sequence[float]) -> Array:
    return _batch(((pixels / 255.0 - mean) / std).transpose(2, 0, 1))


def _batch(pixels: Array) -> Array:
    return np.ascontiguousarray(pixels[None], np.float32)


PREPARE: dict[str, Callable[[Task, np.random.Generator], None]] = {
    "minilm": minilm,
    "mobilenetv2_fp32": imagenet("input"),
    "mobilenetv2-12-qdq": imagenet("input"),
    "cifar10_resnet_1m": cifar("x"),
    "cifar10_resnet_4b": cifar("input.1"),
    "vit_ibp_3_3_8": cifar("input"),
    "magika_fast_v2_1": magika,
    "silero_vad_16k_op15": silero,
    "ultraface_RFB_320": faces,
    "super_resolution": super_resolution,
    "sklearn_randomforest": forest,
}
"""How to make the data of each model."""


def main(argv: list[str] | None = None) -> int:
    """Write the data of one model."""
    parser = argparse.ArgumentParser(description="Write the data that one model is measured on.")
    parser.add_argument("model", choices=sorted(PREPARE))
    parser.add_argument("folder", type=Path)
    args = parser.parse_args(argv)
    task = Task(args.folder)
    PREPARE[args.model](task, np.random.default_rng(0))
    task.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
