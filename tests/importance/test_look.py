"""How often a pair is run before its first weight, and when a look at it is remembered."""

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
    sampler = pvae.importance.Sampler(found)
    assert pair.runs == {"model": 4, "guide": 4}
    assert sampler.strategy == "plate"


def test_fit_hands_what_it_has_found_to_its_objective(monkeypatch):
    pair, objective = Pair(), pvae.objectives.IWAE_ELBO(num_particles=4)
    monkeypatch.delattr("pvae.objectives.base.inspect")
    pvae.fit(pair.model, pair.guide, X, loss=objective, epochs=2, batch_size=10, progress=False)
