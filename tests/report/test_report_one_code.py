"""The report of a guide that gives one discrete code: log p(x, z(x)) as the bound, and no k̂."""

from zoo import make

import pvae


def test_the_bound_is_named_and_nothing_judges_weights(read):
    model, guide, observation = make("VQ-VAE")
    digits = pvae.data.load("digits", observation=observation)
    found = pvae.evaluate(model, guide, digits, num_samples=50, num_data=40, progress=False)
    page = read(found, model=model, guide=guide, data=digits)
    assert not page.errors
    headline = page.text("headline")
    assert "log p(x) ≥ log p(x, z(x))" in headline
    assert f"−{-found.elbo.mean():.2f}"[:-1] in headline
    assert "one term of p(x)" in page.text("bounds-table")
    assert "How often each code of z is used" in page.source
    assert not any(word in page.source for word in ("Pareto k̂", "JVI", "PSIS", "Monte Carlo error"))
