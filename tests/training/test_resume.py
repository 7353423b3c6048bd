"""Resuming in Python: the same run to the end, or one message that names every difference."""

import functools

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from small import quick_fit, same_state, small_pair, state_of
from torch.optim.lr_scheduler import ExponentialLR

import pvae
from pvae import PvaeError
from pvae.objectives import Beta_ELBO, FreeBits_ELBO
from pvae.runs.folder import read_history
from pvae.training.checkpoint import FORMAT, read_checkpoint

X = torch.randint(0, 2, (64, 1, 8, 8), generator=torch.Generator().manual_seed(0)).float()


class Killed(BaseException):
    pass


def run(out, data=X, pair=None, resume=False, **options):
    options = {"epochs": 4, "batch_size": 16, "out": out, "resume": resume, **options}
    pair = small_pair() if pair is None else pair
    return quick_fit(pair, data, **options), state_of(pair)


@pytest.fixture
def stopped(tmp_path, monkeypatch):
    """Trains and is killed before a step, with a checkpoint after each one before."""

    def stop(after=9, **options):
        real, steps = pvae.SVI.update, []

        def update(self, *batch):
            if len(steps) == after:
                raise Killed
            steps.append(1)
            return real(self, *batch)

        with monkeypatch.context() as patch:
            patch.setattr(pvae.SVI, "update", update)
            patch.setattr("pvae.training.loop.SECONDS_BETWEEN_CHECKPOINTS", 0.0)
            with pytest.raises(Killed):
                run(tmp_path / "run", **options)
        return tmp_path / "run"

    return stop


def adam(**options):
    return functools.partial(torch.optim.Adam, **options)


def decaying(**options):
    return pyro.optim.ClippedAdam({"lr": 1e-3, **options})


def halved(gamma):
    options = {"optimizer": torch.optim.Adam, "optim_args": {"lr": 1e-3}, "gamma": gamma}
    return pyro.optim.ExponentialLR(options)


def data_with(validation):
    return pvae.data.load("digits", validation=validation)


DIFFERENCES = [
    ({}, {"lr": 0.1}, ["lr 0.001 → 0.1"]),
    ({}, {"batch_size": 32}, ["batch_size 16 → 32"]),
    ({}, {"epochs": 3}, ["epochs 4 → 3"]),
    ({}, {"seed": 1}, ["seed 0 → 1"]),
    ({}, {"kl_warmup": 2}, ["kl_warmup 0.0 → 2.0"]),
    ({}, {"clip_norm": 1.0}, ["clip_norm None → 1.0"]),
    ({}, {"schedule": "constant"}, ["schedule 'cosine' → 'constant'"]),
    ({}, {"schedule": lambda share: 1.0}, ["schedule 'cosine' → 'a function'"]),
    ({"schedule": lambda share: 1.0}, {"schedule": lambda share: 0.5}, ["0.001", "0.0005"]),
    ({}, {"data": 1 - X}, ["data (hash)"]),
    ({}, {"data": X[:48]}, ["num_data 64 → 48", "data (hash)"]),
    ({}, {"loss": "Trace_ELBO"}, ["loss 'TraceMeanField_ELBO' → 'Trace_ELBO'"]),
    ({"loss": "Trace_ELBO"}, {"loss": Trace_ELBO(2)}, ["loss.num_particles 1 → 2"]),
    ({"loss": Beta_ELBO(beta=1)}, {"loss": Beta_ELBO(beta=20)}, ["loss.beta 1.0 → 20.0"]),
    (
        {"loss": Beta_ELBO(beta=torch.tensor(1.0))},
        {"loss": Beta_ELBO(beta=2.0)},
        ["beta 1.0 → 2.0"],
    ),
    ({"loss": FreeBits_ELBO()}, {"loss": FreeBits_ELBO(free_bits=1)}, ["free_bits 0.5 → 1.0"]),
    ({}, {"optim": torch.optim.SGD}, ["optimiser 'Adam' → 'SGD'"]),
    ({}, {"optim": torch.optim.RMSprop}, ["optimiser 'Adam' → 'RMSprop'"]),
    ({}, {"optim": torch.optim.AdamW}, ["optimiser 'Adam' → 'AdamW'", "optimiser.weight_decay"]),
    ({}, {"optim": adam(lr=0.1)}, ["lr 0.001 → 0.1"]),
    ({"optim": adam(betas=(0.9, 0.99))}, {"optim": adam()}, ["betas (0.9, 0.99) → (0.9, 0.999)"]),
    ({"optim": decaying()}, {"optim": decaying(lrd=0.99)}, ["optimiser.lrd 1.0 → 0.99"]),
    ({"optim": decaying()}, {"optim": adam()}, ["optimiser 'ClippedAdam' → 'Adam'"]),
    ({"optim": halved(0.5)}, {"optim": halved(0.9)}, ["optimiser.schedule.gamma 0.5 → 0.9"]),
    (
        {"data": data_with(100), "batch_size": 700},
        {"data": data_with(120), "batch_size": 700, "patience": 3},
        ["num_data 1400 → 1380", "validation data (hash)", "patience 10 → 3"],
    ),
]


