""".npy, .npz and .pt files: complete, truncated, damaged, and malicious."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from pvae.data import load, storage
from pvae.errors import PvaeError

X = np.random.default_rng(0).integers(0, 256, (60, 1, 4, 4), dtype=np.uint8)
Y = np.arange(60)


class Runs:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (Path(self.path),))


def write(path, legacy=False):
    if path.suffix == ".npy":
        np.save(path, X)
    elif path.suffix == ".npz":
        np.savez_compressed(path, x_train=X[:40], y_train=Y[:40], x_test=X[40:], y_test=Y[40:])
    else:
        content = {"x": torch.from_numpy(X), "y": torch.from_numpy(Y)}
        torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


@pytest.mark.parametrize("as_string", [False, True])
@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.pt", "A.NPY"])
def test_files_hold_what_was_saved(tmp_path, name, as_string):
    path = write(tmp_path / name.lower()).rename(tmp_path / name)
    data = load(str(path) if as_string else path, observation="grey")
    both = torch.cat([data.train.raw, data.test.raw])
    assert sorted(map(bytes, both.numpy())) == sorted(map(bytes, X))
    if name != "a.npy" and name != "A.NPY":
        both = torch.cat([data.train.y, data.test.y]), both
        assert torch.equal(both[1], torch.from_numpy(X)[both[0]])


@pytest.mark.parametrize("save", [lambda x, y: x, lambda x, y: (x, y), lambda x, y: [x]])
def test_pt_holds_a_tensor_or_a_tuple(tmp_path, save):
    torch.save(save(torch.from_numpy(X), torch.from_numpy(Y)), tmp_path / "a.pt")
    assert len(load(tmp_path / "a.pt").train) == 54


@pytest.mark.parametrize("keep", [0, 5, 60, 0.5, 0.98])
@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.pt", "legacy.pt"])
def test_truncated_files_are_named(tmp_path, name, keep):
    path = write(tmp_path / name, legacy=name == "legacy.pt")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    with pytest.raises(PvaeError) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert "Delete it" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.pt"])
def test_files_of_another_kind_are_named(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"<html>404 not found</html>" * 100)
    with pytest.raises(PvaeError, match="Delete it"):
        load(path)


def test_a_damaged_npz_member_is_found(tmp_path):
    path = write(tmp_path / "a.npz")
    content = bytearray(path.read_bytes())
    content[200:220] = bytes(20)
    path.write_bytes(content)
    with pytest.raises(PvaeError, match="Delete it"):
        load(path)


def test_a_pt_file_that_would_run_code_is_refused_and_does_not_run(tmp_path):
    marker, path = tmp_path / "ran", tmp_path / "evil.pt"
    torch.save({"x": torch.from_numpy(X), "more": Runs(marker)}, path)
    with pytest.raises(PvaeError, match="refused") as caught:
        load(path)
    assert "evil.pt" in str(caught.value)
    assert not marker.exists()
    torch.load(path, weights_only=False)
    assert marker.exists(), "the file would not have run code, so this test tests nothing"


@pytest.mark.parametrize("name", ["evil.npy", "evil.npz", "plain.npy", "plain.pt"])
def test_pickled_objects_are_refused_and_do_not_run(tmp_path, name):
    marker, path = tmp_path / "ran", tmp_path / name
    evil = np.array([[Runs(marker)]] * 3)
    if name == "evil.npy":
        np.save(path, evil, allow_pickle=True)
    elif name == "evil.npz":
        np.savez(path, x=evil)
    else:
        path.write_bytes(pickle.dumps(Runs(marker)))
    with pytest.raises(PvaeError, match=name):
        load(path)
    assert not marker.exists()


def test_missing_folder_and_foreign_files(tmp_path):
    with pytest.raises(PvaeError, match="no file"):
        load(tmp_path / "a.npy")
    with pytest.raises(PvaeError, match="root="):
        load(tmp_path)
    (tmp_path / "a.csv").write_text("1,2")
    with pytest.raises(PvaeError, match=r"\.npy"):
        load(str(tmp_path / "a.csv"))
    if os.geteuid():
        path = write(tmp_path / "shut.npy")
        path.chmod(0)
        with pytest.raises(PvaeError, match="cannot be read"):
            load(path)


def test_a_state_dict_is_not_a_dataset(tmp_path):
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 2))
    torch.save(net.state_dict(), tmp_path / "net.pt")
    with pytest.raises(PvaeError, match=r"0\.weight \[3, 2\].*Name arrays x_train"):
        load(tmp_path / "net.pt")


def test_a_file_stays_on_disk_only_if_it_does_not_fit(tmp_path, monkeypatch):
    path = write(tmp_path / "a.npy")
    assert isinstance(load(path).train.raw, torch.Tensor)
    monkeypatch.setattr(storage, "_fits", lambda nbytes, device: nbytes < X.nbytes)
    assert isinstance(load(path).train.raw, storage.Streamed)
    path.unlink()


def test_what_fits_is_less_than_half_of_what_is_free(monkeypatch):
    monkeypatch.setattr(storage, "free_memory", lambda device: 100)
    assert storage._fits(49, torch.device("cpu"))
    assert not storage._fits(50, torch.device("cpu"))
    monkeypatch.undo()
    assert 1 << 20 < storage.free_memory(torch.device("cpu")) < 1 << 50
