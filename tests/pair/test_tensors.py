"""TensorSplit: a pair's own arguments, used unchanged."""

import numpy as np
import pytest
import torch

from pvae import PvaeError
from pvae.pair.tensors import TensorSplit


def test_rows_stay_together_and_every_one_comes_once():
    x, y = torch.arange(10.0)[:, None], torch.arange(10)
    part = TensorSplit((x, y))
    order = torch.Generator().manual_seed(0)
    seen = list(part.batches(4, shuffle=True, generator=order))
    assert [len(b) for b, _ in seen] == [4, 4, 2]
    assert all(torch.equal(a[:, 0].long(), b) for a, b in seen)
    labels = torch.cat([b for _, b in seen])
    assert sorted(labels.tolist()) == list(range(10))
    assert labels.tolist() != list(range(10))
    again = torch.Generator().manual_seed(0)
    assert torch.equal(torch.cat([b for _, b in part.batches(4, shuffle=True, generator=again)]),
                       labels)  # fmt: skip


def test_a_long_list_of_the_wrong_kind_is_named_shortly():
    with pytest.raises(PvaeError, match="cannot be list, list, list, list, …: give"):
        TensorSplit([[0.0, 1.0]] * 200)


def test_hash_depends_on_values_type_and_shape():
    x = torch.arange(6.0)
    hashes = {
        TensorSplit(t).hash
        for t in (x, x + 1, x.double(), x.reshape(6, 1), x.reshape(3, 2), (x, x), x.numpy())
    }
    assert len(hashes) == 6  # the array is the same as the tensor
    assert TensorSplit(x).to("cpu").hash == TensorSplit(np.arange(6, dtype=np.float32)).hash


def test_hash_depends_on_what_is_passed_through():
    x = torch.arange(6.0)
    hashes = {
        TensorSplit((x, *rest), kwargs).hash
        for rest, kwargs in (
            ((), {}), ((0.5,), {}), ((0.7,), {}), ((), {"name": "a"}), ((), {"name": "b"}),
            ((torch.zeros(2),), {}), ((torch.ones(2),), {}),
        )
    }  # fmt: skip
    assert len(hashes) == 7
    assert TensorSplit((x, torch.zeros(2))).to("cpu").hash in hashes


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ((), "empty"),
        ("x.npy", "str"),
        (torch.tensor(1.0), "Tensor"),
        ((torch.tensor(1.0), 0.5), "Tensor, float"),
        (torch.zeros(0, 3), "at least one"),
        (torch.tensor([[0.0], [float("nan")], [float("inf")]]), "in 2 of 3 rows.*row 1"),
    ],
)
def test_bad_data(tensors, said):
    with pytest.raises(PvaeError, match=said):
        TensorSplit(tensors)


def test_nan_is_found_beyond_the_first_slab():
    x = torch.zeros(5000, 3)
    x[4500, 1] = torch.nan
    with pytest.raises(PvaeError, match=r"in 1 of 5000 rows, the first of them row 4500\."):
        TensorSplit(x)


def test_nan_after_the_first_tensor_stands_for_what_is_missing():
    y = torch.tensor([0.0, torch.nan, 1.0])
    _, found = TensorSplit((torch.zeros(3, 2), y)).tensors()
    assert found.isnan().tolist() == [False, True, False]