@pytest.mark.parametrize(("first", "then", "said"), DIFFERENCES, ids=range(len(DIFFERENCES)))
def test_another_run_is_refused_in_words(stopped, first, then, said):
    out = stopped(after=3, **first)
    before = (out / "checkpoint.pt").read_bytes()
    with pytest.raises(PvaeError) as error:
        run(out, resume=True, **(first | then))
    for text in said:
        assert text in str(error.value)
    assert "the same run" in str(error.value)
    assert (out / "checkpoint.pt").read_bytes() == before


def test_another_likelihood_is_refused_though_its_parameters_fit(stopped):
    out = stopped()
    other = small_pair()
    likelihood = other[0].likelihood
    other[0].likelihood = lambda z: dist.Normal(likelihood(z).mean, 1.0).to_event(3)
    with pytest.raises(PvaeError, match="model's x 'Bernoulli' → 'Normal'"):
        run(out, pair=other, resume=True)


def test_all_differences_are_in_one_message_and_the_pair_stays_as_it_was(stopped):
    out, pair = stopped(), small_pair(1)
    before = state_of(pair)
    with pytest.raises(PvaeError, match=r"seed 0 → 2; clip_norm None → 1\.0; .*lr 0\.001 → 0\.1"):
        run(out, pair=pair, resume=True, seed=2, lr=0.1, clip_norm=1.0)
    assert same_state(before, state_of(pair))


@pytest.mark.parametrize("after", [0, 1, 9])
@pytest.mark.parametrize(
    "optim",
    [
        lambda: None,
        lambda: decaying(lrd=0.9),
        lambda: (
            lambda ps: torch.optim.Adam(
                [{"params": ps[:2], "lr": 0.1}, {"params": ps[2:], "weight_decay": np.float64(0.1)}]
            )
        ),
        lambda: lambda ps: ExponentialLR(torch.optim.Adam(ps, lr=0.01), 0.5),
    ],
    ids=["Adam", "ClippedAdam", "groups", "torch schedule"],
)
def test_a_run_that_is_killed_ends_as_the_whole_one(stopped, tmp_path, optim, after):
    """Also before its first step, and when the second process builds other parameters."""
    expected, whole = run(tmp_path / "whole", optim=optim())
    out = stopped(after=after, optim=optim())
    got, resumed = run(out, pair=small_pair(7), resume=True, optim=optim())
    assert same_state(whole, resumed)
    assert got.history == expected.history


def test_a_checkpoint_of_an_older_version_resumes(stopped, tmp_path):
    _, whole = run(tmp_path / "whole")
    out = stopped()
    saved = read_checkpoint(out / "checkpoint.pt")
    old = ("epochs", "batch_size", "seed", "kl_warmup", "num_data", "loss", "precision")
    saved["settings"] = {name: saved["settings"][name] for name in old}
    saved["settings"]["kl_warmup"] = 0
    assert saved["format"] == FORMAT == "pvae checkpoint 1"
    torch.save(saved, out / "checkpoint.pt")
    for optim in (torch.optim.SGD, torch.optim.RMSprop, decaying()):
        with pytest.raises(PvaeError, match="not that of this optimiser"):
            run(out, pair=small_pair(7), resume=True, optim=optim)
    _, resumed = run(out, pair=small_pair(7), resume=True)
    assert same_state(whole, resumed)


@pytest.mark.parametrize("validation", [0, 300])
def test_more_epochs_lengthen_a_run(tmp_path, validation):
    data = pvae.data.load("digits", validation=validation)
    options = {"batch_size": 128, "schedule": "constant", "lr": 0.02}
    expected, whole = run(tmp_path / "whole", data, epochs=5, **options)
    run(tmp_path / "run", data, epochs=2, **options)
    with pytest.warns(UserWarning, match="started with 2 epochs. It continues to 5.$"):
        got, longer = run(
            tmp_path / "run", data, pair=small_pair(7), resume=True, epochs=5, **options
        )
    assert same_state(whole, longer)
    assert got.history == expected.history
    assert read_checkpoint(tmp_path / "run" / "checkpoint.pt")["settings"]["epochs"] == 5


def test_a_run_goes_on_from_its_last_epoch_and_not_from_its_best(tmp_path, monkeypatch):
    data = pvae.data.load("digits", validation=1400)
    options = {"batch_size": 50, "schedule": "constant"}
    found = []
    for cuts in ((5,), (2, 5)):
        scores = iter([5.0, 4.0, 3.0, 2.0, 6.0])
        monkeypatch.setattr(
            "pvae.training.loop.Run._validate", lambda self, scores=scores: next(scores)
        )
        for epochs in cuts:
            fitted, state = run(tmp_path / str(cuts), data, epochs=epochs, resume=True, **options)
        found.append((fitted.history, fitted.best_epoch, {k: v.tolist() for k, v in state.items()}))
    assert found[0] == found[1]
    assert fitted.best_epoch == 5


