"""What every pair of the package can do: be checked, trained, compiled, kept, and evaluated."""

import numpy as np
import pyro
import pytest
import torch
from asking import evaluate
from zoo import (
    EXPLICIT,
    GIVEN,
    GIVEN_FRAMES,
    GIVEN_MASKS,
    GIVEN_TEXT,
    PARTLY_LABELLED,
    ZOO,
    given,
    make,
)

import pvae
from pvae import guides, models
from pvae.objectives import choose_elbo
from pvae.pair import bind

ALL = [*ZOO, *GIVEN, *GIVEN_TEXT, *GIVEN_MASKS, *GIVEN_FRAMES]
POINTS = [name for name in ZOO if "autoencoder" in name]
DENSITIES = [
    *EXPLICIT,
    "PixelCNN given labels",
    "captions and codes",
    "two maps of codes",
    "classifier",
    "frame between two",
]  # without latent variables
EXACT = ["Gaussian mixture", *DENSITIES]  # nothing is left to draw
QUANTISED = [name for name in ALL if "VQ" in name]  # one discrete code for each datum
CATEGORICAL = ["categorical", "Gumbel-softmax", "straight-through"]
BOUNDED = [name for name in ALL if name not in POINTS]
OPTIONS = {"batch_size": 32, "lr": 3e-3, "mode": "eager", "progress": False}


def data(name, observation, size=96):
    """Returns x and what the model is given, as fields."""
    train = pvae.data.load("digits", observation=observation, labels=True).train
    x, y = train.observe(slice(0, size))
    x = x.unsqueeze(1) if "after a still" in name else x
    return pvae.data.as_data({"x": x} | given(name, y))


def same_state(ours, theirs):
    pairs = zip(ours, theirs, strict=True)
    return all(
        torch.equal(value, other)
        for a, b in pairs
        for value, other in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


def test_every_public_class_is_in_the_zoo():
    used = {type(program).__name__ for name in ALL for program in make(name)[:2]}
    public = {*models.__all__, *guides.__all__}
    assert used == public
    assert len(public) >= 22
    for module in (models, guides):
        assert all(getattr(module, name).__doc__.count("Source:") for name in module.__all__)


@pytest.mark.parametrize("name", [name for name in ALL if name != "classifier"])  # it has no p(x)
def test_generates_with_parameters_of_its_own(name):
    """Pyro's store, which goes by names, must not hand one model the values of another."""
    model, other = make(name)[0], make(name)[0]
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.1)
    known = {} if name == "image and label" else given(name, torch.arange(4))

    def draw(model):
        if name in GIVEN_MASKS:  # it completes data
            return pvae.generate(model, 4, torch.zeros(4, 1, 8, 8), known["mask"])
        torch.manual_seed(0)
        return model(size=4, **known)

    expected = draw(other)
    pyro.clear_param_store()
    draw(model)
    found = draw(other)
    assert found.shape == (4, *model.event_shape)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("name", ALL)
def test_learns_and_goes_on_where_it_stopped(name, tmp_path):
    *pair, observation = make(name)
    x = data(name, observation)
    pvae.check(*pair, x)
    run = pvae.fit(*pair, x, epochs=6, out=tmp_path / "whole", **OPTIONS)
    assert run.history[-1]["elbo"] > run.history[0]["elbo"]

    class Stop(Exception):
        pass

    *part, _ = make(name)
    calls = []

    def stop(*_):
        calls.append(1)
        if len(calls) > 3 * 3 + 1:  # three epochs, and a look at the parameters before them
            raise Stop

    hook = part[0].register_forward_pre_hook(stop)
    with pytest.raises(pvae.PvaeError, match="Stop"):
        pvae.fit(*part, x, epochs=6, out=tmp_path / "part", **OPTIONS)
    hook.remove()
    *again, _ = make(name)
    pvae.fit(*again, x, epochs=6, out=tmp_path / "part", resume=True, **OPTIONS)
    assert same_state(again, pair)
    *loaded, _ = make(name)
    pvae.load(tmp_path / "whole", model=loaded[0], guide=loaded[1])
    assert same_state(loaded, pair)


def steps(name, mode, num=4):
    *pair, observation = make(name)
    pair = [module.double() for module in pair]
    part, programs = bind(data(name, observation, 32 * num), *pair)
    batches = [
        [field.double() if field.is_floating_point() else field for field in batch]
        for batch in part.batches(32)
    ]
    elbo = choose_elbo("auto", pvae.check(*programs, *batches[0]))
    svi = pvae.SVI(*programs, torch.optim.Adam, elbo, mode=mode)
    torch.manual_seed(1)
    return [svi.step(*batch) for batch in batches], svi


@pytest.mark.parametrize("name", ALL)
@pytest.mark.filterwarnings("ignore:SVI runs eagerly")
def test_recorded_steps_are_eager_ones(name, uncompiled):
    if name in PARTLY_LABELLED:  # Pyro's sum under a mask is in the default type
        torch.set_default_dtype(torch.float64)
    try:
        expected, _ = steps(name, "eager")
        found, svi = steps(name, "compiled")
    finally:
        torch.set_default_dtype(torch.float32)
    assert svi.compiled, svi.why_eager
    assert found == pytest.approx(expected, rel=1e-9)


def test_compiled_steps_are_eager_ones(compiler):
    """Chains, flows and convolutions go through the compiler in training/test_same_numbers.py."""
    expected, _ = steps("VampPrior", "eager")
    found, svi = steps("VampPrior", "compiled")
    assert svi.compiled, svi.why_eager
    assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", BOUNDED)
@pytest.mark.parametrize("how", ["plate", "tile"])
def test_log_weights_by_every_strategy(name, how):
    """What a strategy gives is compared with single samples of the same draws, or refused."""
    model, guide, observation = make(name)
    log_w = pvae.log_weights(model, guide, data(name, observation, 5), num_samples=7, strategy=how)
    assert log_w.shape == (7, 5)
    assert log_w.isfinite().all()
    assert (log_w.std(0) > 0).all() == (name not in [*EXACT, *QUANTISED])


@pytest.mark.parametrize("name", ALL)
def test_every_estimator_applies(name):
    model, guide, observation = make(name)
    x = data(name, observation, 24)
    options = {"num_chains": 2, "num_temperatures": 10, "num_leapfrog": 1, "progress": False}
    found = evaluate(
        model, guide, x, num_samples=30, prior_samples=10, ais=2, bdmc=2, gap=2, hasty=True,
        **options,
    )  # fmt: skip
    if name in POINTS:
        assert np.isfinite(found.findings["ais_prior"].log_px).all()
        return
    assert np.isfinite(found.log_px).all()
    assert (found.log_px >= found.elbo - 1e-3).all()
    assert found.exact == (name in EXACT)
    assert found.strategy == "plate"
    if found.exact:
        missing = {"ais_prior", "ais_guide", "bdmc", *["gap"][: name in DENSITIES]}
        assert set(found.missing) == missing
        return
    if name in [*QUANTISED, *CATEGORICAL]:
        assert set(found.missing) == {"gap", *["ais_guide"][: name in QUANTISED]}
        assert np.isfinite(found.findings["ais_prior"].log_px).all()
        return
    if name in PARTLY_LABELLED:
        sampled = ["gap"] if "sampled" in name else []
        assert set(found.missing) == {"surgery", "bdmc", *sampled}
        assert len(found.findings["classifier"]) == 8
        return
    assert found.missing == {}
    usual = {"prior", "surgery", "ais_prior", "ais_guide", "bdmc", "gap"}
    assert set(found.findings) == usual | ({"inpainting"} if name in GIVEN_MASKS else set())
