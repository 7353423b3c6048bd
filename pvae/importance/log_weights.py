"""log_weights(): the importance weights of a pair, on which every bound rests."""

from typing import Any

import torch
from torch import Tensor

from pvae.errors import PvaeError
from pvae.importance.layout import Strategy
from pvae.importance.sampler import Sampler
from pvae.pair import Program, alone, inspect

__all__ = ["log_weights"]


@alone
def log_weights(
    model: Program,
    guide: Program,
    *batch: Any,
    num_samples: int,
    strategy: Strategy = "auto",
    plate: str | None = None,
    **kwargs: Any,
) -> Tensor:
    r"""Draws the log importance weights of a pair, one for each sample and datum.

    .. math:: \log w_{kb} = \log p_\theta(x_b, z_{kb}) - \log q_\phi(z_{kb} | x_b),
        \qquad z_{kb} \sim q_\phi(z | x_b)

    Their mean over k estimates the ELBO, and logsumexp over k minus log K the
    importance-weighted bound L_K. Scales (subsampling, KL weights) do not enter, masks and a
    model's `pyro.factor` do; sites marked to be enumerated are summed out exactly, a value at a
    time where the networks do not broadcast, and a masked one counts once. In an inner plate each
    index is summed out by itself, and a density that depends on several indices is refused. No
    gradient flows, the modules are in eval mode, and the draws come from torch's global generator.

    Args:
        model: Pyro program p(z) p(x|z), called as `model(*batch, **kwargs)`.
        guide: Pyro program q(z|x), called as `guide(*batch, **kwargs)`.
        *batch: The data, tensors of leading size B, and what else the programs take, as for
            `pvae.check`. Or a dataset: a part of what `pvae.data.load` returns (of all of it, the
            test part), a data frame, a Dataset or a DataLoader.
        num_samples: K, the number of samples for each datum.
        strategy: How the K samples are computed: in a particle `"plate"` left of the batch
            plate (the encoder runs once), by `"tile"`-ing the batch, or in a `"loop"`.
            `"auto"` takes the first that agrees with single-sample replays of the same draws.
        plate: Name of the batch plate, where it is ambiguous.
        **kwargs: Arguments of the programs by name.

    Returns:
        Tensor [K, B], in nats; -inf is a weight of zero.

    Raises:
        PvaeError: If the pair is wrong (see `pvae.check`), has a global latent site or a Delta
            guide, mixes data across the batch, or if a weight is NaN or +inf.

    Source: Burda, Grosse & Salakhutdinov 2016, *Importance Weighted Autoencoders*.

    Example:
        >>> import torch
        >>> from pvae import guides, log_weights, models
        >>> model, guide = models.VAE((1, 8, 8)), guides.MeanField((1, 8, 8))
        >>> log_weights(model, guide, torch.zeros(4, 1, 8, 8), num_samples=10).shape
        torch.Size([10, 4])
    """
    if num_samples < 1:
        raise PvaeError(f"num_samples={num_samples} is not valid: at least one sample is needed.")
    found = inspect(model, guide, *batch, plate=plate, **kwargs)
    with Sampler(found, strategy=strategy) as sampler:
        return torch.cat([draws.log_w for draws in sampler.stream(found.batch, num_samples)])
