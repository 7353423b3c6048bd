"""A small pair, trained quickly, and its parameters compared."""

import torch

import pvae


def small_pair(seed=0, **options):
    torch.manual_seed(seed)
    options = {"latent_dim": 4, "hidden_dims": [16], **options}
    return (
        pvae.models.VAE((1, 8, 8), **options),
        pvae.guides.MeanField((1, 8, 8), latent_dim=4, hidden_dims=[16]),
    )


def quick_fit(pair, data, **options):
    options = {"epochs": 3, "progress": False, **options}
    return pvae.fit(*pair, data, **options)


def state_of(pair):
    return {f"{i}.{n}": v.clone() for i, p in enumerate(pair) for n, v in p.state_dict().items()}


def same_state(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)
