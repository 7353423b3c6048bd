"""What diagnose() says of weights and densities: no right pair is called wrong."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from asking import evaluate
from broken import Guide, Model, data
from broken_weights import Scaling
from pyro import poutine
from torch.utils._python_dispatch import TorchDispatchMode

import pvae
from pvae.diagnosis import densities as consistency
from pvae.diagnosis.diagnose import diagnose


def sequences(how, broken=False):
    """A linear-Gaussian chain of which each datum has the first `lengths` steps."""
    steps, rows = 4, 32
    torch.manual_seed(0)
    lengths, x = torch.randint(1, steps, (rows,)), torch.randn(rows, steps)

    def normal(loc, scale, mask):
        fn = dist.Normal(loc, scale)
        if broken:
            fn = dist.TransformedDistribution(fn, [Scaling(0.2)])
        return fn.mask(mask) if how == "distribution" else fn

    def chain(x, lengths, observe):
        with pyro.plate("data", len(x)):
            z = torch.zeros(len(x))
            for t in range(steps):
                mask = t < lengths
                with poutine.mask(mask=mask if how == "handler" else True):
                    loc = 0.8 * z if observe else 0.2 * z + 0.7 * x[:, t]
                    z = pyro.sample(f"z{t}", normal(loc, 1.0 if observe else 0.6, mask))
                    if observe:
                        fn = dist.Normal(z, 0.6)
                        fn = fn.mask(mask) if how == "distribution" else fn
                        pyro.sample(f"x{t}", fn, obs=x[:, t])

    def vector(x, lengths, observe):
        mask = torch.arange(steps) < lengths[:, None]
        with pyro.plate("data", len(x)):
            loc, scale = (torch.zeros_like(x), 1.0) if observe else (0.7 * x, 0.6)
            z = pyro.sample("z", normal(loc, torch.full_like(x, scale), mask).to_event(1))
            if observe:
                pyro.sample("x", dist.Normal(z, 0.6).mask(mask).to_event(1), obs=x)

    program = vector if how == "event" else chain
    if how == "event":
        normal = lambda loc, scale, mask: _masked(loc, scale, mask, broken)  # noqa: E731
    model = lambda x, lengths: program(x, lengths, True)  # noqa: E731
    guide = lambda x, lengths: program(x, lengths, False)  # noqa: E731
    return model, guide, x, lengths


def _masked(loc, scale, mask, broken):
    fn = dist.Normal(loc, scale)
    return (dist.TransformedDistribution(fn, [Scaling(0.2)]) if broken else fn).mask(mask)


@pytest.mark.parametrize("how", ["handler", "distribution", "event"])
def test_masked_latents_have_no_density_by_intention(how):
    found = diagnose(*sequences(how))
    assert not found.faults, found
    assert not any("not compared" in fact for fact in found.facts)


@pytest.mark.parametrize("how", ["handler", "distribution", "event"])
def test_a_wrong_density_is_found_beside_masked_latents(how):
    faults = diagnose(*sequences(how, broken=True)).faults
    assert len(faults) == 2
    assert "density of the guide's latent sites is not that of its samples" in faults[0]
    assert "density of the model's" in faults[1]


@pytest.mark.parametrize(("alpha", "compared"), [(1.0, True), (0.3, None), (0.1, False)])
def test_draws_at_the_edge_of_a_simplex_are_no_fault(alpha, compared):
    torch.manual_seed(0)
    prior = torch.full((10,), alpha)
    x = dist.Multinomial(30, probs=dist.Dirichlet(prior).sample((64,))).sample()

    def model(x):
        with pyro.plate("documents", len(x)):
            topics = pyro.sample("topics", dist.Dirichlet(prior))
            pyro.sample("x", dist.Multinomial(30, probs=topics), obs=x)

    def guide(x):
        with pyro.plate("documents", len(x)):
            pyro.sample("topics", dist.Dirichlet(alpha + 0.9 * x))

    found = diagnose(model, guide, x)
    assert not found.faults, found
    said = [fact for fact in found.facts if "not compared" in fact]
    assert compared is None or bool(said) != compared
    assert not said or "close to the edge of their support" in said[0]


def scaled(on_model, on_guide, only=("z", "x")):
    class ScaledModel(Model):
        def forward(self, x):
            with pyro.plate("data", len(x)):
                with poutine.scale(scale=on_model if "z" in only else 1.0):
                    z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                with poutine.scale(scale=on_model if "x" in only else 1.0):
                    self.observe(self.net(z), x)

    class ScaledGuide(Guide):
        def sample(self, loc, scale):
            with poutine.scale(scale=on_guide):
                super().sample(loc, scale)

    torch.manual_seed(0)
    return ScaledModel(), ScaledGuide(), data()


@pytest.mark.parametrize("scale", [0.01, 7.0, torch.tensor(0.1), torch.linspace(0.5, 2, 64)])
@pytest.mark.parametrize("loss", ["auto", "Trace_ELBO"])
def test_one_scale_on_every_site_is_a_fact(scale, loss):
    found = diagnose(*scaled(scale, scale), loss=loss)
    if isinstance(scale, torch.Tensor) and scale.ndim:
        # The smaller part of the batch, which is tried too, does not fit such weights.
        assert all("runs with 64 data and not with 16" in fault for fault in found.faults), found
    else:
        assert not found.faults + found.notes, found
    assert any(fact.startswith("scale: ") for fact in found.facts)


@pytest.mark.parametrize("weight", [0.1, torch.tensor(4.0)])
def test_a_kl_weight_is_a_note(weight):
    found = diagnose(*scaled(weight, weight, only=("z",)))
    assert not found.faults, found
    assert len(found.notes) == 1
    assert f"{float(weight):g} on 'z', 1 on 'x'" in found.notes[0]


def test_a_scale_in_one_program_alone_is_a_fault():
    for scales, text in (((0.1, 1.0), "1 in the guide and 0.1"), ((1.0, 3.0), "3 in the guide")):
        (fault,) = diagnose(*scaled(*scales)).faults
        assert text in fault
        assert "no KL" in fault


def test_checks_that_come_later_run_after_a_fault():
    class Scaled(Guide):
        def encode(self, x):
            loc, scale = super().encode(x)
            return loc.detach(), scale.detach()

        def sample(self, loc, scale):
            z = dist.TransformedDistribution(dist.Normal(loc, scale), [Scaling(0.25)])
            return pyro.sample("z", z.to_event(1))

    faults = diagnose(Model(), Scaled(), data()).faults
    assert len(faults) == 2
    assert "gets no gradient" in faults[0]
    assert "nats too low" in faults[1]


class Largest(TorchDispatchMode):
    """Notes the largest tensor that is made."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.untyped_storage().nbytes() // 4)
        return out


