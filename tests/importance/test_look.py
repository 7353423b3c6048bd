"""How often a pair is run before its first weight, and when a look at it is remembered."""

import argparse
import collections
import functools
import os
import sys
import types

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pvae
from pvae import PvaeError, log_weights

X = torch.randn(20, 5, generator=torch.Generator().manual_seed(0))


class Pair:
    """A pair that counts its runs; `shift` is in a closure, `offset` an attribute."""

    def __init__(self, shift=0.0, mix=False):
        torch.manual_seed(0)
        runs = self.runs = {"model": 0, "guide": 0}
        decoder, where = nn.Linear(3, 5), {"shift": shift}
        self.where = where

        class Guide(pyro.nn.PyroModule):
            def __init__(self):
                super().__init__()
                self.net, self.mix = nn.Linear(5, 3), mix
                self.bend, self.offset = torch.tanh, torch.zeros(3)

            def forward(self, x):
                runs["guide"] += 1
                x = x - x.mean(0) if self.mix else x
                with pyro.plate("data", len(x)):
                    loc = self.bend(self.net(x)) + self.offset
                    pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))

        def model(x):
            runs["model"] += 1
            pyro.module("decoder", decoder)
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(decoder(z) + where["shift"], 1.0).to_event(1), obs=x)

        self.model, self.guide, self.decoder = model, Guide(), decoder

    def count(self, *batch, num_samples=10, **options):
        """Returns how often log_weights runs model and guide."""
        self.runs.update(model=0, guide=0)
        log_weights(self.model, self.guide, *batch, num_samples=num_samples, **options)
        assert self.runs["model"] == self.runs["guide"]
        return self.runs["model"]


def test_a_pair_runs_four_times_before_its_first_draw_and_once_when_it_is_known():
    # A look at all data, one in the plate, one of every second datum and one of the others.
    pair = Pair()
    assert pair.count(X) == 4 + 1
    assert pair.count(X) == 1 + 1
    assert pair.count(X + 1, num_samples=2) == 1 + 1


def test_known_and_new_pairs_have_the_same_weights():
    pair = Pair()

    def weights():
        torch.manual_seed(3)
        return log_weights(pair.model, pair.guide, X, num_samples=7)

    assert torch.equal(weights(), weights())


def _other_code(pair):
    guide = type(pair.guide)
    forward = guide.forward
    guide.forward = lambda self, x: forward(self, x)


CHANGES = {
    "a parameter": lambda pair: nn.init.ones_(pair.decoder.weight),
    "a parameter's data": lambda pair: pair.guide.net.weight.data.mul_(2),
    "a constant's data": lambda pair: pair.guide.offset.data.add_(1),
    "a network": lambda pair: setattr(pair.guide, "net", nn.Linear(5, 3)),
    "another parameter": lambda pair: setattr(pair.decoder, "bias", nn.Parameter(torch.ones(5))),
    "an attribute": lambda pair: setattr(pair.guide, "offset", 1.0),
    "a function": lambda pair: setattr(pair.guide, "bend", torch.sigmoid),
    "an entry of a dict": lambda pair: pair.where.update(shift=1.0),
    "the code": _other_code,
    "a hook": lambda pair: pair.decoder.register_forward_hook(lambda *_: None),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_pair_that_has_changed_is_checked_again(change):
    pair = Pair()
    assert [pair.count(X), pair.count(X)] == [5, 2]
    CHANGES[change](pair)
    assert pair.count(X) == 5


def test_other_shapes_are_checked_again():
    pair = Pair()
    assert [pair.count(x) for x in (X, X[:12], X[:12])] == [5, 5, 2]


def test_what_is_asked_for_is_checked_each_time():
    pair = Pair()
    assert pair.count(X, strategy="tile") > 5
    assert pair.count(X) == 5
    with pyro.poutine.scale(scale=2.0):
        assert pair.count(X) == 5


def test_a_pair_that_began_to_mix_data_is_refused():
    pair = Pair()
    pair.count(X)
    pair.guide.mix = True
    with pytest.raises(PvaeError, match="mixes data across the batch"):
        pair.count(X)


MIX = 0.0  # looked up by name, below


class _Softmax(nn.Softmax):
    pass


def _hidden(place):
    """Returns what a guide's code asks, and what changes the answer from 0 to 1."""
    if place == "a namespace":
        held = argparse.Namespace(mix=0.0)
        return lambda: held.mix, lambda: vars(held).update(mix=1.0)
    if place == "a dict of a library":
        held = collections.UserDict(mix=0.0)
        return lambda: held["mix"], lambda: held.update(mix=1.0)
    if place == "a module of the user":
        held = types.ModuleType("settings")
        held.mix = 0.0
        return lambda: held.mix, lambda: setattr(held, "mix", 1.0)
    if place == "an import inside":
        held = sys.modules["settings_of_a_test"] = types.ModuleType("settings_of_a_test")
        held.mix = 0.0

        def imported():
            from settings_of_a_test import mix

            return mix

        return imported, lambda: setattr(held, "mix", 1.0)
    if place == "the environment":
        os.environ["PVAE_TEST_MIX"] = "0"
        return (
            lambda: float(os.environ["PVAE_TEST_MIX"]),
            lambda: os.environ.update(PVAE_TEST_MIX="1"),
        )
    if place == "globals by name":
        globals()["MIX"] = 0.0
        return lambda: globals()["MIX"], lambda: globals().update(MIX=1.0)
    if place == "a tensor in a partial":
        held = torch.zeros(())
        return functools.partial(lambda t: t, held), lambda: held.fill_(1)
    if place == "an array in a partial":
        held = np.zeros(1)
        return functools.partial(lambda a: float(a[0]), held), lambda: held.fill(1)
    if place == "a sign":
        held = torch.tensor([-1.0])
        return lambda: held.clamp(min=0), lambda: held.data.neg_()
    if place == "an order":
        held = torch.tensor([0.0, 1.0])
        return lambda: held[0], lambda: held.data.copy_(held.flip(0))
    if place == "an order in the store":
        leaf = lambda: pyro.param("mix", torch.tensor([0.0, 1.0]))  # noqa: E731
        return (lambda: leaf()[0]), lambda: leaf().data.copy_(torch.tensor([1.0, 0.0]))
    raise AssertionError(place)


PLACES = [
    "a namespace", "a dict of a library", "a module of the user", "an import inside",
    "the environment", "globals by name", "a tensor in a partial", "an array in a partial",
    "a sign", "an order", "an order in the store",
]  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_a_change_in_what_is_not_followed_is_not_missed(place):
    pyro.clear_param_store()
    pair, (asked, change) = Pair(), _hidden(place)

    def guide(x):
        pair.runs["guide"] += 1
        x = x - asked() * x.mean(0)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, :3], 1.0).to_event(1))

    pair.guide = guide
    pair.count(X), pair.count(X)
    change()
    with pytest.raises(PvaeError, match="mixes data across the batch"):
        pair.count(X)


