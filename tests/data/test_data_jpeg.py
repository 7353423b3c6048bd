"""CIFAR-10 of JPEG files: what is decoded, and what is missing."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

import pvae
from pvae import PvaeError

COLOURS = {"train": [(250, 10, 30), (0, 200, 100), (40, 40, 250)], "test": [(128, 128, 0)]}


def jpeg(colour):
    file = io.BytesIO()
    Image.new("RGB", (32, 32), colour).save(file, "JPEG", quality=75)
    return np.frombuffer(file.getvalue(), np.uint8)


def save(folder, **others):
    arrays = {}
    for part, colours in COLOURS.items():
        pieces = [jpeg(colour) for colour in colours]
        ends = np.cumsum([len(piece) for piece in pieces])
        arrays[f"jpeg_{part}"] = np.concatenate(pieces)
        arrays[f"offset_{part}"] = np.array([0, *ends])
        arrays[f"y_{part}"] = np.arange(len(pieces), dtype=np.uint8)
    arrays |= others
    np.savez(folder / "cifar10_jpeg_subset.npz", **arrays)


def test_each_image_is_decoded_with_its_label(tmp_path):
    save(tmp_path)
    data = pvae.data.load("cifar10_jpeg", root=tmp_path, labels=True, observation="grey")
    assert (data.event_shape, data.levels, len(data.test)) == ((3, 32, 32), 256, 1)
    x, y = data.train.tensors()
    assert y.tolist() == [0, 1, 2]
    expected = torch.tensor(COLOURS["train"])[:, :, None, None].expand(3, 3, 32, 32)
    assert ((255 * x).round() - expected).abs().max() <= 4
    assert pvae.data.load("CIFAR10-JPEG", root=tmp_path).observation == "dequantize"


def test_bits_per_dim_are_those_of_the_levels(tmp_path):
    """A model of equal probabilities for 256 levels takes 8 bits for each of the 3 × 32² values."""
    save(tmp_path)
    data = pvae.data.load("cifar10_jpeg", root=tmp_path, observation="grey")
    model = pvae.models.PixelCNN((3, 32, 32), 6, 1, likelihood="softmax", levels=256)
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    found = pvae.evaluate(model, pvae.guides.NoLatents(), data, num_samples=1, progress=False)
    assert found.data["dims"] == 3072
    assert -found.elbo.mean() / 3072 / np.log(2) == pytest.approx(8, abs=1e-3)
    assert "bits/dim: 8.0000" in found.table()


def test_a_missing_or_damaged_file_is_one_message(tmp_path):
    with pytest.raises(PvaeError, match=r"no file cifar10_jpeg_subset.npz.*root=.*PVAE_DATA"):
        pvae.data.load("cifar10_jpeg", root=tmp_path)
    one, two, three = tmp_path / "1", tmp_path / "2", tmp_path / "3"
    for folder in (one, two, three):
        folder.mkdir()
    np.savez(one / "cifar10_jpeg_subset.npz", jpeg_train=jpeg((0, 0, 0)))
    with pytest.raises(PvaeError, match="has no array 'offset_train'; a file of cifar10_jpeg has"):
        pvae.data.load("cifar10_jpeg", root=one)
    save(two, offset_test=np.array([0, 20]))
    with pytest.raises(PvaeError, match=r"Image 0 in .* is not a JPEG image of 32×32 pixels"):
        pvae.data.load("cifar10_jpeg", root=two)
    big = io.BytesIO()
    Image.new("RGB", (16, 16)).save(big, "JPEG")
    big = np.frombuffer(big.getvalue(), np.uint8)
    save(three, jpeg_test=big, offset_test=np.array([0, len(big)]))
    with pytest.raises(PvaeError, match="is not a JPEG image of 32×32 pixels"):
        pvae.data.load("cifar10_jpeg", root=three)