def wide(dim):
    torch.manual_seed(0)
    encoder, decoder = torch.nn.Linear(3, dim), torch.nn.Linear(dim, 3)

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(dim), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(encoder(x), 1.0).to_event(1))

    return model, guide, torch.randn(8, 3)


def test_memory_has_a_bound(monkeypatch):
    # A matrix of 3000 × 3000 for each of 2 data would be 18 million numbers.
    monkeypatch.setattr(consistency, "_NUMBERS", 2**22)
    with Largest() as largest:
        found = diagnose(*wide(3000))
    assert not found.faults
    assert not any("not compared" in fact for fact in found.facts)
    assert 2**20 < largest.numel < 10**7


def test_what_is_not_compared_is_said(monkeypatch):
    monkeypatch.setattr(consistency, "_NUMBERS", 2**16)
    facts = diagnose(*wide(100)).facts
    assert any("not compared with their samples: a datum has 100 latent" in fact for fact in facts)
    monkeypatch.setattr(consistency, "_NUMBERS", 2**24)
    monkeypatch.setattr(consistency, "_SECONDS", 0.0)
    facts = diagnose(*wide(100)).facts
    assert any("1024 samples of one datum would take about" in fact for fact in facts)


@pytest.mark.parametrize("shift", [-1.5, 1.5])
def test_many_coordinates_without_a_covariance(shift):
    torch.manual_seed(0)
    q = dist.Normal(torch.linspace(-1, 1, 60), torch.linspace(0.1, 3, 60)).to_event(1)
    excess = consistency._excess(q.sample([1024, 8]), lambda u: q.log_prob(u) + shift)
    assert max(excess) == pytest.approx(1.5, abs=0.5)


def test_coordinates_that_are_not_counted_do_not_matter():
    torch.manual_seed(0)
    u = torch.randn(1024, 4, 3)
    u[..., 1] = u[..., 0] + 100 * torch.randn(1024, 4)
    counted = torch.tensor([True, False, True]).expand(4, 3)
    log_q = lambda u: dist.Normal(0.0, 1.0).log_prob(u[..., [0, 2]]).sum(-1)  # noqa: E731
    low, high = consistency._excess(u, log_q, counted)
    assert max(abs(low), abs(high)) < 0.1
    wrong = consistency._excess(u, lambda u: log_q(u) + 2, counted)
    assert max(wrong) == pytest.approx(2, abs=0.1)


