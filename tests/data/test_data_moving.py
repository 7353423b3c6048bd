"""Moving digits: images in a field that move straight, bounce, and are the same everywhere."""

import hashlib

import numpy as np
import pytest
import torch

import pvae
from pvae.data import moving, vision
from pvae.errors import PvaeError

DOT = torch.full((1, 1, 1, 1), 255, dtype=torch.uint8)


def test_an_image_moves_straight_and_turns_round_at_the_walls():
    """Places of one pixel in a field of 401: each step is 40 pixels long."""
    x = moving.bounce(DOT, 40, 30, side=401, num_digits=1, seed=1)
    assert (x.flatten(2).count_nonzero(-1) == 1).all()
    place = x.flatten(2).argmax(-1)
    at = torch.stack([place // 401, place % 401], -1)
    steps = at[:, 1:] - at[:, :-1]
    inside = ((at > 0) & (at < 400)).all(-1)
    straight = inside[:, 1:] & inside[:, :-1]
    length = steps[straight].double().square().sum(-1).sqrt()
    assert straight.double().mean() > 0.7
    assert (length - 40).abs().max() < 2
    speed = steps.abs().amax(1, keepdim=True)
    assert ((steps.abs() - speed).abs() <= 1)[straight].all()
    for axis in (0, 1):
        for wall in (0, 400):
            hit = (at[:, 1:-1, axis] == wall).nonzero()
            assert len(hit) > 20
            before, after = (steps[hit[:, 0], hit[:, 1] + i, axis] for i in (0, 1))
            assert (after * (1 if wall == 0 else -1) >= 0).all()
            assert (before * after < 0).double().mean() > 0.7  # a touch of few pixels is rounded
    first = at[:, 0].double() / 400
    assert 0.3 < first.mean() < 0.7


def test_images_overlap_by_their_larger_value():
    images = torch.tensor([[[[7, 200]]]], dtype=torch.uint8)
    x = moving.bounce(images, 300, 1, side=3, seed=0)
    assert set(x.unique().tolist()) == {0, 7, 200}
    for video in x[:, 0, 0].tolist():
        rows = [row for row in video if any(row)]
        assert all(row in ([7, 200, 0], [0, 7, 200], [7, 200, 200]) for row in rows)
    assert [7, 200, 200] in x[:, 0, 0].flatten(0, 1).tolist()


def test_the_same_seed_gives_the_same_videos():
    data = pvae.data.load("moving_digits")
    again = pvae.data.load("Moving-Digits", seed=5)
    assert (len(data.train), len(data.test)) == (1000, 200)
    assert data.event_shape == (10, 1, 16, 16)
    assert torch.equal(data.train.raw, again.train.raw)
    digest = hashlib.sha256(data.train.raw.numpy().tobytes()).hexdigest()
    assert digest[:16] == "e7c60640630cf39b"
    images = torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1)
    few, more = (moving.bounce(images, 4, seed=i) for i in (0, 1))
    assert torch.equal(few, moving.bounce(images, 4))
    assert not torch.equal(few, more)


def test_slabs_do_not_change_the_videos(monkeypatch):
    images = torch.randint(0, 255, (6, 1, 3, 4), dtype=torch.uint8)
    whole = moving.bounce(images, 10, 5, side=7)
    monkeypatch.setattr(moving, "_SLAB", 3)
    assert torch.equal(moving.bounce(images, 10, 5, side=7), whole)


def test_test_videos_are_of_test_digits_and_sizes_are_those_of_the_name(monkeypatch, tmp_path):
    train = torch.full((3, 1, 28, 28), 100, dtype=torch.uint8)
    test = torch.full((3, 1, 28, 28), 200, dtype=torch.uint8)
    train[:, :, ::2] = 103
    read = []

    def parts(name, root):
        read.append((name, root))
        return train, test, torch.zeros(3), torch.zeros(3)

    monkeypatch.setattr(vision, "read", parts)
    for name, how in moving.VIDEOS.items():
        monkeypatch.setitem(moving.VIDEOS, name, how._replace(num_train=20, num_test=10))
    for name, side, values in [
        ("moving_mnist", 64, {0, 100, 103}),
        ("moving_mnist_32", 32, {0, 102}),
    ]:
        data = pvae.data.load(name, root=tmp_path)
        assert data.train.raw.shape == (20, 20, 1, side, side)
        assert set(data.train.raw.unique().tolist()) == values
        assert set(data.test.x.unique().tolist()) == {0.0, 1.0}
        assert data.levels == 256
        seen = (data.train.raw[:, 0] > 0).sum((-1, -2))
        assert (seen <= 2 * (side * 14 // 32) ** 2).all()
        assert seen.max() > (side * 14 // 32) ** 2
    assert read == [("mnist", tmp_path)] * 2
    digits = [pvae.data.load("digits").train.raw, pvae.data.load("digits").test.raw]
    one = moving.bounce(digits[1], 1, 1, side=8, num_digits=1)
    assert any(np.array_equal(one[0, 0], image) for image in digits[1].numpy())


def test_bad_input():
    with pytest.raises(PvaeError, match=r"num_digits=0, side=64 .* positive numbers"):
        moving.bounce(DOT, 5, num_digits=0)
    with pytest.raises(PvaeError, match=r"side=2 .* as the images, 3 × 1"):
        moving.bounce(DOT.expand(1, 1, 3, 1), 5, side=2)
