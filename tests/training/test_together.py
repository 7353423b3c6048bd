"""Training by several processes, which share each minibatch."""

import pytest
import together
import torch
from together import run, start

import pvae


def same(first, second, **tolerance):
    assert first["state"].keys() == second["state"].keys()
    for name, value in first["state"].items():
        torch.testing.assert_close(second["state"][name], value, **tolerance)


def same_as_alone(name, found, place, **options):
    for each in found[1:]:
        same(found[0], each, rtol=0, atol=0)
        assert each["history"] == found[0]["history"]
    alone = getattr(together, name)(place, **options)
    same(alone, found[0], rtol=1e-4, atol=2e-6)
    for ours, theirs in zip(alone["history"], found[0]["history"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)


def test_two_processes(tmp_path):
    calls = {
        "densities": {"accumulate": 2, "average": 0.9, "batch_size": 94},  # the last has 33
        "scaled": {"batch_size": 98},  # the last has 29
        "noisy": {},
        "noises": {"epochs": 1},
        "noises_of_a_resumed_run": {},
        "codes": {},
        "normed": {"batch_size": 1500, "epochs": 40},
        "refused": {},
        "shell": {},
    }
    found = run(2, calls, tmp_path)
    assert isinstance(found, dict), found
    # Without noise the parameters are those of one process.
    for name in ("densities", "scaled"):
        same_as_alone(name, found[name], tmp_path, **calls[name])
    # With noise, compiled, the processes agree, and each has its own noise.
    first, second = found["noisy"]
    same(first, second, rtol=0, atol=0)
    assert first["history"] == second["history"]
    assert (len(first["evaluated"]), len(second["evaluated"])) == (2, 0)
    assert len({*found["noises"][0], *found["noises"][1]}) == 8
    for whole, resumed in found["noises_of_a_resumed_run"]:
        assert whole == resumed
    alone = together.noisy(tmp_path)["history"]
    assert first["history"][-1]["elbo"] == pytest.approx(alone[-1]["elbo"], rel=0.05)
    assert alone[-1]["elbo"] > alone[0]["elbo"] + 1
    # A codebook is that of all data; running variances are those of the parts.
    same(*found["codes"], rtol=0, atol=0)
    assert found["codes"][0]["state"]["codebook.uses"].sum() > 0
    same(*found["normed"], rtol=0, atol=0)
    same(together.normed(tmp_path, **calls["normed"]), found["normed"][0], rtol=0.02, atol=2e-3)
    assert found["shell"] == [0, 0]
    assert (tmp_path / "shell" / "report.html").is_file()
    texts = [
        "process 1 has seed 1 where process 0 has 0",
        "process 1 has num_data 1010 where process 0 has 1000",
        "The processes train different pairs: process",
        "batch_size=101 cannot be shared by 2 processes",
        "The last minibatch of an epoch has 1 of 1001 data, fewer than the 2 processes",
        "process 1 has other values of model.seen than process 0",
        "process 1 has out 'a folder' where process 0 has None",
        "labelled_share and several processes do not go together",
    ]
    for each in found["refused"]:
        for message, text in zip(each, texts, strict=True):
            assert text in message


def test_four_processes_and_clipped_gradients(tmp_path):
    found = run(4, {"densities": {"clip_norm": 0.02}}, tmp_path)
    same_as_alone("densities", found["densities"], tmp_path, clip_norm=0.02)


def test_a_run_goes_on_with_another_number_of_processes(tmp_path):
    (whole := tmp_path / "whole").mkdir()
    expected = together.kept(whole, epochs=3)
    together.kept(tmp_path, epochs=1)
    found = run(2, {"kept": {"epochs": 2}}, tmp_path)["kept"]
    same(*found, rtol=0, atol=0)
    with pytest.warns(UserWarning, match="started with 2 epochs. It continues to 3"):
        last = together.kept(tmp_path, epochs=3)
    same(expected, last, rtol=1e-4, atol=2e-6)
    assert [row["epoch"] for row in last["history"]] == [1, 2, 3]


def test_a_killed_process_ends_the_others_and_the_run_goes_on(tmp_path):
    first, second = start(2, {"killed": {}}, tmp_path)
    text = first.communicate(timeout=240)[1]
    assert second.wait(timeout=60) == -9
    assert first.returncode == 1
    assert "PvaeError: Training stopped at step " in text
    assert "of epoch 2" in text
    assert "Another process of the group has ended" in text
    pair = together.small_pair()
    fitted = pvae.fit(
        *pair, together.digits(), epochs=3, batch_size=50, progress=False,
        out=tmp_path / "run", resume=True,
    )  # fmt: skip
    assert len(fitted.history) == 3


def test_a_process_whose_part_is_not_finite_says_where(tmp_path):
    first, second = run(2, {"not_finite": {}}, tmp_path)
    assert "not finite in another process, which says where" in first
    assert "Training stopped at step" in first
    assert "Training stopped at step" in second
    assert "another process" not in second
