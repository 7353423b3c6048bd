"""check() says in plain words what is wrong with a pair."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pvae
from pvae import PvaeError, check

SIDE = torch.zeros(4, 3)


def _model(x, latent=2, event=1, site="z"):
    with pyro.plate("data", len(x)):
        z = pyro.sample(site, dist.Normal(torch.zeros(latent), 1.0).to_event(event))
        loc = z.sum(-1, keepdim=True).expand(*z.shape[:-1], x.shape[-1])
        pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)


def _guide(x, latent=2, site="z"):
    with pyro.plate("data", len(x)):
        pyro.sample(site, dist.Normal(torch.zeros(len(x), latent), 1.0).to_event(1))


def test_a_right_pair_passes_and_leaves_no_trace():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    structure = check(_model, _guide, SIDE)
    assert torch.equal(torch.get_rng_state(), before)
    assert (structure.latent, structure.observed, structure.max_plate_nesting) == (
        ("z",),
        ("x",),
        1,
    )
    assert structure.caveat is None


def test_sites_that_do_not_match_are_both_listed():
    with pytest.raises(
        PvaeError, match=r"do not match.*'code'.*'z'.*_model: 'z'.*_guide_named: 'code'"
    ):
        check(_model, _guide_named, SIDE)


def _guide_named(x):
    _guide(x, site="code")


def test_wrong_event_shape_of_the_guide():
    def wide(x):
        _guide(x, latent=5)

    with pytest.raises(PvaeError, match=r"'z'.*event shape \(5,\).*\(2,\).*latent_dim"):
        check(_model, wide, SIDE)


def test_wrong_event_shape_that_breaks_the_decoder_is_still_named():
    decoder = nn.Linear(2, 3)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)

    def wide(x):
        _guide(x, latent=5)

    with pytest.raises(PvaeError, match=r"'z'.*event shape \(5,\).*\(2,\)"):
        check(model, wide, SIDE)


def test_forgotten_to_event_in_the_guide():
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0))

    with pytest.raises(PvaeError, match=r"'z'.*to_event"):
        check(_model, guide, SIDE)


def test_forgotten_to_event_in_the_model():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True), 1.0), obs=x)

    with pytest.raises(PvaeError, match=r"'x'.*to_event"):
        check(model, _guide, SIDE)


def test_forgotten_plate():
    def model(x):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True), 1.0).expand((4, 3)).to_event(1),
                    obs=x)  # fmt: skip

    def guide(x):
        pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))

    with pytest.raises(PvaeError, match=r"there is no plate at dim -1.*pyro\.plate\(\"data\""):
        check(model, guide, SIDE)


def test_nothing_observed():
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    with pytest.raises(PvaeError, match=r"observes nothing.*obs=x"):
        check(model, _guide, SIDE)


def test_observed_in_the_model_and_sampled_in_the_guide():
    def guide(x):
        _guide(x)
        with pyro.plate("more", len(x)):
            pyro.sample("x", dist.Normal(x, 1.0).to_event(1))

    with pytest.raises(PvaeError, match="'x' is observed in the model and sampled in the guide"):
        check(_model, guide, SIDE)


def test_observed_value_of_another_shape():
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(torch.zeros(12), 1.0).to_event(1), obs=x)

    with pytest.raises(PvaeError, match=r"'x'.*\(4, 3\).*event shape \(12,\)"):
        check(model, _guide, SIDE)


def test_site_outside_the_batch_plate():
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(torch.zeros(4, 3), 1.0).to_event(2), obs=x)

    check(model, _guide, SIDE)  # Pyro can train it
    with pytest.raises(PvaeError, match="'x' stands outside the batch plate 'data'"):
        pvae.log_weights(model, _guide, SIDE, num_samples=2)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_data_that_is_not_finite(bad):
    x = SIDE.clone()
    x[2, 1] = bad
    with pytest.raises(PvaeError, match=r"NaN or infinite values in 1 of 4 rows.*row 2"):
        check(_model, _guide, x)


@pytest.mark.parametrize(("batch", "said"), [((), "nothing"), (("x",), "str")])
def test_a_batch_that_is_none(batch, said):
    with pytest.raises(PvaeError, match=said):
        check(_model, _guide, *batch)


def test_empty_batch():
    with pytest.raises(PvaeError, match=r"shape \(0, 3\): there is no datum"):
        check(_model, _guide, torch.zeros(0, 3))


def _bernoulli_pair():
    model = pvae.models.VAE((1, 8, 8), latent_dim=2, hidden_dims=[8])
    return model, pvae.guides.MeanField((1, 8, 8), latent_dim=2, hidden_dims=[8])


def test_grey_values_under_a_bernoulli_are_not_a_likelihood():
    structure = check(*_bernoulli_pair(), torch.rand(4, 1, 8, 8))
    assert "not a likelihood" in structure.caveat
    assert check(*_bernoulli_pair(), torch.rand(4, 1, 8, 8).round()).caveat is None


def test_values_outside_the_support():
    with pytest.raises(PvaeError, match=r"'x': observed values between -2 and .* outside"):
        check(*_bernoulli_pair(), torch.full((4, 1, 8, 8), -2.0))


def test_wrong_image_shape():
    with pytest.raises(PvaeError, match=r"MeanField.*events of shape \(1, 8, 8\).*\(4, 1, 9, 9\)"):
        check(*_bernoulli_pair(), torch.zeros(4, 1, 9, 9))


def test_integer_images_are_a_message_not_a_stack_trace():
    with pytest.raises(PvaeError, match="MeanField failed"):
        check(*_bernoulli_pair(), torch.zeros(4, 1, 8, 8, dtype=torch.uint8))


def test_an_error_in_a_users_program_names_its_line():
    def model(x):
        raise ZeroDivisionError("oops")

    with pytest.raises(PvaeError, match=r"test_check.py:\d+\): ZeroDivisionError: oops"):
        check(model, _guide, SIDE)


@pytest.mark.parametrize("seed", range(4))
def test_a_support_that_the_latents_decide_is_no_fault(seed):
    """A weight of zero is a weight; a support that is fixed is one that the data must keep to."""

    def model(x, moves=True):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([len(x)]))
            low = z if moves else torch.zeros_like(z)
            pyro.sample("x", dist.Uniform(low - 0.5, low + 0.5, validate_args=False), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 0.4))

    torch.manual_seed(seed)
    x = torch.randn(20)
    check(model, guide, x)
    with pytest.raises(PvaeError, match=r"lie outside the support \(Interval\) of Uniform"):
        check(lambda x: model(x, moves=False), guide, x)


def continuous(x, likelihood="gaussian", dtype=torch.float32):
    x = x.to(dtype)
    model = pvae.models.VAE(tuple(x.shape[1:]), 2, likelihood=likelihood, hidden_dims=[4])
    guide = pvae.guides.MeanField(tuple(x.shape[1:]), 2, hidden_dims=[4])
    return check(model.to(dtype), guide.to(dtype), x).caveat


def digits_as(observation):
    return pvae.data.load("digits", observation=observation).test.observe(slice(0, 64))[0]


@pytest.mark.parametrize(
    ("x", "steps"),
    [
        (lambda: digits_as("threshold"), "2 values in steps of 1;"),
        (lambda: digits_as("grey"), "17 values in steps of 0.0625;"),
        (lambda: digits_as("counts"), "17 values in steps of 1;"),
        (lambda: torch.randint(0, 256, (64, 50)) / 255, "values in steps of 0.00392;"),
        (lambda: 2.0 * torch.randint(0, 2, (16, 3)) - 1, "2 values in steps of 2;"),
    ],
    ids=["binary", "grey", "counts", "bytes", "plus and minus one"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_density_on_values_in_steps_is_labelled(x, steps, dtype):
    torch.manual_seed(0)
    caveat = continuous(x(), dtype=dtype)
    assert caveat.startswith("not a likelihood: site 'x' has a Normal density")
    assert steps in caveat


def test_a_density_on_measured_values_is_not_labelled():
    torch.manual_seed(0)
    normal = torch.randn(64, 5)
    for x in (normal, digits_as("dequantize"), torch.zeros(64, 5), normal.exp(), normal[:1]):
        assert continuous(x) is None
    few = torch.tensor([0.1, 0.237, 0.5, 1.71])[torch.randint(0, 4, (64, 5))]
    assert continuous(few) is None  # values that repeat, in no steps
    assert continuous(digits_as("threshold"), "bernoulli") is None
    assert continuous(digits_as("counts"), "poisson") is None


def test_a_continuous_bernoulli_is_a_density_too():
    assert "ContinuousBernoulli density" in continuous(digits_as("grey"), "continuous_bernoulli")
    assert continuous(digits_as("dequantize"), "continuous_bernoulli") is None