def test_attributes_that_a_library_asks_for_are_not_missed():
    pair, soft = Pair(), _Softmax(-1)

    def act(x, on=[0.0]):  # noqa: B006
        return x - on[0] * x.mean(0)

    for module, change in (
        (soft, lambda: setattr(soft, "dim", -2)),
        (
            nn.TransformerEncoderLayer(5, 1, 7, 0.0, activation=act, batch_first=True),
            lambda: act.__defaults__[0].__setitem__(0, 1.0),
        ),
    ):

        def guide(x, module=module):
            pair.runs["guide"] += 1
            with pyro.plate("data", len(x)):
                x = module(x[..., None, :])[..., 0, :]
                pyro.sample("z", dist.Normal(x[..., :3], 1.0).to_event(1))

        if module is soft:
            guide = functools.partial(guide, module=lambda x: soft(x[..., 0, :])[..., None, :])
        pair.guide = guide
        pair.count(X), pair.count(X)
        change()
        with pytest.raises(PvaeError, match="mixes data across the batch"):
            pair.count(X)


def _inference():
    with torch.inference_mode():
        return torch.ones(5)


class _Lazy(nn.Module):
    def __init__(self):
        super().__init__()
        self.unused = nn.LazyLinear(3)


TENSORS = {
    "sparse": lambda: torch.eye(5).to_sparse(),
    "of inference": _inference,
    "nested": lambda: torch.nested.nested_tensor([torch.ones(5), torch.ones(3)]),
    "without values": lambda: torch.ones(5, device="meta"),
    "complex": lambda: torch.ones(5, dtype=torch.complex64),
    "16 bits": lambda: torch.full((5,), float("nan"), dtype=torch.bfloat16),
    "lazy": _Lazy,
    "compiled": lambda: torch.jit.trace(nn.Linear(5, 3), torch.zeros(2, 5)),
}  # fmt: skip


@pytest.mark.parametrize("kind", TENSORS)
@pytest.mark.filterwarnings("error:Casting complex", "ignore::DeprecationWarning")
def test_a_pair_may_hold_tensors_of_any_kind(kind):
    pair, held = Pair(), TENSORS[kind]()
    pair.guide.held = held
    pair.guide.bend = lambda x: (held, torch.tanh(x))[1]
    assert pair.count(X) == 5
    assert pair.count(X) in (2, 5)


def test_equal_data_prove_nothing_about_other_data():
    pair = Pair(mix=True)
    pair.count(torch.zeros(20, 5))
    with pytest.raises(PvaeError, match="mixes data across the batch"):
        pair.count(X)


def test_memory_does_not_keep_a_pair_alive():
    import gc
    import weakref

    pair = Pair()
    pair.count(X)
    gone = weakref.ref(pair.guide.net)
    del pair
    gc.collect()
    assert gone() is None


def test_an_inspection_says_what_a_pair_is_and_is_enough_for_a_sampler():
    pair = Pair()
    found = pvae.inspect(pair.model, pair.guide, X)
    assert pair.runs == {"model": 1, "guide": 1}
    assert (found.plate, found.dim, found.size) == ("data", -1, 20)
    assert str(found).splitlines() == [
        "guide: z ~ Normal, event (3,), plates 'data' at dim -1 of size 20",
        "model: z ~ Normal, event (3,), plates 'data' at dim -1 of size 20",
        "model: observed x ~ Normal, event (5,), plates 'data' at dim -1 of size 20",
    ]
    assert repr(found) == str(found)  # in a notebook, not the tensors
    sampler = pvae.importance.Sampler(found)
    assert pair.runs == {"model": 4, "guide": 4}
    assert sampler.strategy == "plate"


def test_fit_hands_what_it_has_found_to_its_objective(monkeypatch):
    pair, objective = Pair(), pvae.objectives.IWAE_ELBO(num_particles=4)
    monkeypatch.delattr("pvae.objectives.base.inspect")
    pvae.fit(pair.model, pair.guide, X, loss=objective, epochs=2, batch_size=10, progress=False)
