"""Draws the unknown part of data given the known part."""

from typing import Any

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pvae.distributions import known_values, peeled
from pvae.errors import PvaeError
from pvae.pair import Program, alone, latent_sites, name_of, quiet, trace_guide, trace_program
from pvae.predictive.at_means import given_to
from pvae.predictive.generate import mean_of
from pvae.predictive.without_data import refuse_reading
from pvae.runtime import own_random_state, whole

__all__ = ["complete"]


@alone
def complete(
    model: Program,
    guide: Program,
    *batch: Any,
    known: Tensor,
    num_samples: int = 1,
    seed: int = 0,
    **kwargs: Any,
) -> Tensor:
    r"""Draws what is unknown of x given what is known: the rest of an image, the next frames.

    Without latent variables, the unknown values are drawn from the model's own density, which must
    be autoregressive (`pvae.distributions.Autoregressive`):

    .. math:: x_{\text{unknown}} \sim p(x_{\text{unknown}} \mid x_{\text{known}})

    With latent variables, x is a video whose first k frames are known, and each frame has codes of
    its own, as in a `VQVAE` of videos with a prior. The codes of the first frames are the guide's,
    those of the next frames are drawn from the prior given these, and decoded:

    .. math::
        z_{1:k} &\sim q(z_{1:k} \mid x_{1:k}), \qquad z_{k+1:T} \sim p(z_{k+1:T} \mid z_{1:k}) \\
        \hat x_{k+1:T} &= E[x_{k+1:T} \mid z]

    A pair whose values of x are independent given z is completed by `pvae.inpaint`.

    Args:
        model: Pyro program p(z) p(x|z), or p(x).
        guide: Pyro program q(z|x); `pvae.guides.NoLatents` without latent variables.
        *batch: x [B, *event], whose unknown values are not read, and what else the programs take,
            as for `pvae.check`.
        known: Which values of x are known, booleans [*event], or of its first dimensions:
            `torch.arange(T) < k` for the first frames. They must come first in the order in which
            the density draws.
        num_samples: K, the number of draws for each datum.
        seed: Seed of the draws.
        **kwargs: Arguments of the programs by name.

    Returns:
        Tensor [K, B, *event], the known values unchanged.

    Raises:
        PvaeError: If the density cannot be completed, a known value comes after an unknown one, or
            the codes of the first frames depend on the other frames.

    Example:
        >>> import pvae
        >>> model = pvae.models.GatedPixelCNN((1, 8, 8), channels=8, num_layers=2)
        >>> upper = torch.zeros(1, 8, 8, dtype=torch.bool)
        >>> upper[:, :4] = True
        >>> x = torch.ones(5, 1, 8, 8)
        >>> pvae.complete(model, pvae.guides.NoLatents(), x, known=upper, num_samples=3).shape
        torch.Size([3, 5, 1, 8, 8])
    """
    num_samples = whole("num_samples", num_samples, 1)
    (model, guide), (x, *others) = given_to(batch, kwargs, model, guide)
    known = known_values(known, x.shape[1:]).to(x.device)
    blank = torch.where(known, x, 0)
    with quiet(model, guide):
        codes, first = _codes(guide, (blank, *others), known, seed), known
        if codes:
            first = known.flatten(1).all(-1)
            _refuse_mixed(guide, codes, (torch.where(known, x, 1), *others), known, seed)
        size = num_samples * len(x)
        codes = {name: _repeated(z, num_samples) for name, z in codes.items()}
        rows = tuple(_repeated(tensor, num_samples) for tensor in (blank, *others))
        with own_random_state(seed), _Completed(model, codes, rows[0], first):
            trace = trace_program("model", model, poutine.uncondition(model), rows)
        refuse_reading(model, model, trace, rows)
        with own_random_state(seed):
            drawn = mean_of(model, trace, None, size, given=set(codes))
        if not codes:
            drawn = next(s["value"] for s in trace.nodes.values() if _was_observed(s))
    drawn = torch.where(known, rows[0], drawn.to(rows[0]))
    return drawn.unflatten(0, (num_samples, len(x)))


class _Completed(Messenger):
    """Draws sites given what is known of them.

    Args:
        model: The model, for messages.
        codes: Values of latent sites; without any, the observed site is x.
        x: The data.
        known: Which values are known, of the codes or of x.
    """

    def __init__(self, model: Program, codes: dict[str, Tensor], x: Tensor, known: Tensor) -> None:
        super().__init__()
        self.model, self.codes, self.x, self.known = model, codes, x, known

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["name"] in self.codes:
            given = self.codes[msg["name"]]
        elif not self.codes and _was_observed(msg):
            given = self.x
        else:
            return
        if not hasattr(msg["fn"], "complete"):
            raise PvaeError(
                f"Site {msg['name']!r} of the model {name_of(self.model)} cannot be completed: its "
                f"density, {type(peeled(msg['fn'])).__name__}, does not draw one value after the "
                "other. Give the model an autoregressive density, such as a VideoPixelCNN as the "
                "prior of the codes of a video."
            )
        msg["value"] = msg["fn"].complete(given, self.known)


def _was_observed(site: dict[str, Any]) -> bool:
    return site["type"] == "sample" and bool(site["infer"].get("was_observed"))


def _repeated(tensor: Tensor, num: int) -> Tensor:
    return tensor.repeat(num, *[1] * (tensor.ndim - 1))


def _codes(
    guide: Program, batch: tuple[Tensor, ...], known: Tensor, seed: int
) -> dict[str, Tensor]:
    """Returns the codes that a guide draws.

    Raises:
        PvaeError: If they are not codes of frames, or the known values are not whole frames.
    """
    with own_random_state(seed):
        sites = latent_sites(trace_guide(guide, *batch))
    codes = {name: site["value"] for name, site in sites.items()}
    frames = len(known) if known.ndim else 0
    for name, z in codes.items():
        if z.shape[1:2] != (frames,):
            raise PvaeError(
                f"Site {name!r} of the guide {name_of(guide)} has codes of shape "
                f"{tuple(z.shape[1:])} for x of shape {tuple(known.shape)}: only a pair with codes "
                "for each frame of a video can be completed, such as a VQVAE of videos, or a model "
                "without latent variables. If the values of x are independent given z, use "
                "pvae.inpaint."
            )
    if codes and (known.flatten(1).any(-1) != known.flatten(1).all(-1)).any():
        raise PvaeError(
            f"known is not valid: frames are known in part, and the pair has codes of whole "
            f"frames. Give booleans for each of the {frames} frames, torch.arange({frames}) < k."
        )
    return codes


def _refuse_mixed(
    guide: Program, codes: dict[str, Tensor], batch: tuple[Tensor, ...], known: Tensor, seed: int
) -> None:
    """Raises a PvaeError if codes of known frames change with the unknown ones."""
    frames = known.flatten(1).all(-1)
    for name, z in _codes(guide, batch, known, seed).items():
        if not torch.equal(z[:, frames], codes[name][:, frames]):
            raise PvaeError(
                f"Site {name!r} of the guide {name_of(guide)} mixes frames: the codes of the known "
                "frames change with the unknown ones, and cannot be known. Encode each frame by "
                "itself, as NearestCode does."
            )
