"""Pyro guides q(z|x), one file a family; imported as `pvae.guides`."""

from pvae.guides.mean_field import MeanField

__all__ = ["MeanField"]
