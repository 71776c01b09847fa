"""The scripts of models/ that write networks which are not kept: they run, and count right."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx.reference import ReferenceEvaluator

from models import make_gpt2, make_vgg16


def small():
    return make_vgg16.layout(((4, 2), (6, 1)), hidden=5, classes=3, side=8)


def test_vgg16_has_the_parameters_of_the_paper():
    text, shapes = make_vgg16.layout()
    assert sum(map(math.prod, shapes.values())) == 138_357_544
    assert shapes["fc6_weight"] == (4096, 25088)
    model = onnx.parser.parse_model(text)
    kinds = [node.op_type for node in model.graph.node]
    assert (kinds.count("Conv"), kinds.count("Gemm"), kinds.count("MaxPool")) == (13, 3, 5)
    assert kinds.count("Relu") == 15


def test_weights_beside_the_file_keep_the_size_of_activations(tmp_path):
    path = tmp_path / "made" / "vgg.onnx"
    make_vgg16.write(path, *small())
    model = onnx.load(path)
    arrays = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    assert {name: array.shape for name, array in arrays.items()} == small()[1]
    assert not arrays["conv1_1_bias"].any()
    assert arrays["conv1_2_weight"].std() == pytest.approx(math.sqrt(2 / 36), rel=0.2)
    images = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
    expected: Any = ReferenceEvaluator(model).run(None, {"image": images})
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"image": images})
    np.testing.assert_allclose(found, expected[0], rtol=1e-4, atol=1e-5)


def test_one_seed_writes_one_file(tmp_path):
    contents = []
    for seed in (1, 1, 2):
        make_vgg16.write(tmp_path / "vgg.onnx", *small(), seed=seed)
        contents.append((tmp_path / "vgg.onnx.data").read_bytes())
    assert contents[0] == contents[1] != contents[2]


def test_gpt2_has_the_parameters_of_the_medium_size():
    text, shapes = make_gpt2.layout()
    assert sum(map(math.prod, shapes.values())) == 354_823_168
    kinds = [node.op_type for node in onnx.parser.parse_model(text).graph.node]
    assert (kinds.count("MatMul"), kinds.count("LayerNormalization")) == (24 * 6 + 1, 49)


def test_gpt2_looks_back_and_never_ahead(tmp_path):
    path = tmp_path / "gpt2.onnx"
    make_gpt2.write(path, *make_gpt2.layout(2, 128, vocabulary=30, positions=9))
    tokens = np.random.default_rng(0).integers(0, 30, (3, 7))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    expected: Any = ReferenceEvaluator(onnx.load(path)).run(None, {"input_ids": tokens})
    (found,) = session.run(None, {"input_ids": tokens})
    np.testing.assert_allclose(found, expected[0], rtol=1e-3, atol=1e-4)
    for place in range(7):
        other = tokens.copy()
        other[:, place] = (other[:, place] + 1) % 30
        (changed,) = session.run(None, {"input_ids": other})
        moved = np.abs(changed - found).max(axis=(0, 2))
        assert (moved[:place] < 1e-5).all()
        assert (moved[place:] > 1e-4).all()


def test_half_of_the_weights_of_gpt2_has_a_low_rank(tmp_path):
    path = tmp_path / "gpt2.onnx"
    make_gpt2.write(path, *make_gpt2.layout(1, 192, vocabulary=30))
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
    for name in ("qkv", "out", "up", "down"):
        array = weights[f"l0_{name}_weight"]
        assert array.std() == pytest.approx(make_gpt2.DEVIATION, rel=0.1)
        energies = np.linalg.svd(array, compute_uv=False) ** 2
        assert 0.5 < energies[: 192 // 16].sum() / energies.sum() < 0.7
    assert (weights["l0_norm1_scale"] == 1).all()
    assert not weights["l0_norm1_bias"].any()


def test_gpt2_by_its_options(tmp_path, capsys):
    target = tmp_path / "gpt2.onnx"
    options = ["--layers", "1", "--width", "64", "--vocabulary", "50"]
    assert make_gpt2.main([str(target), *options]) == 0
    _, shapes = make_gpt2.layout(1, 64, vocabulary=50)
    assert f"{sum(map(math.prod, shapes.values())):,} parameters" in capsys.readouterr().out
    assert target.with_name("gpt2.onnx.data").stat().st_size > 4 * 64 * 64 * 12
    with pytest.raises(SystemExit):
        make_gpt2.main([str(target), "--width", "100"])


def image_files(folder: Path, count: int) -> None:
    from PIL import Image

    rng = np.random.default_rng(3)
    for number in range(count):
        for label, shade in (("bright", 170), ("dark", 0)):
            pixels = rng.integers(shade, shade + 85, (32, 32, 3)).astype(np.uint8)
            path = folder / label / f"{number:04}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)


@pytest.fixture
def trainer():
    pytest.importorskip("torch")
    pytest.importorskip("PIL")
    from models import train_simpleconvnet

    return train_simpleconvnet


def test_simpleconvnet_learns_bright_from_dark(trainer, tmp_path, capsys):
    image_files(tmp_path / "images", 64)
    target = tmp_path / "net.onnx"
    images = str(tmp_path / "images")
    assert trainer.main([images, str(target), "--epochs", "3", "--test", images]) == 0
    assert "top-1 100.00%" in capsys.readouterr().out
    model = onnx.load(target)
    assert sum(math.prod(t.dims) for t in model.graph.initializer) == 620_362
    pixels, labels = trainer.read_images(tmp_path / "images")
    session = onnxruntime.InferenceSession(target, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"image": trainer.normal(pixels).numpy()})
    assert (logits.argmax(1) == labels).all()


def test_images_come_from_a_zip_file_alike(trainer, tmp_path):
    image_files(tmp_path / "images", 3)
    packed = tmp_path / "images.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        for path in (tmp_path / "images").rglob("*.jpg"):
            archive.write(path, path.relative_to(tmp_path))
    for one, other in zip(
        trainer.read_images(packed), trainer.read_images(tmp_path / "images"), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    pixels, labels = trainer.read_images(packed, limit=2)
    assert len(pixels) == 2
    assert labels.tolist() == [0, 1]


def test_other_images_are_refused(trainer, tmp_path):
    from PIL import Image

    (tmp_path / "a").mkdir()
    with pytest.raises(ValueError, match="has no images"):
        trainer.read_images(tmp_path)
    Image.new("RGB", (31, 32)).save(tmp_path / "a" / "x.jpg")
    with pytest.raises(ValueError, match="expected"):
        trainer.read_images(tmp_path)


def test_images_are_moved_and_flipped_each_its_own_way(trainer):
    import torch

    images = torch.arange(1.0, 1 + 3 * 32 * 32).view(1, 3, 32, 32).repeat(64, 1, 1, 1)
    moved = trainer.varied(images, torch.Generator().manual_seed(0))
    assert moved.shape == images.shape
    assert len({image.numpy().tobytes() for image in moved}) > 20
    inner = images[0, :, 4:-4, 4:-4]
    shift = trainer.SHIFT
    for image in moved:
        windows = [
            image[:, 4 + i : 28 + i, 4 + j : 28 + j]
            for i in range(-shift, shift + 1)
            for j in range(-shift, shift + 1)
        ]
        assert any(w.equal(inner) or w.flip(2).equal(inner) for w in windows)
