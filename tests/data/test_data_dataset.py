"""Split: fresh draws, batches, hashes, and streaming from disk beside memory."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch

from pvae.data import Split, load, storage
from pvae.errors import PvaeError


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def disk(tmp_path, monkeypatch):
    """Returns a loader that keeps anything beyond 4 kB on disk, and its array's path."""
    monkeypatch.setattr(storage, "_fits", lambda nbytes, device: nbytes < 4000)
    path = tmp_path / "big.npy"
    x = np.random.default_rng(0).integers(0, 256, (200, 1, 5, 5), dtype=np.uint8)
    np.save(path, x)
    return path, x


def test_training_data_are_drawn_anew_in_each_epoch_with_the_right_mean():
    train, total = load().train, 0.0
    epochs = 300
    first = torch.cat([x for (x,) in train.batches(128)])
    second = torch.cat([x for (x,) in train.batches(128)])
    assert not torch.equal(first, second)
    p = train.raw / 16
    for _ in range(epochs):
        total = total + train.tensors()[0]
    varying = (p > 0) & (p < 1)
    z = (total / epochs - p)[varying] / (p * (1 - p) / epochs).sqrt()[varying]
    assert abs(float(z.mean())) < 0.03
    assert abs(float(z.square().mean()) - 1) < 0.05
    assert torch.equal((total / epochs)[~varying], p[~varying])


@pytest.mark.parametrize("observation", ["fixed", "threshold", "grey"])
def test_other_training_data_are_the_same_in_each_epoch(observation):
    train = load(observation=observation).train
    first = torch.cat([x for (x,) in train.batches(128)])
    second = torch.cat([x for (x,) in train.batches(100)])
    assert torch.equal(first, second)
    assert torch.equal(first, train.x)


def test_fresh_noise_follows_the_global_seed():
    train = load().train
    torch.manual_seed(0)
    a = torch.cat([x for (x,) in train.batches(128, shuffle=True, generator=seeded())])
    torch.manual_seed(0)
    b = torch.cat([x for (x,) in train.batches(128, shuffle=True, generator=seeded())])
    c = torch.cat([x for (x,) in train.batches(128, shuffle=True, generator=seeded())])
    assert torch.equal(a, b)
    assert not torch.equal(b, c)


def test_a_fresh_part_has_no_single_x():
    with pytest.raises(PvaeError, match=r"tensors\(\)"):
        _ = load().train.x


@pytest.mark.parametrize("shuffle", [False, True])
def test_an_epoch_has_each_datum_once_and_a_smaller_last_batch(shuffle):
    test = load(observation="grey").test
    batches = [x for (x,) in test.batches(100, shuffle=shuffle, generator=seeded())]
    assert [len(x) for x in batches] == [100, 100, 97]
    epoch, x = torch.cat(batches).flatten(1), test.x.flatten(1)
    assert torch.equal(epoch, x) != shuffle
    assert sorted(map(tuple, epoch.tolist())) == sorted(map(tuple, x.tolist()))


def test_shuffling_follows_its_generator():
    test = load(observation="grey").test
    generator = seeded()
    epochs = [torch.cat([x for (x,) in test.batches(50, shuffle=True, generator=generator)])]
    epochs.append(torch.cat([x for (x,) in test.batches(50, shuffle=True, generator=generator)]))
    again = torch.cat([x for (x,) in test.batches(99, shuffle=True, generator=seeded())])
    assert torch.equal(epochs[0], again)
    assert not torch.equal(epochs[0], epochs[1])


def test_batches_hold_labels_only_if_asked():
    assert len(next(load().test.batches(5))) == 1
    assert len(load().test.tensors()) == 1
    assert load().test.y is not None
    x, y = next(load(labels=True).test.batches(5))
    assert (len(x), y.dtype) == (5, torch.int64)


def test_batch_size_below_one_is_refused_at_once():
    with pytest.raises(PvaeError, match="batch_size=0 is not valid"):
        load().train.batches(0)


def test_observe_takes_slices_positions_and_masks():
    test = load(labels=True).test
    x, y = test.x, test.y
    mask = y == 3
    cases = [slice(5, 9), torch.tensor([4, 2]), [1, 1, 0], mask]
    for index in cases:
        got_x, got_y = test.observe(index)
        assert torch.equal(got_x, x[index])
        assert torch.equal(got_y, y[index])


@pytest.mark.parametrize("shuffle", [False, True])
def test_changing_a_batch_leaves_the_data_alone(shuffle):
    x = torch.rand(40, 3, generator=seeded())
    data = load({"x_train": x, "x_test": x.clone()})
    for (batch,) in data.train.batches(7, shuffle=shuffle):
        batch.zero_()
    data.train.x.zero_()
    assert data.train.x.sum() > 0


def test_hash_is_of_shape_and_observed_values():
    test = load().test
    digest = hashlib.sha256(b"[297, 1, 8, 8] observed")
    digest.update(test.x.numpy().astype("<f4").tobytes())
    assert test.hash == digest.hexdigest()
    flat = Split({"x": test.raw.flatten(1)}, "grey", 2)
    assert flat.hash != test.hash
    changed = test.raw.clone()
    changed[-1, -1, -1, -1] = 1 - changed[-1, -1, -1, -1]
    assert replace(test, fields={"x": changed}).hash != test.hash


def test_hash_of_digits_is_the_same_on_every_machine():
    assert (
        load(seed=0).test.hash == "fcfcede8653a7a7ee30ba36208e2de2854f341d4e2df0c030403b0c63180c3c0"
    )


