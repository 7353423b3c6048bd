"""torchvision's datasets: the real MNIST if it is found, and small files in each layout."""

import gzip
import hashlib
import io
import os
import pickle
import socket
import zipfile
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision.datasets as tv
from PIL import Image

from pvae.data import SETS, load
from pvae.errors import PvaeError

RNG = np.random.default_rng(0)
FOLDERS = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "kmnist": "KMNIST"}


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


def idx(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    head = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    path.write_bytes(head + array.astype(np.uint8).tobytes())


def write_idx(folder, train="train", test="t10k"):
    parts = {}
    for part, n in ((train, 20), (test, 10)):
        parts[part] = RNG.integers(0, 256, (n, 28, 28)), RNG.integers(0, 10, n)
        idx(folder / f"{part}-images-idx3-ubyte", parts[part][0])
        idx(folder / f"{part}-labels-idx1-ubyte", parts[part][1])
    return parts[train], parts[test]


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Makes every download fail as it does without a network, and any socket an error."""

    def fail(url, *_, **__):
        raise URLError("Temporary failure in name resolution")

    def refuse(*_):
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    for module in ("mnist", "cifar", "omniglot"):
        monkeypatch.setattr(f"torchvision.datasets.{module}.download_and_extract_archive", fail)
    monkeypatch.setattr("torchvision.datasets.svhn.download_url", fail)


@pytest.fixture(scope="module")
def mnist():
    """Returns the folder of the real MNIST."""
    folders = [Path(__file__).parents[2].parent / "shared" / "data"]
    if os.environ.get("PVAE_DATA"):
        folders.insert(0, Path(os.environ["PVAE_DATA"]))
    for folder in folders:
        if (folder / "MNIST" / "raw" / "train-images-idx3-ubyte").exists():
            return folder
    pytest.skip("MNIST is neither in PVAE_DATA nor in ../shared/data")


def test_real_mnist(mnist, monkeypatch):
    monkeypatch.setenv("PVAE_DATA", str(mnist))
    data = load("MNIST", labels=True)
    assert (len(data.train), len(data.test), data.event_shape) == (60_000, 10_000, (1, 28, 28))
    assert (data.observation, data.levels, data.support) == ("dynamic", 256, "binary")
    assert data.train.y[:8].tolist() == [5, 0, 4, 1, 9, 2, 1, 3]
    assert data.test.y[:8].tolist() == [7, 2, 1, 0, 4, 1, 4, 9]
    assert abs(float(data.train.raw.float().mean()) / 255 - 0.1306604) < 1e-6
    x, y = next(data.train.batches(2000, shuffle=True))
    one, zero = x[y == 1].mean(), x[y == 0].mean()
    assert one < 0.1 < 0.15 < zero
    assert (
        load("mnist").test.hash
        == "20a444a2071fcffdb59bfa084ec97ed1362fce79913f2f9035e24f307d15ff01"
    )


@pytest.mark.parametrize("name", FOLDERS)
def test_idx_sets_are_read_from_a_read_only_root(tmp_path, name):
    (x, y), (x_test, y_test) = write_idx(tmp_path / FOLDERS[name] / "raw")
    before = sorted(tmp_path.rglob("*"))
    for folder in (tmp_path, *(p for p in before if p.is_dir())):
        folder.chmod(0o555)
    data = load(name.replace("_", "-").upper(), root=tmp_path, labels=True)
    assert sorted(tmp_path.rglob("*")) == before
    assert np.array_equal(data.train.raw[:, 0], x)
    assert np.array_equal(data.train.y, y)
    assert np.array_equal(data.test.y, y_test)
    grey = load(name, root=tmp_path, observation="grey").test.x
    assert np.allclose(grey[:, 0] * 255, x_test)
    for folder in (tmp_path, *(p for p in before if p.is_dir())):
        folder.chmod(0o755)


def test_emnist_is_balanced_and_upright(tmp_path):
    (x, y), _ = write_idx(tmp_path / "EMNIST/raw", "emnist-balanced-train", "emnist-balanced-test")
    train = load("emnist", root=tmp_path).train
    assert np.array_equal(train.raw[:, 0], x.transpose(0, 2, 1))
    assert np.array_equal(train.y, y)


def write_cifar(root, monkeypatch):
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    content = {}
    for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]:
        content[name] = RNG.integers(0, 256, (4, 3, 32, 32), dtype=np.uint8), RNG.integers(0, 9, 4)
        x, y = content[name]
        (folder / name).write_bytes(pickle.dumps({"data": x.reshape(4, -1), "labels": y.tolist()}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    sums = [[name, md5(folder / name)] for name in content]
    monkeypatch.setattr(tv.CIFAR10, "train_list", sums[:5])
    monkeypatch.setattr(tv.CIFAR10, "test_list", sums[5:])
    meta = {**tv.CIFAR10.meta, "md5": md5(folder / "batches.meta")}
    monkeypatch.setattr(tv.CIFAR10, "meta", meta)
    return content


def test_cifar10(tmp_path, monkeypatch):
    content = write_cifar(tmp_path, monkeypatch)
    data = load("cifar10", root=tmp_path)
    assert (data.observation, data.event_shape, data.levels) == ("dequantize", (3, 32, 32), 256)
    assert np.array_equal(data.train.raw[4:8], content["data_batch_2"][0])
    assert np.array_equal(data.train.y[4:8], content["data_batch_2"][1])
    assert np.array_equal((data.test.x * 256).floor(), content["test_batch"][0])


def write_svhn(root, monkeypatch):
    from scipy.io import savemat

    content, sums = {}, {"extra": tv.SVHN.split_list["extra"]}
    for part in ("train", "test"):
        x = RNG.integers(0, 256, (32, 32, 3, 6), dtype=np.uint8)
        y = np.array([[10], [1], [2], [3], [4], [9]], np.uint8)
        path = root / f"{part}_32x32.mat"
        savemat(path, {"X": x, "y": y})
        content[part], sums[part] = x, ["", path.name, md5(path)]
    monkeypatch.setattr(tv.SVHN, "split_list", sums)
    return content


def test_svhn(tmp_path, monkeypatch):
    content = write_svhn(tmp_path, monkeypatch)
    data = load("svhn", root=tmp_path)
    assert data.observation == "dequantize"
    assert np.array_equal(data.train.raw, content["train"].transpose(3, 2, 0, 1))
    assert data.train.y.tolist() == [0, 1, 2, 3, 4, 9]


def write_omniglot(root, monkeypatch):
    sums = {}
    for part, alphabets in (("images_background", "BA"), ("images_evaluation", "C")):
        archive = root / "omniglot-py" / f"{part}.zip"
        archive.parent.mkdir(exist_ok=True)
        with zipfile.ZipFile(archive, "w") as files:
            for alphabet in alphabets:
                for character in (2, 1):
                    page = np.full((105, 105), 255, np.uint8)
                    column = 45 * (character - 1) + (20 if alphabet == "A" else 0)
                    page[:, column : column + 15] = 0
                    buffer = io.BytesIO()
                    Image.fromarray(page).convert("1").save(buffer, "png")
                    name = f"{part}/{alphabet}/character0{character}/1.png"
                    files.writestr(name, buffer.getvalue())
            files.extractall(archive.parent)
        sums[part] = md5(archive)
    monkeypatch.setattr(tv.Omniglot, "zips_md5", sums)


def test_omniglot_is_small_ink_in_an_order_of_its_own(tmp_path, monkeypatch):
    write_omniglot(tmp_path, monkeypatch)
    data = load("omniglot", root=tmp_path)
    assert data.event_shape == (1, 28, 28)
    assert data.observation == "dynamic"
    assert data.train.y.tolist() == [0, 1, 2, 3]
    assert data.test.y.tolist() == [4, 5]
    columns = (data.train.raw[:, 0].float().mean(1) * torch.arange(28)).sum(1)
    columns = columns / data.train.raw[:, 0].float().mean(1).sum(1) * 105 / 28
    # Alphabet A before B, character 1 before 2: ink around columns 27, 72, 7, 52.
    assert torch.allclose(columns, torch.tensor([25.0, 70, 6, 50]), atol=3)
    ink = data.train.raw.float().mean((1, 2, 3)) / 255
    assert torch.allclose(ink, torch.full((4,), 15 / 105), atol=0.01)
    assert set(data.train.raw.unique().tolist()) - {0, 255}, "not antialiased"


@pytest.mark.parametrize("name", sorted(SETS))
def test_missing_sets_say_where_and_what(tmp_path, name, monkeypatch):
    monkeypatch.setenv("PVAE_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(PvaeError) as caught:
        load(name)
    message = str(caught.value)
    first = {
        "cifar10": "cifar-10-batches-py/data_batch_1",
        "svhn": "train_32x32.mat",
        "omniglot": "omniglot-py/images_background",
        "emnist": "EMNIST/raw/emnist-balanced-train-images-idx3-ubyte",
    }.get(name, f"{FOLDERS.get(name)}/raw/train-images-idx3-ubyte")
    for word in (str(tmp_path / "nowhere"), first, "PVAE_DATA", "root=", "name resolution"):
        assert word in message
    assert "\n" not in message


def test_root_is_the_argument_then_the_variable_then_the_cache(tmp_path, monkeypatch):
    write_idx(tmp_path / "a" / "MNIST/raw")
    monkeypatch.setenv("PVAE_DATA", str(tmp_path / "b"))
    assert len(load("mnist", root=tmp_path / "a").train) == 20
    with pytest.raises(PvaeError, match=r"/b and could not"):
        load("mnist")
    monkeypatch.setenv("PVAE_DATA", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "c"))
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda app: str(tmp_path / "c" / app))
    with pytest.raises(PvaeError, match=r"/c/pvae/data and could not"):
        load("mnist")


@pytest.mark.parametrize("file", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
@pytest.mark.parametrize("keep", [0, 3, 10, 17])
def test_a_truncated_idx_file_is_named(tmp_path, file, keep):
    write_idx(tmp_path / "MNIST/raw")
    path = tmp_path / "MNIST/raw" / file
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(PvaeError) as caught:
        load("mnist", root=tmp_path)
    assert str(path) in str(caught.value)
    assert "Delete it and run again" in str(caught.value)
    assert "MNIST/raw/train-labels" not in str(caught.value)


def test_images_without_labels_for_all_are_refused(tmp_path):
    write_idx(tmp_path / "MNIST/raw")
    idx(tmp_path / "MNIST/raw/t10k-labels-idx1-ubyte", np.zeros(9))
    with pytest.raises(PvaeError, match="10 images and 9 labels"):
        load("mnist", root=tmp_path)


def test_a_truncated_gz_is_named(tmp_path):
    raw = tmp_path / "MNIST/raw"
    raw.mkdir(parents=True)
    path = raw / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(bytes(1000))[:20])
    with pytest.raises(PvaeError, match="truncated or damaged") as caught:
        load("mnist", root=tmp_path)
    assert str(path) in str(caught.value)


def test_a_damaged_pickle_mat_or_zip_is_named(tmp_path, monkeypatch):
    write_cifar(tmp_path, monkeypatch)
    write_svhn(tmp_path, monkeypatch)
    write_omniglot(tmp_path, monkeypatch)
    for name, file in (
        ("cifar10", "cifar-10-batches-py/data_batch_3"),
        ("svhn", "test_32x32.mat"),
        ("omniglot", "omniglot-py/images_evaluation.zip"),
    ):
        load(name, root=tmp_path)
        path = tmp_path / file
        path.write_bytes(path.read_bytes()[:-10])
        with pytest.raises(PvaeError) as caught:
            load(name, root=tmp_path)
        assert str(path) in str(caught.value)
        assert "Delete it and run again" in str(caught.value)


def test_what_is_missing_is_downloaded(tmp_path, monkeypatch):
    asked = []

    def download(url, download_root, filename=None, md5=None):
        asked.append(filename)
        if len(asked) == 1:
            write_idx(Path(download_root))

    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", download)
    assert len(load("mnist", root=tmp_path / "new").train) == 20
    assert len(asked) == 4
    load("mnist", root=tmp_path / "new")
    assert len(asked) == 4
