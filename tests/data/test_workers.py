"""Data that do not fit in memory, read ahead by the workers of a DataLoader."""

import os

import pytest
import torch
from small import quick_fit, same_state, small_pair, state_of
from torch.utils.data import DataLoader, Dataset

import pvae
from pvae import PvaeError
from pvae.data import storage

N = 40
X = torch.rand(N, 1, 8, 8, generator=torch.Generator().manual_seed(0)).round()


class Images(Dataset):
    """Images and their numbers; `fault` is called for row 30 in a worker."""

    def __init__(self, fault=None):
        self.fault, self.main = fault, os.getpid()

    def __len__(self):
        return N

    def __getitem__(self, i):
        if self.fault is not None and i == 30 and os.getpid() != self.main:
            return self.fault()
        return {"x": X[i], "number": i}


@pytest.fixture
def small_memory(monkeypatch):
    """Only the numbers of the images fit."""
    monkeypatch.setattr(storage, "_fits", lambda nbytes, device: nbytes < 1000)


def part(workers, fault=None):
    return pvae.data.as_data(DataLoader(Images(fault), batch_size=7, num_workers=workers))


def batches(split, **options):
    return list(
        split.batches(7, shuffle=True, generator=torch.Generator().manual_seed(1), **options)
    )


@pytest.mark.parametrize("share", [(0, 1), (1, 2)])
def test_workers_read_the_same_minibatches(share, small_memory):
    split = part(2)
    assert isinstance(split.fields["x"], storage.Streamed)
    assert isinstance(split.fields["number"], torch.Tensor)
    before = torch.get_rng_state()
    found, expected = batches(split, share=share), batches(part(0), share=share)
    assert torch.equal(torch.get_rng_state(), before)
    assert len(found) == len(expected) == 6
    for ours, theirs in zip(found, expected, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert torch.equal(a, b)
        assert torch.equal(ours[0], X[ours[1]])


def test_fit_reads_with_workers_what_it_reads_without(small_memory):
    states = []
    for workers in (0, 2):
        pair = small_pair()
        data = part(workers).only(["x"])
        quick_fit(pair, data, epochs=2, batch_size=16)
        states.append(state_of(pair))
    assert same_state(*states)


def test_a_row_that_cannot_be_read_and_a_worker_that_dies(small_memory):
    def ragged():
        return {"x": X[0, :, 1:], "number": 0}

    with pytest.raises(PvaeError, match=r"The field x of the data has data of shape \[1, 8, 8\]"):
        batches(part(1, ragged))
    with pytest.raises(PvaeError, match="A minibatch was not read: ZeroDivisionError: division by"):
        batches(part(1, lambda: 1 / 0))
    with pytest.raises(PvaeError, match="A worker of the DataLoader died: RuntimeError"):
        batches(part(1, lambda: os._exit(1)))
