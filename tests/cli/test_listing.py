"""`pvae list`: guides that go with models, objectives, and the options of one name."""

import pyro
import pytest
import torch
import zoo

import pvae
from pvae.cli import main
from pvae.cli.listing import TOGETHER, guides_of
from pvae.pair import latent_sites


def _run(capsys, *argv):
    code = main(["list", *argv])
    return code, " ".join(capsys.readouterr().out.split())


def test_every_model_has_a_guide_and_every_guide_a_model():
    models, guides = zip(*TOGETHER, strict=True)
    assert {name for some in models for name in some} == set(pvae.models.__all__)
    assert {name for some in guides for name in some} == set(pvae.guides.__all__)


def test_the_pairs_of_the_zoo_are_listed():
    for name in zoo.ZOO | zoo.GIVEN | zoo.GIVEN_TEXT | zoo.GIVEN_MASKS:
        model, guide, _ = zoo.make(name)
        assert type(guide).__name__ in guides_of(type(model).__name__), name


def test_listed_guides_have_the_models_latent_sites():
    """Of the models and guides that are called with x alone and have one size of the code."""
    x = torch.zeros(2, *zoo.SHAPE)
    sites, models, guides = {}, {}, {}
    for name, (_, observation) in zoo.ZOO.items():
        if observation == "dynamic":
            model, guide, _ = zoo.make(name)
            models[type(model).__name__] = model
            guides[type(guide).__name__] = guide
    for name, program in (models | guides).items():
        with torch.no_grad():
            trace = pyro.poutine.trace(program).get_trace(x)
        shapes = {n: tuple(s["value"].shape) for n, s in latent_sites(trace).items()}
        sites[name] = shapes
    several = ["VAE", "MixturePriorVAE", "FlowPriorVAE", "VampPriorVAE", "PixelVAE", "Autoencoder"]
    for model in several:
        for guide in guides_of(model):
            if guide in sites and guide != "ContractiveCode":
                assert sites[guide] == sites[model], (model, guide)
    assert sites["BottomUp"] == sites["HierarchicalVAE"] != sites["VAE"]


def test_objectives_are_listed(capsys):
    _, said = _run(capsys)
    assert "objectives (--loss): Beta_ELBO The ELBO with a weight on the KL divergence." in said
    assert "TraceMeanField_ELBO" in said
    assert "HierarchicalVAE: BottomUp, Ladder" in said


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("VampPriorVAE", ["guides: MeanField,", "SharedEncoder options", "--model.latent_dim"]),
        ("NoLatents", ["models: MADE,", "options of `pvae run --guide NoLatents`: none"]),
        ("Beta_ELBO", ["`pvae run --loss Beta_ELBO`", "--loss.beta BETA β, a number"]),
        ("digits", ["digits: scikit-learn's digits, dynamic", "--data.validation"]),
    ],
)
def test_a_name_is_listed_with_its_options(capsys, name, texts):
    code, said = _run(capsys, name)
    assert not code
    assert all(text in said for text in texts)
    assert "--help" not in said


def test_a_wrong_name_gets_the_nearest(capsys):
    assert main(["list", "IFA"]) == 2
    assert "There is no IFA to list. Did you mean IAF?" in capsys.readouterr().err
