"""Pyro models p(z) p(x|z), one file a family; imported as `pvae.models`."""

from pvae.models.vae import VAE

__all__ = ["VAE"]
