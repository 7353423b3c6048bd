"""Images from text: captions and codes by one transformer, and the pair that draws with it."""

import itertools

import numpy as np
import pyro
import pytest
import torch

import pvae
from pvae import guides, models
from pvae.errors import PvaeError
from pvae.guides import NoLatents

V, L, K, SHAPE = 3, 2, 3, (1, 4, 8)
NETWORK = {"channels": (4, 4), "num_blocks": 1}
WORDS = torch.tensor(list(itertools.product(range(V), repeat=L)))
CODES = torch.tensor(list(itertools.product(range(K), repeat=2))).view(-1, 1, 2)


def density(num_codes=K, spread=0.4):
    torch.manual_seed(0)
    sizes = {"channels": 8, "num_layers": 2, "num_heads": 2}
    model = models.TextImageTransformer((1, 2), num_codes, num_words=V, length=L, **sizes)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += spread * torch.randn_like(parameter)
    return model


def pair(prior=None):
    sizes = {"num_codes": K, "code_dim": 2, **NETWORK}
    torch.manual_seed(0)
    model = models.VQVAE(SHAPE, **sizes) if prior is None else models.DALLE(SHAPE, prior, **sizes)
    return model, guides.NearestCode(model, SHAPE, **NETWORK)


def every():
    """Returns all captions, each with all codes, [81, ...]."""
    caption = WORDS.repeat_interleave(len(CODES), 0)
    return {"x": CODES.repeat(len(WORDS), 1, 1), "caption": caption}


def images(num=64):
    """Returns images whose left half is black in the captions of word 1, with noise."""
    draw = torch.Generator().manual_seed(1)
    caption = WORDS[torch.randint(len(WORDS), (num,), generator=draw)]
    x = (torch.rand(num, *SHAPE, generator=draw) < 0.1).float()
    x[..., :4] += (caption[:, 0] == 1).float()[:, None, None, None]
    return {"x": x.clamp(max=1), "caption": caption}


def test_captions_and_codes_sum_to_one_and_the_codes_given_a_caption_are_joint_less_marginal():
    model, data = density(), every()
    found = pvae.evaluate(model, NoLatents(), data, num_samples=1, estimators=[], progress=False)
    joint = torch.as_tensor(found.log_px).view(len(WORDS), len(CODES))
    assert joint.exp().sum().item() == pytest.approx(1, abs=1e-5)
    with torch.no_grad():
        marginal = model.captions().log_prob(WORDS).double()
        given = model.log_px(CODES, WORDS[:, None]).double()
    torch.testing.assert_close(joint.logsumexp(1), marginal, atol=1e-5, rtol=0)
    torch.testing.assert_close(joint - marginal[:, None], given, atol=1e-5, rtol=0)
    # The text matters, and so does every word of it.
    apart = (given[:, None] - given).abs().amax(-1) + torch.eye(len(WORDS))
    assert apart.min() > 0.01
    assert marginal.std() > 0.1


def test_the_bound_given_a_caption_is_below_log_p_of_x_given_it():
    model, guide = pair(density())
    data = images(16)
    x, caption = data["x"], data["caption"]
    found = pvae.evaluate(model, guide, data, num_samples=3, estimators=[], progress=False)
    with torch.no_grad():
        z = guide.eval()(x)
        z_all = torch.nn.functional.one_hot(CODES, K).float()
        log_px_z = model.eval().likelihood(z_all[:, None]).log_prob(x)
        log_pz = model.code_prior.density.log_px(CODES[:, None], caption)
        exact = (log_px_z + log_pz).logsumexp(0).double()
        bound = model.likelihood(z).log_prob(x)
        bound = (bound + model.code_prior.density.log_px(z.argmax(-1), caption)).double()
    torch.testing.assert_close(torch.as_tensor(found.elbo), bound, atol=1e-4, rtol=0)
    assert (bound <= exact + 1e-5).all()
    # p(z|c) is no constant: other captions give other bounds.
    other = data | {"caption": caption.flip(0)}
    again = pvae.evaluate(model, guide, other, num_samples=3, estimators=[], progress=False)
    assert abs(again.elbo - found.elbo).max() > 0.01


