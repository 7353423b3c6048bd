"""Odd sites, sequences and parameters: one message each, in training too."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pair.test_odd import X, _calls, _pair
from pyro.infer import Trace_ELBO
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

import pvae
from pvae import PvaeError


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("data", "sizes", "words"),
    [
        (torch.zeros(0, 4), [], "without a sequence"),
        (torch.zeros(3, 4), [2, 2], "do not count its 3 rows"),
        (torch.zeros(3, 4), [1, 2], "batch_sizes .1, 2.*pack_sequence"),
        (torch.zeros(3, 4), [-1, 4], "batch_sizes"),
        (torch.eye(3).to_sparse(), [2, 1], "x.to_dense"),
        (torch.zeros(3, 4, device="meta"), [2, 1], "meta device"),
    ],
)
def test_a_packed_sequence_that_is_none_is_said(data, sizes, words):
    odd = PackedSequence(data, torch.tensor(sizes, dtype=torch.long))
    for args in ((odd,), (X, odd), ({"x": odd},)):
        for name in ("check", "log_weights"):
            with pytest.raises(PvaeError, match=words):
                _calls(*_pair(), *args)[name]()
        with pytest.raises(PvaeError, match=words):
            pvae.encode(_pair()[1], *args)
        assert len(pvae.diagnose(*_pair(), *args).faults) == 1


def test_sequences_too_long_to_pad_are_said_before_they_are_padded(monkeypatch):
    monkeypatch.setattr("pvae.pair.containers.too_large", lambda size, device: size > 1000)
    packed = pack_sequence([torch.zeros(100, 4)] + [torch.zeros(1, 4)] * 20)
    with pytest.raises(PvaeError, match=r"\[21, 100, 4\] when they are padded"):
        pvae.check(*_pair(), packed)


COMPLEX = {
    "factor": lambda: pyro.factor("a", torch.tensor(1j), has_rsample=True),
    "observed": lambda: pyro.sample("a", dist.Normal(0.0, 1.0), obs=torch.tensor(1j)),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["factor", "observed"])
@pytest.mark.parametrize("role", ["model", "guide"])
def test_a_complex_log_density_is_named(kind, role):
    model, guide = _pair()
    site = COMPLEX[kind]
    pair = (
        (lambda x: (site(), model(x)), guide)
        if role == "model"
        else (model, lambda x: (site(), guide(x)))
    )
    for name, call in _calls(*pair, X).items():
        if name != "encode":
            with pytest.raises(PvaeError, match=f"Site 'a' of the {role}.* is complex"):
                call()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("mode", ["eager", "compiled"])
def test_a_step_explains_what_it_cannot_do_and_passes_on_what_programs_raise(mode):
    model, guide = _pair()

    def step(model):
        return pvae.SVI(model, guide, torch.optim.Adam, Trace_ELBO(), mode=mode).step(X)

    with pytest.raises(PvaeError, match="'a' is drawn by <lambda>"):
        step(lambda x: (pyro.sample("a", lambda: torch.zeros(())), model(x)))

    def fails(x):
        model(x)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        step(fails)


@pytest.mark.filterwarnings("ignore")
def test_parameters_without_values_are_named():
    def made(layer):
        model, guide = _pair()
        network = nn.ModuleDict({"layer": layer})

        def with_layer(x):
            pyro.module("network", network)
            return model(x)

        return with_layer, guide

    pair = made(nn.Linear(2, 2, device="meta"))
    for name in ("check", "log_weights", "evaluate", "fit"):
        with pytest.raises(PvaeError, match=r"Parameter .*layer.weight is on the meta device"):
            _calls(*pair, X)[name]()


def test_a_failure_that_has_no_words_is_named_by_its_type():
    class MuteError(Exception):
        def __str__(self):
            raise RuntimeError("nothing to say")

    def model(x):
        raise MuteError

    with pytest.raises(PvaeError, match="MuteError"):
        pvae.check(model, _pair()[1], X)
