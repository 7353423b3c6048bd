"""Averaged parameters: those of torch's AveragedModel, in validation, after training, in a run."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from small import Decoder, Encoder, quick_fit, same_state, small_pair, state_of
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import pvae
from pvae import PvaeError
from pvae.callbacks import Callback
from pvae.training.checkpoint import read_checkpoint

X = torch.randn(48, 4, generator=torch.Generator().manual_seed(0))
IMAGES = torch.randint(0, 2, (64, 1, 8, 8), generator=torch.Generator().manual_seed(0)).float()


class Oracle(Callback):
    """torch's AveragedModel of the pair, with its buffers."""

    def start(self, training):
        self.pair = nn.ModuleList([training.model, training.guide])
        averages = get_ema_multi_avg_fn(0.8)
        self.model = AveragedModel(self.pair, multi_avg_fn=averages, use_buffers=True)

    def step(self, training):
        self.model.update_parameters(self.pair)

    def epoch(self, training):  # here the pair has the averaged values
        for ours, theirs in zip(self.pair.parameters(), self.model.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs)


def test_the_average_is_that_of_torch_with_batch_statistics():
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 2))
    encoder.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
    pair, oracle = (Decoder(), Encoder(net=encoder)), Oracle()
    last = {}

    class Raw(Callback):
        def step(self, training):
            last["weight"] = encoder[0].weight.detach().clone()

    quick_fit(pair, X, batch_size=16, lr=0.05, average=0.8, callbacks=[oracle, Raw()])
    averaged = oracle.model.module[1].net
    torch.testing.assert_close(encoder[0].weight, averaged[0].weight)
    torch.testing.assert_close(encoder[1].running_var, averaged[1].running_var)
    assert not torch.allclose(encoder[0].weight, last["weight"]), "not those of the last step"
    assert encoder.mask.tolist() == [0.0, -torch.inf]


def test_a_parameter_of_pyros_store_is_averaged_before_its_constraint():
    values = []

    def model(x):
        scale = pyro.param("average_scale", torch.ones(()), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(0.0, scale).expand([4]).to_event(1), obs=x)

    class Note(Callback):
        def step(self, training):
            values.append(pyro.param("average_scale").log().item())

    try:
        guide = pvae.guides.NoLatents()
        quick_fit((model, guide), 3 * X, batch_size=16, lr=0.1, average=0.5, callbacks=[Note()])
        expected = values[0]
        for value in values[1:]:
            expected = 0.5 * expected + 0.5 * value
        assert pyro.param("average_scale").log().item() == pytest.approx(expected, rel=1e-5)
    finally:
        pyro.get_param_store().clear()


def test_validation_and_the_best_epoch_have_averaged_parameters(tmp_path):
    data = pvae.data.load("digits", validation=1400)
    how = {"batch_size": 50, "epochs": 3, "average": 0.9, "out": tmp_path}
    pair, raw = small_pair(), small_pair()
    found = quick_fit(pair, data, **how)
    plain = quick_fit(raw, data, batch_size=50, epochs=3)
    assert [r["elbo"] for r in found.history] == [r["elbo"] for r in plain.history]
    assert found.history[1]["validation_elbo"] != plain.history[1]["validation_elbo"]
    saved = read_checkpoint(tmp_path / "checkpoint.pt")
    loaded = pvae.load(tmp_path)
    assert same_state(state_of(loaded), state_of(pair))
    assert torch.equal(
        saved["state"]["modules"]["model"]["decoder.layers.0.weight"],
        raw[0].decoder.layers[0].weight,
    ), "the run continues with those that are trained"


def test_a_killed_run_continues_its_average(tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    class Kills(Callback):
        def step(self, training):
            if training.step == 7:
                raise Killed

    monkeypatch.setattr("pvae.training.loop.SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    how = {"batch_size": 16, "average": 0.9}
    whole, resumed = small_pair(), small_pair()
    quick_fit(whole, IMAGES, **how)
    with pytest.raises(Killed):
        quick_fit(small_pair(), IMAGES, callbacks=[Kills()], out=tmp_path, **how)
    unfinished = pvae.load(tmp_path, model=small_pair(1)[0], guide=small_pair(1)[1])
    quick_fit(resumed, IMAGES, out=tmp_path, resume=True, **how)
    assert same_state(state_of(whole), state_of(resumed))
    assert not same_state(state_of(whole), state_of(unfinished))


@pytest.mark.parametrize("average", [1.0, -0.1, "0.9"])
def test_a_decay_outside_of_its_range_is_refused(average):
    with pytest.raises(PvaeError, match="average="):
        quick_fit(small_pair(), IMAGES, average=average)
