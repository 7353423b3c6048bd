"""Windows of videos: which frames are x and which are given, in which part, and what is refused."""

import numpy as np
import pytest
import torch
import yaml

import pvae
from pvae import PvaeError, guides, models
from pvae.data import load


def videos(num=30, frames=7, start=0):
    """Videos whose pixels tell the video, and the frame in the second column."""
    x = np.zeros((num, frames, 1, 2, 2), np.uint8)
    x[..., 0] = np.arange(start, start + num)[:, None, None, None]
    x[..., 1] = np.arange(frames)[:, None, None]
    return x


def told(values):
    """Returns video and frame of frames of 256 levels, [...] each."""
    values = (values * 255).round().int()
    return values[..., 0, 0, 0], values[..., 0, 0, 1]


SPLIT = {"x_train": videos(), "x_test": videos(10, start=100)}
GREY = {"levels": 256, "observation": "grey"}


@pytest.mark.parametrize("window", [3, 5])
def test_the_middle_frame_is_between_its_neighbours(window):
    data = load(SPLIT, frames="between", window=window, **GREY)
    assert data.train.names == ("x", "before", "after")
    assert data.event_shape == (1, 2, 2)
    assert f"x is the middle one of {window} frames" in data.in_words
    for part, num, each in ((data.train, 30, 8 - window), (data.test, 10, 7 // window)):
        x, before, after = part.tensors()
        assert len(part) == len(x) == num * each
        (video, t), (_, first), (_, last) = map(told, (x, before, after))
        assert all(torch.equal(told(other)[0], video) for other in (before, after))
        assert (t - first == window // 2).all()
        assert (last - t == window // 2).all()
    # In training every window; in the test part they share no frame.
    assert told(data.train.tensors()[1])[1][: 8 - window].tolist() == [*range(8 - window)]
    assert told(data.test.tensors()[1])[1][: 7 // window].tolist() == [
        *range(0, 8 - window, window)
    ]


def test_next_frames_follow_a_still():
    data = load(SPLIT, frames="next", window=4, **GREY)
    assert data.event_shape == (3, 1, 2, 2)
    (video, t), (other, first) = map(told, data.train.tensors())
    assert torch.equal(video, other[:, None].expand(-1, 3))
    assert torch.equal(t, first[:, None] + torch.arange(1, 4))
    assert len(data.train) == 30 * 4
    assert load(SPLIT, frames="next", **GREY).event_shape == (6, 1, 2, 2)


def test_no_video_is_in_two_parts():
    data = load(videos(40), frames="between", validation=6, labels=False, **GREY)
    parts = data.train, data.validation, data.test
    seen = [set(told(part.tensors()[0])[0].tolist()) for part in parts]
    assert [len(each) for each in seen] == [30, 6, 4]
    assert len(set.union(*seen)) == 40
    assert [len(part) for part in parts] == [30 * 5, 6 * 2, 4 * 2]


@pytest.mark.parametrize(
    ("observation", "mean"),
    [
        ("grey", lambda k: k / 16),
        ("dynamic", lambda k: k / 16),
        ("threshold", lambda k: (k > 8).float()),
        ("dequantize", lambda k: (k + 0.5) / 17),
        ("counts", lambda k: k),
    ],
)
def test_given_frames_are_the_mean_of_their_observation(observation, mean):
    raw = np.random.RandomState(0).randint(0, 17, (20, 5, 1, 2, 2)).astype(np.uint8)
    levels = {} if observation == "counts" else {"levels": 17}
    data = load({"x_train": raw, "x_test": raw}, frames="next", observation=observation, **levels)
    expected = mean(torch.from_numpy(raw[:, 0]).float())
    for part in (data.train, data.test):
        assert torch.allclose(part.tensors()[1], expected, atol=1e-6)
    assert torch.equal(data.test.tensors()[0], data.test.tensors()[0])


def test_fixed_frames_are_drawn_once_and_given_as_they_were_drawn():
    raw = np.full((20, 5, 1, 4, 4), 8, np.uint8)
    both = {"x_train": raw, "x_test": raw}
    data = load(both, frames="between", levels=17, observation="fixed")
    for part in (data.train, data.test):
        x, before, _ = part.tensors()
        assert set(before.unique().tolist()) == {0, 1}
        if part is data.train:  # windows of a video, one frame apart
            x, before = (rows.unflatten(0, (20, 3)) for rows in (x, before))
            assert torch.equal(x[:, 0], before[:, 1])


def test_labels_and_masks_come_with_windows():
    y = np.arange(30)
    data = load((videos(), y), frames="between", labels=True, mask="pixels", **GREY)
    x, _, _, labels, mask = data.test.tensors()
    assert data.test.names == ("x", "before", "after", "y", "mask")
    assert torch.equal(labels, told(x)[0])
    assert mask.shape == x.shape


def test_videos_on_disk_are_read_on_demand(tmp_path, monkeypatch):
    np.save(tmp_path / "videos.npy", videos(40))
    here = load(tmp_path / "videos.npy", frames="next", window=3, **GREY)
    monkeypatch.setattr(pvae.data.storage, "_fits", lambda nbytes, device: False)
    there = load(tmp_path / "videos.npy", frames="next", window=3, **GREY)
    rows = [5, 0, 17]
    for ours, theirs in zip(here.train.observe(rows), there.train.observe(rows), strict=True):
        assert torch.equal(ours, theirs)
    assert here.train.hash == there.train.hash


def test_a_run_keeps_how_its_videos_were_cut(tmp_path):
    file = tmp_path / "videos.npy"
    np.save(file, videos(40))
    data = load(file, frames="between", window=5, validation=3, **GREY)
    model = models.FrameBetween((1, 2, 2), channels=[4], num_blocks=0, likelihood="binomial")
    pair = model, guides.NoLatents()
    pvae.fit(
        *pair, data, out=tmp_path / "run", epochs=1, batch_size=33, mode="eager", progress=False
    )
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    again = load(config["data"].pop("source"), **config["data"])
    assert (again.frames, again.window) == ("between", 5)
    for part in ("train", "validation", "test"):
        assert getattr(again, part).hash == getattr(data, part).hash


def test_clips_are_split_in_time(tmp_path):
    """Pixels tell the frame: no test frame is next to a training frame."""
    sizes = {
        "carphone_pristine": (120, 48, 50),
        "bikes": (250, 30, 24),
        "bigbuckbunny": (50, 24, 24),
    }
    clips = {
        name: np.broadcast_to(np.arange(t, dtype=np.uint8)[:, None, None], (t, h, w))
        for name, (t, h, w) in sizes.items()
    }
    np.savez(tmp_path / "clips_grey.npz", **clips)
    data = load("clips", root=tmp_path)
    assert data.event_shape == (8, 1, 24, 24)
    assert data.support == "unit_interval"
    start = (data.train.tensors()[0][:, 0, 0, 0, 0] * 255).round().int()
    late = (data.test.tensors()[0][:, 0, 0, 0, 0] * 255).round().int()
    assert start[:44].tolist() == [
        8 * (i // 4) for i in range(44)
    ]  # four squares of the first clip
    assert start[44:].tolist() == [*range(0, 192 - 7, 8), *range(0, 32 - 7, 8)]
    assert late.tolist() == [*[96] * 4, *[104] * 4, *[112] * 4, *range(200, 250 - 7, 8), 40]
    with pytest.raises(
        PvaeError, match=r"clips is not in .*no file clips_grey.npz.*uint8 \[T, H, W"
    ):
        load("clips", root=tmp_path / "elsewhere")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames": "betwen"}, r"There is no frames='betwen'.*between"),
        ({"window": 3}, r"window=3 is not valid without frames.*frames='next'"),
        ({"frames": "between", "window": 4}, r"window=4.*odd number of frames, 3 to 7.*array"),
        ({"frames": "between", "window": 9}, r"window=9.*3 to 7, the length of the videos"),
        ({"frames": "next", "window": 8}, r"window=8 is not valid: give 2 to 7"),
        ({"frames": "next", "window": 1}, r"window=1 is not valid: give 2 to 7"),
    ],
)
def test_windows_that_cannot_be_cut(options, message):
    with pytest.raises(PvaeError, match=message):
        load(videos(), **options, **GREY)


def test_data_that_cannot_be_cut():
    with pytest.raises(PvaeError, match=r"needs videos \[N, T, C, H, W\], and x of digits has"):
        load("digits", frames="next")
    with pytest.raises(
        PvaeError, match="needs videos of 3 frames or more, and those of array have 2"
    ):
        load(videos(frames=2), frames="between", **GREY)
    fields = {"x": videos(), "still": np.zeros((30, 4), np.float32)}
    with pytest.raises(PvaeError, match="array has a field still already"):
        load(fields, frames="next", **GREY)