def test_a_longer_run_says_what_becomes_of_its_schedule(stopped):
    out = stopped(after=8)  # two of four epochs
    said = r"continues to 8 with the schedule of 8 epochs: .* from 0\.00052 to 0\.00086"
    with pytest.warns(UserWarning, match=said):
        got, _ = run(out, resume=True, epochs=8)
    assert len(got.history) == 8
    with pytest.raises(PvaeError, match="epochs 8 → 4"):
        run(out, resume=True)


def test_a_function_as_a_schedule_is_taken_up_and_can_be_lengthened(stopped, tmp_path):
    def falling(share):
        return np.float64(1 - share)

    expected, whole = run(tmp_path / "whole", schedule=falling)
    out = stopped(schedule=falling)
    got, resumed = run(out, resume=True, schedule=lambda share: 1 - share)
    assert same_state(whole, resumed)
    assert got.history == expected.history
    run(out, resume=True, schedule=falling, epochs=6)
    assert len(run(out, resume=True, schedule=falling, epochs=7)[0].history) == 7


def test_a_run_that_stopped_early_does_not_go_on(tmp_path):
    data = pvae.data.load("digits", observation="fixed", validation=1200)
    options = {"batch_size": 50, "lr": 0.05, "patience": 2, "schedule": "constant"}
    first, before = run(tmp_path, data, epochs=60, **options)
    assert len(first.history) < 60
    with pytest.warns(UserWarning, match=f"stopped early after {len(first.history)} epochs"):
        again, after = run(tmp_path, data, epochs=90, resume=True, **options)
    assert again.history == first.history
    assert again.best_epoch == first.best_epoch
    assert same_state(before, after)


def test_what_fails_before_its_first_checkpoint_leaves_the_folder_free(tmp_path):
    def schedule(share):
        return float("inf") if share > 0.1 else 1.0

    with pytest.raises(PvaeError, match="Training stopped at step") as error:
        run(tmp_path, schedule=schedule)
    assert "last good checkpoint" not in str(error.value)
    assert list(tmp_path.glob("*.*")) == []
    run(tmp_path)


def test_numpy_numbers_are_saved_as_plain_ones(tmp_path):
    options = {
        "epochs": np.int64(2), "batch_size": np.int32(16), "kl_warmup": np.float32(1),
        "seed": np.int64(3), "patience": np.uint8(10), "clip_norm": np.float64(5.0),
        "lr": np.float32(0.25), "schedule": lambda share: np.cos(share),
        "optim": adam(lr=np.float64(0.01), weight_decay=np.float32(0.5)),
        "loss": Beta_ELBO(np.int64(2), np.float64(0.5)),
    }  # fmt: skip
    _, numpy = run(tmp_path / "numpy", **options)
    plain = {"epochs": 2, "batch_size": 16, "kl_warmup": 1, "seed": 3, "clip_norm": 5.0}
    plain |= {"schedule": options["schedule"], "optim": adam(lr=0.01, weight_decay=0.5)}
    _, python = run(tmp_path / "python", **plain, loss=Beta_ELBO(2, 0.5))
    assert same_state(numpy, python)
    a, b = (read_checkpoint(tmp_path / n / "checkpoint.pt") for n in ("numpy", "python"))
    assert a["settings"] == b["settings"]
    assert read_history(tmp_path / "numpy") == read_history(tmp_path / "python")
    again = small_pair(1)
    pvae.load(tmp_path / "numpy", model=again[0], guide=again[1])
    assert same_state(state_of(again), numpy)


class Hoarder(torch.optim.SGD):
    """An optimiser whose state no checkpoint can carry."""

    def step(self, closure=None):
        super().step(closure)
        for group in self.param_groups:
            self.state[group["params"][0]]["hook"] = Killed()


def test_what_cannot_be_read_back_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr("pvae.training.loop.SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    steps, real = [], pvae.SVI.update

    def update(self, *batch):
        steps.append(1)
        return real(self, *batch)

    monkeypatch.setattr(pvae.SVI, "update", update)
    with pytest.raises(PvaeError, match=r"was not written: it would hold a \S*Killed"):
        run(tmp_path, optim=Hoarder)
    assert len(steps) == 1, "known at the first checkpoint, not at the end"


def test_a_good_checkpoint_is_not_replaced_by_one_that_cannot_be_read(tmp_path):
    from pvae.training.checkpoint import write_checkpoint

    run(tmp_path)
    path = tmp_path / "checkpoint.pt"
    contents = read_checkpoint(path)
    settings = contents["settings"] | {"lr": np.float64(1.5), "many": {np.int64(1): [np.True_]}}
    write_checkpoint(path, contents | {"settings": settings})
    before = path.read_bytes()
    assert read_checkpoint(path)["settings"] == contents["settings"] | {
        "lr": 1.5,
        "many": {1: [True]},
    }
    for bad in (Killed(), lambda: None, {"deep": [Killed]}):
        with pytest.raises(PvaeError, match="was not written"):
            write_checkpoint(path, contents | {"settings": settings | {"lr": bad}})
    assert path.read_bytes() == before
    assert list(tmp_path.glob("*.tmp")) == list(tmp_path.glob(".*.tmp")) == []
