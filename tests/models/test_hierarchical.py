"""Chains of codes: the networks of Burda et al., an exact chain, every way to evaluate."""

import itertools

import pytest
import torch
from chains import BOTTOM, NOISE, linear_chain, set_linear
from pyro import poutine
from pyro.infer import Trace_ELBO

import pvae
from pvae import PvaeError
from pvae.guides import BottomUp, Ladder
from pvae.models import VAE, HierarchicalVAE

SHAPE = (1, 8, 8)


def chain(guide="bottom_up", layers=2, network="dense", seed=0, **options):
    torch.manual_seed(seed)
    sizes, hidden = (4, 3, 2)[:layers], ((16, 12), (10,), (8, 8))[:layers]
    conv = {"network": network, "channels": (6, 4)}
    model = HierarchicalVAE(SHAPE, sizes, hidden, **conv, **options)
    conv["channels"] = (4, 6)
    if guide == "ladder":
        return model, Ladder(SHAPE, model, **conv)
    return model, BottomUp(SHAPE, sizes, hidden, **conv)


def weights(module):
    return {tuple(p.shape) for p in module.parameters() if p.ndim == 2}


def test_two_layers_are_those_of_burda_et_al():
    model, guide = HierarchicalVAE((1, 28, 28)), BottomUp((1, 28, 28))

    def linear(*sizes):  # the parameters of 784-200-200-(100, 100), say
        *hidden, last = sizes
        sizes = [*hidden, 2 * last]
        return sum(a * b + b for a, b in itertools.pairwise(sizes))

    up = linear(784, 200, 200, 100) + linear(100, 100, 100, 50)
    assert sum(p.numel() for p in guide.parameters()) == up
    down = linear(50, 100, 100, 100) + linear(100, 200, 200, 784) - (200 * 784 + 784)
    assert sum(p.numel() for p in model.parameters()) == down
    assert weights(guide) == {(200, 784), (200, 200), (100, 100), (100, 100)}
    for net in (model.decoder, *model.upper, *guide.encoders):
        kinds = [type(layer).__name__ for layer in net.layers]
        assert kinds == ["Linear", "Tanh", "Linear", "Tanh", "Linear"]
    trace = poutine.trace(guide).get_trace(torch.zeros(5, 1, 28, 28))
    assert trace.nodes["z_1"]["value"].shape == (5, 100)
    assert trace.nodes["z_2"]["value"].shape == (5, 50)


def test_one_layer_is_the_vae():
    torch.manual_seed(0)
    model = HierarchicalVAE(SHAPE, (5,), ((16, 12),))
    vae = VAE(SHAPE, 5, hidden_dims=(12, 16), activation="tanh")
    vae.load_state_dict(model.state_dict())
    x, z = torch.rand(3, *SHAPE).round(), torch.randn(3, 5)
    found = [
        poutine.trace(poutine.condition(m, {name: z})).get_trace(x).log_prob_sum()
        for m, name in ((model, "z_1"), (vae, "z"))
    ]
    torch.testing.assert_close(*found)


def bottom_up_posterior():
    model, x, exact, (_, noise), _ = linear_chain()
    guide = BottomUp((4,), (3, 3), ((), ()), activation="tanh").double()
    conditional = model.conditional(1, torch.zeros(3, dtype=torch.float64))
    shift, prior = conditional.mean.detach(), conditional.stddev.detach()
    slope = model.upper[0].layers[0].weight[:3].diagonal().detach()
    # p(z_1 | x): z_1 has the prior N(shift, slope² + prior²).
    spread = slope**2 + prior**2
    scale = (1 / spread + 1 / noise**2).rsqrt()
    square = BOTTOM.square().sum(1)
    gain = scale**2 / noise**2
    weight = (gain / square)[:, None] * BOTTOM
    bias = model.decoder.layers[0].bias.detach()
    loc = scale**2 * shift / spread - weight @ bias
    set_linear(guide.encoders[0], weight, loc, scale - 1e-6)
    scale = (1 + slope**2 / prior**2).rsqrt()
    weight = (scale**2 * slope / prior**2).diag()
    set_linear(guide.encoders[1], weight, -weight @ shift, scale - 1e-6)
    return model, guide, x, exact


