"""Programs that take one label at a time, or all labels at once and nothing else."""

import math
import warnings
from dataclasses import replace

import pyro
import pyro.distributions as dist
import pytest
import torch
from asking import evaluate
from pyro.infer import TraceEnum_ELBO
from torch import nn

import pvae
from pvae import PvaeError
from pvae.importance.sampler import Sampler
from pvae.importance.terms import add_up
from pvae.pair import inspect
from pvae.pair.traces import trace_of

NUM = 3  # labels
GIVEN = ("model concatenates", "model is wrong", "guide concatenates")


class Pair:
    r"""z ~ N(0, I), y ~ Cat(1/3), x ~ N(W_z z + W_y y + b, I), and q(y|x), q(z|x, y).

    .. math:: \log p(x) = \log \frac13 \sum_y N(x; W_y y + b, W_z W_z^\top + I)

    Args:
        style: What a network makes of z and a one-hot y. "broadcasts"; "one at a time": it
            concatenates, so that both need the same shape; "wrong together": it takes the first
            of more than two dimensions for something else, and rolls it; "all at once": it
            repeats z, which then does not depend on y, for each label, as pyroVED's jiVAE does.
            Those of `GIVEN` broadcast where z depends on y, as in the guide, and elsewhere not.
        mark: How the guide marks y.
    """

    def __init__(self, style, mark="parallel"):
        torch.manual_seed(0)
        self.style, self.mark = style, mark
        self.encode_y, self.encode_z = nn.Linear(4, NUM), nn.Linear(4 + NUM, 2)
        self.decode = nn.Linear(2 + NUM, 4)
        self.x = torch.randn(6, 4)

    def joined(self, z, y):
        if self.style == "model is wrong" and y.ndim > z.ndim and z.shape[-1] == 2:
            y = y.roll(1, 0)
        if self.style in ("broadcasts", "wrong together", "model is wrong", "guide concatenates"):
            shape = torch.broadcast_shapes(z.shape[:-1], y.shape[:-1])
            z, y = z.expand(*shape, z.shape[-1]), y.expand(*shape, NUM)
        if self.style == "all at once":
            z, rows = z.repeat(NUM, 1), y.reshape(-1, NUM)
            return torch.cat([z, rows], -1).reshape(*y.shape[:-1], -1)
        if self.style == "wrong together" and y.ndim > 2:
            y = y.roll(1, 0)
        return torch.cat([z, y], -1)

    def model(self, x):
        pyro.module("decode", self.decode)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
            y = pyro.sample("y", dist.OneHotCategorical(logits=torch.zeros(len(x), NUM)))
            if self.style == "guide concatenates":
                pyro.sample("u", dist.Normal(torch.zeros(len(x)), 1.0))
            loc = self.decode(self.joined(z, y))
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("encode_y", self.encode_y)
        pyro.module("encode_z", self.encode_z)
        with pyro.plate("data", len(x)):
            fn = dist.OneHotCategorical(logits=self.encode_y(x))
            y = pyro.sample("y", fn, infer={"enumerate": self.mark, "expand": True})
            blind = self.style == "all at once"
            wide = x.expand(*y.shape[:-1], 4) if self.style == "model concatenates" else x
            given = torch.cat([x, 0 * fn.probs], -1) if blind else self.joined(wide, y)
            z = pyro.sample("z", dist.Normal(0.3 * self.encode_z(given), 1.1).to_event(1))
            if self.style == "guide concatenates":
                pyro.sample("u", dist.Normal(0.2 * torch.cat([z, y], -1).sum(-1), 1.1))

    @property
    def exact(self):
        w = self.decode.weight.detach().double()
        loc = (w[:, 2:] + self.decode.bias.detach().double()[:, None]).T
        fn = dist.MultivariateNormal(loc, w[:, :2] @ w[:, :2].T + torch.eye(4).double())
        return fn.log_prob(self.x.double()[:, None]).logsumexp(-1) - math.log(NUM)


