"""Stages: frozen parts, and parameters from another run."""

import pytest
import torch
from pyro.infer import Trace_ELBO

import pvae
from pvae import guides, models
from pvae.errors import PvaeError
from pvae.training import freeze

SHAPE, DENSE = (1, 8, 8), {"latent_dim": 3, "hidden_dims": [16]}
NETWORK = {"channels": (4, 4), "num_blocks": 1}


def vae(model=models.VAE, **options):
    torch.manual_seed(0)
    return model(SHAPE, **DENSE, **options), guides.MeanField(SHAPE, **DENSE)


def quantised():
    torch.manual_seed(0)
    model = models.VQVAE(SHAPE, num_codes=5, code_dim=2, **NETWORK)
    return model, guides.NearestCode(model, SHAPE, **NETWORK)


def state(*modules):
    return [t.clone() for module in modules for t in module.state_dict().values()]


def same(before, *modules):
    return all(map(torch.equal, before, state(*modules)))


@pytest.mark.parametrize("mode", ["eager", "compiled"])
def test_a_frozen_part_does_not_move(mode, capsys, recwarn):
    model, guide = vae()
    guide.requires_grad_(False)
    model.decoder.layers[0].requires_grad_(False)
    fixed, moving = (guide, model.decoder.layers[0]), model.decoder.layers[2]
    before, other = state(*fixed), state(moving)
    options = {"epochs": 2, "mode": mode, "batch_size": 500}
    fitted = pvae.fit(model, guide, pvae.data.load("digits"), **options)
    assert same(before, *fixed)
    assert not same(other, moving)
    assert fitted.frozen == ("model.decoder.layers.0", "guide")
    assert fitted.num_parameters == sum(p.numel() for p in moving.parameters())
    assert (
        capsys.readouterr().err.count("Frozen, and not trained: model.decoder.layers.0, guide.")
        == 1
    )
    assert not [w for w in recwarn if "registered" in str(w.message)]


def test_svi_follows_what_is_frozen_and_released():
    model, guide = vae()
    svi = pvae.SVI(model, guide, torch.optim.Adam, Trace_ELBO(), mode="eager")
    x = torch.rand(20, *SHAPE).round()
    for frozen in (False, True, False):
        guide.requires_grad_(not frozen)
        guide.train(not frozen)
        before, other = state(guide), state(model)
        svi.step(x)
        assert same(before, guide) == frozen
        assert not same(other, model)


@pytest.mark.parametrize("part", ["encoder", "model"])
def test_the_codebook_of_a_frozen_part_stands_still(part):
    model, guide = quantised()
    digits = pvae.data.load("digits")
    pvae.fit(model, guide, digits, epochs=1, progress=False)
    (guide.encoder if part == "encoder" else model).requires_grad_(False)
    before = state(model.codebook)
    pvae.fit(model, guide, digits, epochs=1, progress=False)
    assert same(before, model.codebook)
    (guide.encoder if part == "encoder" else model).requires_grad_(True)
    pvae.fit(model, guide, digits, epochs=1, progress=False)
    assert not same(before, model.codebook)


def test_a_frozen_run_resumes_as_if_it_had_not_stopped(tmp_path):
    def train(epochs, out, resume=False, frozen=True):
        model, guide = vae()
        guide.requires_grad_(not frozen)
        options = {"schedule": "constant", "progress": False, "resume": resume, "out": out}
        pvae.fit(model, guide, pvae.data.load("digits"), epochs=epochs, **options)
        return state(model, guide)

    whole = train(2, tmp_path / "whole")
    train(1, tmp_path / "part")
    with pytest.raises(PvaeError, match=r"frozen \('guide',\) → \(\)"):
        train(2, tmp_path / "part", resume=True, frozen=False)
    with pytest.warns(UserWarning, match="continues to 2"):
        again = train(2, tmp_path / "part", resume=True)
    assert all(map(torch.equal, whole, again))


