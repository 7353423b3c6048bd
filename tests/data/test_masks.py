"""Masks: their forms, their seeds, and how they come with data."""

import contextlib

import pytest
import torch
import yaml

import pvae
from pvae import guides, models
from pvae.data import draw_masks

KINDS = ["center", "block", "region", "quadrants", "pixels", "any"]


def drawn(kind, shape=(3, 28, 20), size=50, seed=0):
    return draw_masks(kind, shape, size, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", KINDS)
def test_they_are_drawn_by_their_seed_and_equal_in_all_channels(kind):
    known = drawn(kind)
    assert known.shape == (50, 3, 28, 20)
    assert known.dtype == torch.bool
    assert torch.equal(known, drawn(kind))
    assert torch.equal(known, drawn(kind, seed=1)) == (kind == "center")
    assert torch.equal(known, known[:, :1].expand_as(known))
    if kind in ("center", "block", "region", "quadrants"):
        assert (~known).flatten(1).any(1).all()
        assert known.flatten(1).any(1).all()


def test_their_forms():
    plane = {kind: ~drawn(kind)[:, 0] for kind in KINDS}
    assert plane["center"][:, 7:21, 5:15].all()
    assert plane["center"].sum((1, 2)).unique().tolist() == [14 * 10]
    assert plane["region"].sum((1, 2)).unique().tolist() == [28 * 20 // 4]
    sizes = plane["block"].sum((1, 2))
    assert sizes.min() >= 7 * 5
    assert sizes.max() <= 4 * 7 * 5
    assert len(sizes.unique()) > 10
    corners = plane["quadrants"][:, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert plane["quadrants"].sum((1, 2)).equal(corners.sum(1) * 14 * 10)
    assert set(corners.sum(1).tolist()) == {1, 2, 3}
    shares = plane["pixels"].float().mean((1, 2))
    assert shares.min() < 0.1
    assert shares.max() > 0.9
    # A region is of one piece mostly: neighbours are alike.
    region = plane["region"]
    assert (region[:, 1:] == region[:, :-1]).float().mean() > 0.85
    assert drawn("pixels", (6,)).shape == (50, 6)


def test_any_holds_every_kind():
    known = drawn("any", size=200)[:, 0]
    center = (known == drawn("center", size=1)[:, 0]).all(-1).all(-1)
    assert 20 < center.sum() < 70
    assert len(known.flatten(1).unique(dim=0)) > 100


def test_training_draws_them_for_each_minibatch_and_test_once():
    data = pvae.data.load("digits", mask="block", validation=50, seed=3)
    other = pvae.data.load("digits", mask="block", validation=50, seed=3)
    assert data.train.names == ("x", "mask")
    assert "masks 'block'" in data.in_words
    rows = torch.arange(5)
    torch.manual_seed(0)
    first, again = (data.train.observe(rows)[1] for _ in range(2))
    assert first.shape == (5, 1, 8, 8)
    assert not torch.equal(first, again)
    torch.manual_seed(0)
    assert torch.equal(other.train.to("cpu").observe(rows)[1], first)
    for part in ("test", "validation"):
        ours, theirs = getattr(data, part), getattr(other, part)
        assert torch.equal(ours.observe(rows)[1], ours.observe(rows)[1])
        assert ours.hash == theirs.hash
    x, mask = next(data.train.batches(64, shuffle=True))
    assert mask.shape == x.shape
    assert not torch.equal(data.test.observe(rows)[1], data.validation.observe(rows)[1])
    assert data.test.hash != pvae.data.load("digits", mask="block", seed=4).test.hash
    assert data.test.hash != pvae.data.load("digits", seed=3).test.hash
    assert torch.equal(pvae.data.load("digits", seed=3).test.x, data.test.observe(slice(None))[0])


def test_the_hash_of_fresh_masks_is_of_their_kind_and_draws_nothing():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    hashes = {kind: pvae.data.load("digits", mask=kind).train.hash for kind in ("block", "region")}
    assert torch.equal(torch.get_rng_state(), before)
    assert len(set(hashes.values())) == 2
    assert hashes["block"] == pvae.data.load("digits", mask="block").train.hash


def test_a_run_keeps_the_kind_and_goes_on_with_the_same_masks(tmp_path):
    data = pvae.data.load("digits", mask="any")
    sizes = {"latent_dim": 2, "hidden_dims": [8]}
    states = []
    options = {"epochs": 3, "batch_size": 300, "mode": "eager", "progress": False}

    class Stop(Exception):
        pass

    for name in ("whole", "part", "part"):
        torch.manual_seed(0)
        programs = models.VAEAC((1, 8, 8), **sizes), guides.MaskedMeanField((1, 8, 8), **sizes)
        calls, stops = [], name == "part" and not (tmp_path / name).exists()

        def stop(*_, calls=calls):
            calls.append(1)
            if len(calls) > 2 * 5 + 1:
                raise Stop

        hook = programs[0].register_forward_pre_hook(stop) if stops else None
        with pytest.raises(pvae.PvaeError, match="Stop") if stops else contextlib.nullcontext():
            pvae.fit(*programs, data, out=tmp_path / name, resume=True, **options)
        if hook is None:
            states.append(programs[0].state_dict())
    assert all(torch.equal(a, b) for a, b in zip(*(s.values() for s in states), strict=True))
    config = yaml.safe_load((tmp_path / "whole" / "config.yaml").read_text())
    assert config["data"]["mask"] == "any"


def test_what_is_not_valid():
    with pytest.raises(pvae.PvaeError, match=r"There is no mask 'centre'.*center"):
        pvae.data.load("digits", mask="centre")
    with pytest.raises(pvae.PvaeError, match=r"shape \(5,\).*'pixels'"):
        pvae.data.load(torch.rand(20, 5), mask="block")
    fields = {"x": torch.rand(20, 5), "mask": torch.rand(20, 5) < 0.5}
    with pytest.raises(pvae.PvaeError, match="has a field mask"):
        pvae.data.load(fields, mask="pixels")
    assert pvae.data.load(fields).train.observe([0])[1].dtype == torch.bool