def test_samples_have_the_frequencies_that_log_p_says():
    model, num = density(), 4000
    with torch.no_grad():
        for given in (WORDS[5], WORDS[[5]].expand(num, -1)):
            share = counts(model(caption=given, size=num)) / num
            p = model.log_px(CODES, WORDS[5]).exp()
            assert ((share - p).abs() < 4.5 * (p * (1 - p) / num).sqrt() + 1e-3).all()
        trace = traced(model, num)
        place = trace["caption"] @ torch.tensor([V, 1])
        share = place.bincount(minlength=len(WORDS)) / num
        p = model.captions().log_prob(WORDS).exp()
        assert ((share - p).abs() < 4.5 * (p * (1 - p) / num).sqrt() + 1e-3).all()
        most = int(share.argmax())
        drawn = counts(trace["x"][place == most])
        p, total = model.log_px(CODES, WORDS[most]).exp(), drawn.sum()
        assert ((drawn / total - p).abs() < 4.5 * (p * (1 - p) / total).sqrt() + 2e-3).all()


def counts(codes):
    place = codes.flatten(1) @ torch.tensor([K, 1])
    return place.bincount(minlength=len(CODES))


def traced(model, num):
    nodes = pyro.poutine.trace(model).get_trace(size=num).nodes
    return {name: nodes[name]["value"] for name in ("caption", "x")}


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    """The pair of a VQ-VAE and of a transformer of its codes, these codes, and the images."""
    folder = tmp_path_factory.mktemp("runs")
    file, run = folder / "images.npz", folder / "vq"
    np.savez(file, **{name: field.numpy() for name, field in images(200).items()})
    data = pvae.data.load(file)
    options = {"epochs": 35, "lr": 1e-2, "batch_size": 32, "progress": False}
    pvae.fit(*pair(), data, out=run, **options)
    codes = pvae.codes(run)
    prior = density(spread=0)
    pvae.fit(prior, NoLatents(), codes, **options)
    composed = pair(prior)
    pvae.warm_start(*composed, run)
    return composed, codes, data


def test_a_trained_pair_draws_what_its_caption_says(stages):
    (model, guide), codes, data = stages
    assert codes.train.names == ("x", "caption")
    dark = torch.tensor([1, 0]).expand(200, -1)
    light = torch.tensor([2, 0]).expand(200, -1)
    left = [pvae.generate(model, 200, caption=c)[..., :4].mean() for c in (dark, light)]
    assert left[0] > left[1] + 0.3
    test = data.test
    x, caption = test.tensors()
    ours = pvae.evaluate(model, guide, test, num_samples=1, estimators=[], progress=False).elbo
    swapped = {"x": x, "caption": torch.stack([(caption[:, 0] == 1) + 1, caption[:, 1]], -1)}
    others = pvae.evaluate(model, guide, swapped, num_samples=1, estimators=[], progress=False)
    assert ours.mean() > others.elbo.mean() + 0.5


def test_a_pair_of_text_is_loaded_again(stages, tmp_path):
    (model, guide), _, data = stages
    pvae.fit(model, guide, data, epochs=1, out=tmp_path, progress=False)
    again, _ = pvae.load(tmp_path)
    x, caption = CODES, WORDS[: len(CODES)]
    ours, theirs = (each.code_prior.density.log_px(x, caption) for each in (model, again))
    assert torch.equal(ours, theirs)
    assert pvae.generate(again, 3, caption=WORDS[:3]).shape == (3, *SHAPE)
    assert pvae.generate(again, 4).shape == (4, *SHAPE)


def test_bad_input_is_one_message():
    text, (model, guide) = density(), pair(density())
    data = images(5)
    x, caption = data["x"], data["caption"]
    for call, message in [
        (lambda: model(x), r"no caption for x: call model\(x, caption\), with labels=True"),
        (lambda: pvae.check(model, guide, x), "no caption for x"),
        (lambda: text(CODES), "no caption for x"),
        (lambda: model(x, caption[:, :1]), r"caption has shape \(5, 1\).* 2 words, \[n, 2\]. Pad"),
        (lambda: model(x, torch.zeros(5, 3)), "longer ones make the model with a larger length"),
        (lambda: model(x, caption[:4]), "There are 4 captions for 5 data"),
        (lambda: model(caption=caption, size=3), "There are 5 captions for 3 data"),
        (lambda: model(x, caption + V), rf"has the word {V + int(caption[0, 0])}.* 0 to {V - 1}"),
        (lambda: model(x, caption - 5), "A caption has the word -"),
        (lambda: pair(models.MADE((1, 2))), "MADE is not a model of captions and codes"),
        (lambda: pair(density(num_codes=4)), "integers 0 to 3, and there are 3 codes"),
        (lambda: models.DALLE((1, 8, 8), text, K, **NETWORK), r"shape \(1, 2\); .* \(2, 2\)"),
        (lambda: models.TextImageTransformer((2, 2), length=0), "length=0: it must be at least"),
        (lambda: models.TextImageTransformer((2, 2), num_words=1), "num_words=1: a vocabulary has"),
    ]:
        with pytest.raises(PvaeError, match=message):
            call()