def test_hash_includes_labels_only_where_batches_do():
    plain, labelled = load().test, load(labels=True).test
    assert plain.hash != labelled.hash
    y = labelled.y.clone()
    y[0] = 9 - y[0]
    assert replace(labelled, fields={**labelled.fields, "y": y}).hash != labelled.hash
    assert replace(plain, fields={**plain.fields, "y": y}).hash == plain.hash


def test_hash_of_a_fresh_part_is_of_what_it_draws_from():
    train = load().train
    assert train.hash == load(seed=5).train.hash
    assert train.hash != load(observation="dequantize").train.hash
    assert train.hash != load(validation=10).train.hash


def test_hash_does_not_depend_on_slabs(monkeypatch):
    expected = load().test.hash
    monkeypatch.setattr(storage, "_SLAB", 1000)
    assert load().test.hash == expected


def test_to_keeps_a_part_that_is_there_or_does_not_fit(monkeypatch):
    test = load(labels=True).test
    assert test.to("cpu") is test
    asked = []
    monkeypatch.setattr(storage, "_fits", lambda n, device: asked.append((n, device.type)))
    assert test.to("meta") is test
    assert asked == [(297 * 64, "meta")]
    monkeypatch.setattr(storage, "_fits", lambda n, device: True)
    moved = test.to("meta")
    assert moved.raw.device.type == moved.y.device.type == "meta"
    assert moved.raw.dtype == torch.uint8


def test_streaming_to_another_device_observes_there():
    batches = list(load(labels=True).train.batches(1000, device="meta", shuffle=True))
    assert [tuple(x.shape) for x, _ in batches] == [(1000, 1, 8, 8), (500, 1, 8, 8)]
    assert {a.device.type for batch in batches for a in batch} == {"meta"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_batches_are_those_of_the_cpu():
    data = load(labels=True)
    test = data.test.to("cuda")
    assert test.raw.is_cuda
    assert test.hash == data.test.hash
    assert torch.equal(test.x.cpu(), data.test.x)
    for resident, streamed in zip(
        test.batches(64, shuffle=True, generator=seeded()),
        data.test.batches(64, device="cuda", shuffle=True, generator=seeded()),
        strict=True,
    ):
        assert all(a.is_cuda and torch.equal(a, b) for a, b in zip(resident, streamed, strict=True))
    (x, _) = next(data.train.to("cuda").batches(1500))
    assert x.is_cuda
    assert abs(float(x.mean()) - float(data.train.raw.float().mean()) / 16) < 0.01


@pytest.mark.parametrize("observation", ["dynamic", "dequantize", "threshold", "grey"])
@pytest.mark.parametrize("shuffle", [False, True])
def test_streaming_from_disk_equals_batches_from_memory(disk, monkeypatch, observation, shuffle):
    path, _ = disk
    on_disk = load(path, observation=observation, validation=20)
    monkeypatch.setattr(storage, "_fits", lambda nbytes, device: True)
    in_memory = load(path, observation=observation, validation=20)
    assert isinstance(on_disk.train.raw, storage.Streamed)
    assert isinstance(in_memory.train.raw, torch.Tensor)
    assert len(on_disk.train) == 160

    def epoch(part):
        torch.manual_seed(0)
        return torch.cat(
            [b for (b,) in part.batches(32, shuffle=shuffle, generator=seeded())]
        ), torch.rand(1)

    for a, b in zip(epoch(on_disk.train), epoch(in_memory.train), strict=True):
        assert torch.equal(a, b)
    for name in ("train", "validation", "test"):
        a, b = getattr(on_disk, name), getattr(in_memory, name)
        assert a.hash == b.hash
        torch.manual_seed(0)
        first = a.observe([3, 0, 7])[0]
        torch.manual_seed(0)
        assert torch.equal(first, b.observe([3, 0, 7])[0])
    assert isinstance(on_disk.train.to("cpu").raw, torch.Tensor)


@pytest.mark.parametrize("dtype", ["float64", ">f4", "int64", "bool"])
def test_streamed_values_are_converted(tmp_path, monkeypatch, dtype):
    x = np.random.default_rng(0).integers(0, 2 if dtype == "bool" else 200, (60, 3)).astype(dtype)
    x[5, 1] = 1 if dtype == "bool" else 255
    np.save(tmp_path / "x.npy", x)
    monkeypatch.setattr(storage, "_fits", lambda nbytes, device: False)
    on_disk = load(tmp_path / "x.npy", observation="grey")
    monkeypatch.undo()
    in_memory = load(x, observation="grey")
    assert isinstance(on_disk.train.raw, storage.Streamed)
    assert on_disk.support == in_memory.support
    streamed = torch.cat([b for (b,) in on_disk.train.batches(9)])
    assert torch.equal(streamed, in_memory.train.x)
    scale = 255 if dtype == "int64" else 1
    rows = {tuple(row) for row in x.astype(np.float64).tolist()}
    assert {tuple(row) for row in (streamed * scale).round().tolist()} <= rows


def test_a_part_on_disk_that_must_be_drawn_once_is_refused(disk):
    path, _ = disk
    with pytest.raises(PvaeError, match="observation='grey' or 'threshold'"):
        load(path, observation="fixed")


def test_part_says_what_it_is():
    assert repr(load().train) == "Split(1500 × [1, 8, 8], dynamic for each minibatch)"
    assert len(repr(load())) < 400


def test_a_notebook_shows_the_parts_and_the_observation():
    data = load({"x": torch.rand(6, 1, 4, 4), "y": torch.arange(6)}, validation=1)
    html = data._repr_html_()
    assert "<td" in html
    for words in ("training", "validation", "test", "1, 4, 4"):
        assert words in html
    named = replace(data, name="a<b")
    assert "a&lt;b" in named._repr_html_()
    assert repr(named) == f"<Data: {named.in_words}>"
