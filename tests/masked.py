"""Pairs with discrete sites that are enumerated and masked, each with log p(x) known exactly."""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

__all__ = ["forward_algorithm", "hidden_markov", "semi_supervised"]

SUM = {"enumerate": "parallel"}


def forward_algorithm(start: Tensor, move: Tensor, log_p: Tensor, lengths: Tensor) -> Tensor:
    """log p(x_1 … x_n), [B], from log p(x_t | s), [B, T, S], of sequences of n = `lengths`."""
    alpha = start.log() + log_p[:, 0]
    for t in range(1, log_p.shape[1]):
        new = (alpha[:, :, None] + move.log()).logsumexp(1) + log_p[:, t]
        alpha = torch.where((t < lengths)[:, None], new, alpha)
    return alpha.logsumexp(-1)


def hidden_markov(how=range, mask="poutine", steps=5, dtype=torch.float64):
    """A hidden Markov model of bits whose sequences end early; the guide is empty.

    Args:
        how: `range` or `pyro.markov(range)`, which has sites take turns in dimensions.
        mask: "poutine" masks state and bit; "distribution" does it by `.mask()`; "state" the state
            by the one and the bit by the other.
        steps: T.
        dtype: Of the data and the probabilities.
    """
    generator = torch.Generator().manual_seed(1)
    start, move, emit = (
        torch.randn(*shape, generator=generator, dtype=dtype) for shape in ((3,), (3, 3), (3,))
    )
    start, move = start.softmax(-1), move.softmax(-1)
    x = torch.randint(0, 2, (12, steps), generator=generator).to(dtype)
    lengths = torch.randint(1, steps + 1, (12,), generator=generator)

    def model(x, lengths):
        with pyro.plate("data", len(x)):
            s = None
            for t in how(range(steps)):
                here = t < lengths
                own = here if mask == "distribution" else True
                with pyro.poutine.mask(mask=True if mask == "distribution" else here):
                    state = dist.Categorical(start if s is None else move[s]).mask(own)
                    s = pyro.sample(f"s_{t}", state, infer=SUM)
                    bit = dist.Bernoulli(logits=emit[s])
                    bit = bit.mask(here) if mask != "poutine" else bit
                    pyro.sample(f"x_{t}", bit, obs=x[:, t])

    log_p = dist.Bernoulli(logits=emit).log_prob(x[..., None])
    return model, lambda *_: None, (x, lengths), forward_algorithm(start, move, log_p, lengths)


def semi_supervised(labelled=0.5, where="guide", mask="obs_mask", latent=True, one_hot=False):
    r"""y ~ Cat(π), z ~ N(0, 1), x ~ N(w z + m_y, σ²), where some y are known.

    .. math:: \log p(x, y) = \log \pi_y + \log N(x; m_y, w w^\top + \sigma^2 I), \qquad
        \log p(x) = \log \sum_y p(x, y)

    Args:
        labelled: Share of the data whose label is known.
        where: What becomes of the others: "guide", "model" or "both" sum them out, "sampled"
            draws them from the guide.
        mask: "obs_mask", or how else the program leaves out the unknown labels of known data:
            "distribution" by `.mask()`.
        latent: Whether there is a z; without one every number is exact.
        one_hot: Whether y is a vector.
    """
    generator = torch.Generator().manual_seed(2)
    probs = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    means = torch.tensor([[-2.0, 1.0], [0.0, 0.0], [1.0, 2.0]], dtype=torch.float64)
    weight, noise = torch.tensor([0.9, -0.6], dtype=torch.float64) * latent, 0.8
    x = 1.5 * torch.randn(10, 2, generator=generator, dtype=torch.float64)
    y = torch.arange(10) % 3
    known = torch.arange(10) < round(labelled * 10)
    covariance = weight[:, None] * weight + noise**2 * torch.eye(2, dtype=torch.float64)
    joint = probs.log() + dist.MultivariateNormal(means, covariance).log_prob(x[:, None])
    exact = torch.where(known, joint[torch.arange(10), y], joint.logsumexp(-1))
    in_guide = SUM if where in ("guide", "both") else {}
    in_model = SUM if where in ("model", "both") else {}
    given = torch.eye(3, dtype=torch.float64)[y] if one_hot else y

    def label(**parameters):
        kind = dist.OneHotCategorical if one_hot else dist.Categorical
        return kind(**parameters)

    def mean_of(y):
        return y @ means if one_hot else means[y]

    def model(x, y, known):
        with pyro.plate("data", len(x)):
            z = x.new_zeros(())
            if latent:
                z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            with pyro.poutine.infer_config(config_fn=lambda site: unknown(site, in_model)):
                if mask == "obs_mask":
                    y = pyro.sample("y", label(probs=probs), obs=y, obs_mask=known)
                else:
                    pyro.sample("y_observed", label(probs=probs).mask(known), obs=y)
                    drawn = pyro.sample("y_unobserved", label(probs=probs).mask(~known))
                    y = torch.where(known[:, None] if one_hot else known, y, drawn)
            pyro.sample(
                "x", dist.Normal(z[..., None] * weight + mean_of(y), noise).to_event(1), obs=x
            )

    def unknown(site, infer):
        return infer if site["name"] == "y_unobserved" else {}

    def guide(x, y, known):
        with pyro.plate("data", len(x)):
            if where != "model":
                distance = (x[:, None] - means).square().sum(-1)
                fn = label(logits=probs.log() - 0.4 * distance)
                if mask == "obs_mask":
                    with pyro.poutine.mask(mask=~known):
                        drawn = pyro.sample("y_unobserved", fn, infer=in_guide)
                else:
                    drawn = pyro.sample("y_unobserved", fn.mask(~known), infer=in_guide)
                y = torch.where(known[:, None] if one_hot else known, y, drawn)
                apart = x - mean_of(y)
            else:
                apart = x
            if latent:
                loc = apart @ weight / (noise**2 + weight @ weight)
                pyro.sample("z", dist.Normal(loc + 0.1, 0.9 if where == "model" else 0.8))

    return model, guide, (x, given, known), exact