def test_a_guide_with_a_deterministic_site_is_right_and_trains():
    class Named(Guide):
        def sample(self, loc, scale):
            super().sample(pyro.deterministic("loc", loc, event_dim=1), scale)

    pair = Model(), Named()
    found = diagnose(*pair, data())
    assert not found.faults + found.notes, found
    assert "objective: Trace_ELBO" in found.facts
    history = pvae.fit(*pair, data(), epochs=30, batch_size=64, lr=0.03, progress=False).history
    assert history[-1]["elbo"] > history[0]["elbo"] + 0.5
    assert math.isfinite(history[-1]["elbo"])
    with pytest.raises(pvae.PvaeError, match=r"cannot take a guide with the site 'loc'"):
        pvae.fit(*pair, data(), batch_size=64, loss="TraceMeanField_ELBO", progress=False)
    (fault,) = diagnose(*pair, data(), loss="TraceMeanField_ELBO").faults
    assert "'loc'" in fault


def test_a_continuous_site_is_not_to_be_enumerated():
    class Angles(Model):
        def forward(self, x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.VonMises(torch.zeros(2), 1.0).to_event(1))
                self.observe(self.net(z), x)

    class Turns(Guide):
        def sample(self, loc, scale):
            pyro.sample("z", dist.VonMises(loc, scale).to_event(1))

    found = diagnose(Angles(), Turns(), data())
    assert not found.faults, found
    (note,) = found.notes
    assert "score function" in note
    assert "enumerate" not in note


def straight_through(temperature=0.7):
    """A relaxed one-hot whose corner the decoder sees, in both programs: a right pair."""
    torch.manual_seed(0)
    encoder, decoder = torch.nn.Linear(6, 3), torch.nn.Linear(3, 6)
    relaxed = dist.RelaxedOneHotCategoricalStraightThrough

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", relaxed(torch.tensor(temperature), torch.ones(3) / 3))
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", relaxed(torch.tensor(temperature), logits=encoder(x)))

    def exact(x):
        parts = dist.Normal(decoder(torch.eye(3)), 1.0).log_prob(x[:, None]).sum(-1)
        return (parts.logsumexp(-1) - math.log(3)).detach()

    return model, guide, data(), exact


def test_a_straight_through_pair_mixes_nothing_and_its_bound_is_right():
    model, guide, x, exact = straight_through()
    found = diagnose(model, guide, x)
    assert not found.faults, found
    assert any("not compared with their samples: Latent site 'z'" in fact for fact in found.facts)
    for strategy in ("plate", "tile", "loop"):
        num = 4000 if strategy != "loop" else 300
        log_w = pvae.log_weights(model, guide, x, num_samples=num, strategy=strategy).double()
        l_k = log_w.logsumexp(0) - math.log(num)
        error = (log_w - l_k).exp().std(0) / num**0.5
        assert ((l_k - exact(x)).abs() < 6 * error + 1e-3).all()
    # In chunks too, whose draws are cut out of larger ones.
    evaluation = evaluate(model, guide, x, num_samples=4000, memory=0.5, ais=8, progress=False)
    l_k = torch.tensor(evaluation.log_px)
    assert ((l_k - exact(x)).abs() < 0.2).all()
    assert "a function of other draws" in evaluation.missing["ais_prior"]


def test_a_site_that_is_a_function_of_another_in_both_programs():
    torch.manual_seed(0)
    encoder = torch.nn.Linear(6, 2)

    def model(x):
        with pyro.plate("data", len(x)):
            e = pyro.sample("e", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            z = pyro.sample("z", dist.Delta(2 * e, event_dim=1))
            loc = z.sum(-1, keepdim=True).expand(*z.shape[:-1], 6)
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            e = pyro.sample("e", dist.Normal(0.1 * encoder(x), 1.2).to_event(1))
            pyro.sample("z", dist.Delta(2 * e, event_dim=1))

    assert not diagnose(model, guide, data()).faults
    covariance = torch.eye(6) + 8 * torch.ones(6, 6)
    exact = dist.MultivariateNormal(torch.zeros(6), covariance).log_prob(data())
    log_w = pvae.log_weights(model, guide, data(), num_samples=40_000).double()
    l_k = log_w.logsumexp(0) - math.log(len(log_w))
    error = (log_w - l_k).exp().std(0) / len(log_w) ** 0.5
    assert ((l_k - exact).abs() < 6 * error).all()
    assert error.median() < 0.1