def test_nothing_left_to_train_is_said():
    model, guide = vae()
    model.requires_grad_(False)
    guide.requires_grad_(False)
    with pytest.raises(PvaeError, match="All parameters of the pair are frozen"):
        pvae.fit(model, guide, pvae.data.load("digits"), epochs=1, progress=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "vae"
    pvae.fit(*vae(), pvae.data.load("digits"), epochs=1, out=folder, progress=False)
    return folder


def test_a_pair_with_more_parts_starts_from_a_run(run):
    model, guide = vae(models.FlowPriorVAE, flow_hidden_dims=[8])
    flow = [n for n in model.state_dict() if not n.startswith(("decoder", "head"))]
    new = {n: model.state_dict()[n].clone() for n in flow}
    taken = pvae.warm_start(model, guide, run)
    trained, _ = pvae.load(run)
    assert same(state(trained.decoder), model.decoder)
    assert all(torch.equal(model.state_dict()[n], value) for n, value in new.items())
    assert {n.partition(".")[0] for n in taken} == {"model", "guide"}
    assert not any(f"model.{n}" in taken for n in flow)


def test_a_run_of_other_sizes_or_another_pair_is_one_message(run):
    torch.manual_seed(0)
    sizes = {"latent_dim": 4, "hidden_dims": [16]}
    model, guide = models.VAE(SHAPE, **sizes), guides.MeanField(SHAPE, **sizes)
    before = state(model, guide)
    with pytest.raises(PvaeError) as found:
        pvae.warm_start(model, guide, run)
    said = str(found.value)
    assert "model.decoder.layers.0.weight has shape (16, 3) there and (16, 4) here" in said
    assert "What fits: model.decoder.layers.0.bias, model.decoder.layers.2, guide" in said
    assert same(before, model, guide), "nothing is changed"
    with pytest.raises(PvaeError, match="no name is in both"):
        pvae.warm_start(models.PPCA(SHAPE, latent_dim=2), guides.NoLatents(), run)


def test_freeze_by_name():
    model, guide = vae()
    freeze(model, guide, ["model.decoder.layers.2", "guide"])
    assert [p.requires_grad for p in model.decoder.parameters()] == [True, True, False, False]
    assert not any(p.requires_grad for p in guide.parameters())
    with pytest.raises(PvaeError, match=r"freeze='model.decodr': no parameter .* model.decoder"):
        freeze(model, guide, ["model.decodr"])


def test_a_prior_starts_from_a_run_of_its_own(tmp_path):
    pair = quantised()
    digits = pvae.data.load("digits")
    pvae.fit(*pair, digits, epochs=1, out=tmp_path / "vq", progress=False)
    codes = pvae.codes(tmp_path / "vq")
    sizes = {"channels": 8, "num_layers": 2, "likelihood": "categorical", "levels": 5}

    def density():
        return models.GatedPixelCNN(codes.event_shape, **sizes), guides.NoLatents()

    alone = density()
    pvae.fit(*alone, codes, epochs=1, out=tmp_path / "prior", progress=False)
    model = models.VQVAE(SHAPE, num_codes=5, code_dim=2, prior=density()[0], **NETWORK)
    guide = guides.NearestCode(model, SHAPE, **NETWORK)
    for run in ("vq", "prior"):
        pvae.warm_start(model, guide, tmp_path / run)
    assert same(state(alone[0]), model.code_prior.density)
    assert same(state(pair[0].codebook, pair[0].decoder), model.codebook, model.decoder)
    with pytest.raises(PvaeError, match="no name is in both"):
        pvae.warm_start(*vae(), tmp_path / "prior")


def test_no_epoch_only_writes_the_pair(tmp_path):
    pair = vae()
    before = state(*pair)
    assert pvae.fit(*pair, pvae.data.load("digits"), epochs=0, out=tmp_path).history == []
    assert same(before, *pvae.load(tmp_path))
    longer = {"epochs": 1, "out": tmp_path, "resume": True, "progress": False}
    assert len(pvae.fit(*vae(), pvae.data.load("digits"), **longer).history) == 1