def weights_are_right(pair, num=1000, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        log_w = pvae.log_weights(pair.model, pair.guide, pair.x, num_samples=num, **options)
    weight = (log_w.double() - pair.exact).exp()
    assert ((weight.mean(0) - 1).abs() < 5 * weight.std(0) / math.sqrt(num)).all()
    assert weight.std(0).max() < 3


@pytest.mark.parametrize("mark", ["parallel", "sequential"])
@pytest.mark.parametrize("style", ["broadcasts", "one at a time", "wrong together"])
def test_labels_are_summed_out_whether_or_not_the_networks_broadcast(style, mark):
    pair = Pair(style, mark)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        sampler = Sampler(inspect(pair.model, pair.guide, pair.x))
    assert sampler.structure.one_by_one == (style != "broadcasts")
    said = [str(w.message) for w in said if "one value at a time" in str(w.message)]
    assert len(said) == sampler.structure.one_by_one
    weights_are_right(pair)


@pytest.mark.parametrize("strategy", ["tile", "loop"])
def test_one_label_at_a_time_in_every_layout(strategy):
    pair = Pair("one at a time")
    weights_are_right(pair, 40 if strategy == "loop" else 1000, strategy=strategy)


def test_numbers_of_a_loop_over_labels_are_those_of_all_at_once():
    """The same z, and so the same weights, ELBO and KLs to the last digits."""
    pair, found = Pair("broadcasts"), []
    with Sampler(inspect(pair.model, pair.guide, pair.x), strategy="tile") as sampler:
        batch, particles = (pair.x,), sampler.particles
        z = particles.guide(batch, 5).nodes["z"]["value"]
        for one_by_one in (False, True):
            particles.structure = replace(particles.structure, one_by_one=one_by_one)
            draws = particles.guide(batch, 5, trace_of({"z": z}))
            q = particles.log_terms(draws, 5, 6, observed=False)
            p = particles.log_terms(particles.model(batch, 5, draws), 5, 6)
            found.append(add_up(p, q, ("y",), {}))
    together, apart = found
    for name in ("log_w", "elbo", "rate", "kl"):
        torch.testing.assert_close(getattr(together, name), getattr(apart, name))


@pytest.mark.parametrize("style", GIVEN)
def test_labels_are_summed_out_where_latents_that_are_given_do_not_broadcast(style):
    pair = Pair(style)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the weights are drawn together, as ever
        sampler = Sampler(inspect(pair.model, pair.guide, pair.x), strategy="tile")
    assert not sampler.structure.one_by_one
    assert sampler.structure.one_by_one_given
    weights_are_right(pair)
    with sampler:
        batch = (pair.x,)
        rows = sampler.posterior(batch, 2000)
        # E_q[p(x, z) / q(z)], without labels: rows are given to both programs.
        del rows["y"]
        log_w = sampler.particles.sum_out(sampler.terms(batch, 2000, rows).values()).double()
        log_w = log_w - sampler.particles.sum_out(sampler.guide_terms(batch, 2000, rows).values())
        weight = (log_w - pair.exact).exp()
        assert ((weight.mean(0) - 1).abs() < 5 * weight.std(0) / math.sqrt(2000)).all()
        draws = torch.cat(list(sampler.prior_stream(batch, 5000, seed=1))).double()
        weight = (draws - pair.exact).exp()
        assert ((weight.mean(0) - 1).abs() < 5 * weight.std(0) / math.sqrt(5000)).all()


def test_labels_that_broadcast_everywhere_are_summed_out_together():
    pair = Pair("broadcasts")
    assert not Sampler(inspect(pair.model, pair.guide, pair.x)).structure.one_by_one_given


@pytest.mark.parametrize("style", ["one at a time", "all at once", *GIVEN])
def test_evaluate_and_diagnose(style):
    pair = Pair(style, "sequential" if style == "one at a time" else "parallel")
    options = {"num_samples": 500, "ais": 3, "num_temperatures": 30, "progress": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = evaluate(pair.model, pair.guide, pair.x, **options)
        assert not pvae.diagnose(pair.model, pair.guide, pair.x).faults
    assert abs(found.log_px - pair.exact.numpy()).max() < 0.4
    assert abs(found.findings["prior"].log_px - pair.exact.numpy()).max() < 0.8
    of = found.findings["ais_prior"]
    assert abs(of.log_px - pair.exact.numpy()[of.datum]).max() < 0.6
    if style == "all at once":
        assert "surgery" in found.missing  # the guide cannot draw a label
        elbo = TraceEnum_ELBO(max_plate_nesting=1, num_particles=1)
        theirs = [-elbo.loss(pair.model, pair.guide, pair.x) for _ in range(300)]
        assert abs(found.elbo.sum() - sum(theirs) / 300) < 1.5
    else:
        assert abs(found.findings["surgery"].rate - found.kl.mean()) < 1


@pytest.mark.parametrize("strategy", ["auto", "tile", "loop"])
def test_a_pair_that_runs_under_enumeration_only(strategy):
    pair = Pair("all at once")
    structure = pvae.check(pair.model, pair.guide, pair.x)
    assert (structure.latent, structure.enumerated) == (("y", "z"), ("y",))
    assert structure.together_only
    weights_are_right(pair, 40 if strategy == "loop" else 1000, strategy=strategy)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        done = pvae.fit(pair.model, pair.guide, pair.x, epochs=2, batch_size=3, progress=False)
    assert done.loss == "TraceEnum_ELBO"


def test_a_pair_that_runs_under_enumeration_only_has_no_mean_for_one_label():
    pair = Pair("all at once")
    for call in (
        lambda: pvae.reconstruct(pair.model, pair.guide, pair.x),
        lambda: pvae.generate(pair.model, 4, pair.x),
    ):
        with pytest.raises(PvaeError, match="for all values of its discrete sites at once only"):
            call()


def test_a_program_that_fails_in_any_way_fails_with_its_own_words():
    pair = Pair("one at a time")

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
            y = pyro.sample("y", dist.OneHotCategorical(logits=torch.zeros(len(x), NUM)))
            loc = torch.cat([z, y], -1) @ torch.ones(9, 4)
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    with pytest.raises(PvaeError, match="in_features"):
        pvae.check(model, pair.guide, pair.x)
