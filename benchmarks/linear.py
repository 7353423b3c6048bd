"""Compares the linear pairs on MNIST with their closed forms.

The linear autoencoder (PPCA with a Code) is compared with scikit-learn's PCA, and probabilistic PCA
(PPCA with a LinearGaussian) with its maximum likelihood. `pvae.fit` trains both, with random
weights and unchanged grey values: Adam on minibatches, a learning rate that falls to zero along a
cosine, no whitening or centring.

    python benchmarks/linear.py [--latent_dim 16] [--epochs 60]
"""

import argparse
import math
import time
from collections.abc import Callable

import numpy as np
import torch
from common import training_data, write
from scipy.linalg import subspace_angles
from sklearn.decomposition import PCA
from torch import Tensor

import pvae
from pvae.guides import Code, LinearGaussian
from pvae.models import PPCA

LEARNING_RATE, BATCH_SIZE, SCALE = 5e-3, 200, 0.1


def trained(model: PPCA, guide: Callable, x: Tensor, epochs: int) -> float:
    """Trains a pair and returns the seconds it took."""
    start = time.perf_counter()
    pvae.fit(
        model, guide, x, epochs=epochs, lr=LEARNING_RATE, batch_size=BATCH_SIZE, device="cpu",
        schedule=lambda share: (1 + math.cos(math.pi * share)) / 2, progress=False,
    )  # fmt: skip
    return time.perf_counter() - start


def squared_error(x: np.ndarray, mean: np.ndarray) -> float:
    return float(((x - mean) ** 2).sum(1).mean())


def angles(model: PPCA, components: np.ndarray) -> np.ndarray:
    """Returns the principal angles between W and the leading components, in degrees."""
    weight = model.weight.detach().double().numpy()
    return np.degrees(subspace_angles(weight, components.T))


def autoencoder(x: Tensor, latent_dim: int, epochs: int) -> list[str]:
    """Returns the rows of the first table."""
    data = x.double().numpy()
    peer = PCA(latent_dim, svd_solver="covariance_eigh").fit(data)
    best = squared_error(data, peer.inverse_transform(peer.transform(data)))
    torch.manual_seed(0)
    model = PPCA(x.shape[1:], latent_dim, scale=SCALE)
    guide = Code(x.shape[1:], latent_dim, hidden_dims=())
    seconds = trained(model, guide, x, epochs)
    ours = squared_error(data, pvae.reconstruct(model, guide, x).double().numpy())
    apart = angles(model, peer.components_)
    return [
        f"| scikit-learn's PCA | {best:.4f} | | | | |",
        f"| linear autoencoder | {ours:.4f} | {100 * (ours / best - 1):+.4f} % | "
        f"{apart.mean():.3f}° | {apart.max():.3f}° | {seconds:.0f} |",
    ]


@torch.no_grad()
def known(model: PPCA, x: Tensor) -> float:
    return model.log_px(x).double().mean().item()


def ppca(x: Tensor, latent_dim: int, epochs: int) -> list[str]:
    """Returns the rows of the second table."""
    best = PPCA(x.shape[1:], latent_dim).maximise(x)
    torch.manual_seed(0)
    model, guide = PPCA(x.shape[1:], latent_dim), LinearGaussian(x.shape[1:], latent_dim)
    seconds = trained(model, guide, x, epochs)
    some = x[:2000]
    elbo = pvae.log_weights(model, guide, some, num_samples=50).double().mean().item()
    ours, most = known(model, x), known(best, x)
    return [
        f"| maximum likelihood, closed form | {most:.3f} | | | {best.scale.item():.4f} | |",
        f"| SVI | {ours:.3f} | {ours - most:+.4f} | {known(model, some) - elbo:+.4f} | "
        f"{model.scale.item():.4f} | {seconds:.0f} |",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--latent_dim", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=60)
    given = parser.parse_args()
    data, name = training_data()
    x = data.train.raw.float().flatten(1) / 255
    sizes = given.latent_dim, given.epochs
    text = f"""# Linear pairs: {name}, {len(x):,} images, {given.latent_dim} dimensions

| | squared error of an image | above PCA's | mean principal angle | largest | s |
| --- | --- | --- | --- | --- | --- |
{"\n".join(autoencoder(x, *sizes))}

| | log p(x), nats | above ML's | log p(x) − ELBO | σ | s |
| --- | --- | --- | --- | --- | --- |
{"\n".join(ppca(x, *sizes))}

- Training data, grey values in [0, 1]. log p(x) is exact; the ELBO is by 50 samples for each of
  2,000 images.
- pvae.fit, {given.epochs} epochs: Adam, learning rate {LEARNING_RATE:g} falling to 0 along a
  cosine, minibatches of {BATCH_SIZE}, random weights, no whitening; σ of the autoencoder is
  {SCALE:g}.
"""
    write("linear", text, torch.device("cpu"), data, ["torch", "pyro-ppl", "scikit-learn", "pvae"])


if __name__ == "__main__":
    main()