def ladder_posterior():
    model, x, exact, seen, top = linear_chain()
    guide = Ladder((4,), model, hidden_dims=((4,), (4,))).double()
    found = [(seen[0], seen[1].expand_as(seen[0])), (top[0], top[1].expand_as(top[0]))]
    guide.encode = lambda x: found
    return model, guide, x, exact


@pytest.mark.parametrize("posterior", [bottom_up_posterior, ladder_posterior])
def test_at_the_posterior_of_a_linear_chain_every_weight_is_the_exact_likelihood(posterior):
    model, guide, x, exact = posterior()
    assert model.head.scale == NOISE
    log_w = pvae.log_weights(model, guide, x, num_samples=3, strategy="plate")
    torch.testing.assert_close(log_w, exact.expand(3, -1), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(
    ("guide", "layers", "network"),
    [
        ("bottom_up", 1, "dense"),
        ("bottom_up", 2, "conv"),
        ("bottom_up", 3, "dense"),
        ("ladder", 2, "dense"),
        ("ladder", 3, "conv"),
    ],
)
def test_trains_and_is_bounded_by_every_strategy(guide, layers, network):
    model, guide = chain(guide, layers, network)
    x = pvae.data.load("digits").test.x[:40]
    names = {f"z_{i}" for i in range(1, layers + 1)}
    assert set(pvae.check(model, guide, x).latent) == names
    fit = pvae.fit(model, guide, x, epochs=8, batch_size=20, lr=1e-2, mode="eager", progress=False)
    assert fit.history[-1]["elbo"] > fit.history[0]["elbo"]
    for num_samples, strategies in ((5, ("plate", "tile")), (1, ("plate", "loop"))):
        found = []  # with more than one sample, a loop draws in another order
        for strategy in strategies:
            torch.manual_seed(0)
            found.append(
                pvae.log_weights(model, guide, x, num_samples=num_samples, strategy=strategy)
            )
        torch.testing.assert_close(*found, rtol=1e-5, atol=1e-4)
    result = pvae.evaluate(model, guide, x, num_samples=20, progress=False)
    assert result.strategy == "plate"
    assert result.sites.keys() == names
    assert not result.missing
    assert (result.elbo <= result.log_px).all()
    assert pvae.generate(model, 3).shape == (3, *SHAPE)
    assert pvae.reconstruct(model, guide, x).shape == x.shape


@pytest.mark.parametrize("guide", ["bottom_up", "ladder"])
def test_compiled_steps_are_eager_steps(uncompiled, guide):
    x = pvae.data.load("digits").test.x[:20]
    losses = {}
    for mode in ("eager", "compiled"):
        pair = chain(guide)
        svi = pvae.SVI(*pair, torch.optim.Adam, Trace_ELBO(), mode=mode)
        torch.manual_seed(1)
        losses[mode] = [svi.step(x) for _ in range(4)]
    assert svi.compiled, svi.why_eager
    assert losses["compiled"] == pytest.approx(losses["eager"], rel=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"latent_dims": ()},
        {"latent_dims": (3,)},
        {"latent_dims": (3, 0)},
        {"hidden_dims": ((8,), (8,), (8,))},
    ],
    ids=str,
)
@pytest.mark.parametrize("program", [HierarchicalVAE, BottomUp])
def test_layers_and_widths_must_match(program, options):
    with pytest.raises(PvaeError, match="give a positive size for each layer"):
        program(SHAPE, **options)


def test_other_bad_arguments():
    with pytest.raises(PvaeError, match="network='resnet' is not valid: give 'dense' or 'conv'"):
        BottomUp(SHAPE, network="resnet")
    with pytest.raises(PvaeError, match="likelihood='gamma' is not valid: give bernoulli, "):
        HierarchicalVAE(SHAPE, likelihood="gamma")
    with pytest.raises(PvaeError, match="a layer without units"):
        HierarchicalVAE(SHAPE, (2, 2), ((8,), (0,)))
    with pytest.raises(PvaeError, match="at least 8×8 for 3 strided layers"):
        HierarchicalVAE((1, 6, 6), network="conv", channels=(8, 8, 8))
