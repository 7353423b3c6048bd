"""The ladder: precisions add up, networks are the model's, free bits keep layers awake."""

import copy

import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO

import pvae
from pvae import PvaeError
from pvae.cli.main import main
from pvae.guides import Ladder, MeanField
from pvae.models import VAE, HierarchicalVAE
from pvae.objectives import FreeBits_ELBO

SHAPE = (1, 8, 8)


def ladder(sizes=(4, 3), hidden=((16, 12), (10,)), seed=0):
    torch.manual_seed(seed)
    model = HierarchicalVAE(SHAPE, sizes, hidden, activation="relu")
    return model, Ladder(SHAPE, model)


def test_a_layer_is_the_product_of_what_the_data_say_and_what_the_model_expects():
    model, guide = ladder((4, 3, 2), ((16,), (10,), (8,)))
    x = torch.rand(5, *SHAPE)
    nodes = poutine.trace(guide).get_trace(x).nodes
    evidence = guide.encode(x)
    top = nodes["z_3"]["fn"].base_dist
    torch.testing.assert_close((top.loc, top.scale), evidence[2])
    for layer in (1, 2):
        q = nodes[f"z_{layer}"]["fn"]
        p = model.conditional(layer, nodes[f"z_{layer + 1}"]["value"])
        z = torch.randn(7, *q.mean.shape)  # the ratio is the same everywhere
        product = dist.Normal(*evidence[layer - 1]).to_event(1).log_prob(z) + p.log_prob(z)
        constant = q.log_prob(z) - product
        torch.testing.assert_close(constant, constant[:1].expand(7, -1), rtol=1e-4, atol=1e-4)


def test_one_layer_is_the_mean_field():
    _, guide = ladder((4,), ((16,),))
    x = torch.rand(5, *SHAPE)
    mean_field = MeanField(SHAPE, 4, hidden_dims=(16,))
    own = list(guide.parameters())
    assert len(own) == len(list(mean_field.parameters()))
    for ours, theirs in zip(own, mean_field.parameters(), strict=True):
        theirs.data.copy_(ours.data)
    (loc, scale), expected = guide.encode(x)[0], mean_field.encode(x)
    torch.testing.assert_close(loc, expected[0])
    torch.testing.assert_close(scale, expected[1], rtol=1e-3, atol=0)


def test_the_models_networks_get_gradients_through_the_guide_and_are_saved_once():
    model, guide = ladder()
    assert not any(p is q for p in guide.parameters() for q in model.parameters())
    x = torch.rand(5, *SHAPE)
    log_q = poutine.trace(guide).get_trace(x).nodes["z_1"]["fn"].log_prob(torch.ones(5, 4))
    grads = torch.autograd.grad(log_q.sum(), list(model.upper.parameters()))
    assert all(grad.abs().sum() > 0 for grad in grads)

    before = copy.deepcopy(model.state_dict())
    svi = pvae.SVI(model, guide, torch.optim.Adam, Trace_ELBO(), mode="eager")
    svi.step(x.round())
    assert all(not torch.equal(before[name], p) for name, p in model.named_parameters())
    mine = {name for name, _ in guide.named_parameters()}
    assert not any("upper" in name or "model" in name for name in mine)


def test_a_run_from_the_shell_comes_back(tmp_path):
    run = tmp_path / "run"
    sizes = ["--model.latent_dims", "[4, 3]", "--model.hidden_dims", "[[16], [8]]"]
    names = ["--model", "HierarchicalVAE", "--guide", "Ladder"]
    options = ["--epochs", "1", "--mode", "eager", "--progress", "false", "--out", str(run)]
    assert main(["train", *names, *sizes, *options]) == 0
    model, guide = pvae.load(run)
    assert guide.__dict__["model"] is model
    assert model.latent_dims == (4, 3)
    assert [tuple(head.out_shape) for head in guide.heads] == [(2, 4), (2, 3)]
    x = pvae.data.load("digits").test.x[:10]
    assert pvae.log_weights(model, guide, x, num_samples=2).isfinite().all()


def test_free_bits_keep_both_layers_awake():
    data = pvae.data.load("digits")
    found = {}
    for free_bits in (0.0, 2.0):
        model, guide = ladder(hidden=((32,), (16,)))
        loss = FreeBits_ELBO(free_bits=free_bits)
        pvae.fit(model, guide, data, epochs=12, loss=loss, mode="eager", lr=3e-3, progress=False)
        found[free_bits] = pvae.evaluate(model, guide, data, num_samples=20, progress=False)
    assert all(site["kl"] > 1 for site in found[2.0].sites.values())
    assert found[0.0].sites["z_2"]["kl"] < 0.1
    units = {key: result.summary()["active_units"] for key, result in found.items()}
    assert units[2.0] > units[0.0]


def test_bad_arguments():
    with pytest.raises(PvaeError, match="and VAE has none: use HierarchicalVAE"):
        Ladder(SHAPE, VAE(SHAPE))
    model = HierarchicalVAE(SHAPE, (4, 3), ((16,), (8,)))
    for wrong in (((8,),), ((8,), ())):
        with pytest.raises(PvaeError, match="one width or more for each of the model's 2 layers"):
            Ladder(SHAPE, model, hidden_dims=wrong)
    with pytest.raises(PvaeError, match="activation='gelu'"):
        Ladder(SHAPE, HierarchicalVAE(SHAPE, (4,), ((16,),)), network="conv", activation="gelu")
    with pytest.raises(PvaeError, match="network='resnet'"):
        Ladder(SHAPE, model, network="resnet")
