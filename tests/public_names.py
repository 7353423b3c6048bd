# pyright: standard, reportUnnecessaryTypeIgnoreComment=true
# ruff: noqa: B018
"""What a type checker makes of pvae; `.ci/run` lets one read this file, and nothing runs it.

A comment "ignore" stands where an error has to be found: without one it is an error itself.
"""

from typing import TYPE_CHECKING, assert_type

if TYPE_CHECKING:
    from pyro.infer import ELBO
    from torch import Tensor

    import pvae

    digits = pvae.data.load("digits")
    assert_type(digits, pvae.data.Data)
    model = pvae.models.VAE(event_shape=digits.event_shape, latent_dim=8)
    assert_type(model.latent_dim, int)
    guide = pvae.guides.MeanField(event_shape=digits.event_shape, latent_dim=8)
    elbo: ELBO = pvae.objectives.IWAE_ELBO(num_particles=5)
    pvae.fit(model, guide, digits, loss=elbo).history
    assert_type(pvae.evaluate(model, guide, digits, num_samples=5), pvae.Evaluation)
    pvae.evaluate(model, guide, digits, estimators=[pvae.estimators.AIS(10)])
    assert_type(pvae.log_weights(model, guide, num_samples=5), Tensor)

    pvae.no_such_name  # pyright: ignore[reportAttributeAccessIssue]
    pvae.models.NoSuchModel  # pyright: ignore[reportAttributeAccessIssue]
    pvae.guides.NoSuchGuide  # pyright: ignore[reportAttributeAccessIssue]
    pvae.objectives.NO_SUCH_ELBO  # pyright: ignore[reportAttributeAccessIssue]
    pvae.models.VAE(digits.event_shape, latent_dim="8")  # pyright: ignore[reportArgumentType]
    pvae.estimators.AIS(num_data="ten")  # pyright: ignore[reportArgumentType]
    pvae.fit(model, guide, digits, epochs="ten")  # pyright: ignore[reportArgumentType]
