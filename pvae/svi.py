"""SVI: pyro.infer.SVI's interface, for pairs whose parameters stay in their modules."""

import functools
import math
import warnings
from typing import Any

import pyro
import torch
from pyro.infer import ELBO
from pyro.optim import PyroOptim
from torch import Tensor

from pvae.errors import PvaeError
from pvae.optimisers import MakeOptimizer, Optimiser
from pvae.pair import (
    OwnParameters,
    Program,
    evaluating,
    latent_sites,
    observed_sites,
    trace_guide,
    trace_model,
)

__all__ = ["SVI"]


class SVI:
    r"""Stochastic variational inference: ascends the ELBO of a pair by its gradient.

    .. math:: \nabla_{\theta, \phi} \; E_{q_\phi(z|x)}
        [\log p_\theta(x, z) - \log q_\phi(z|x)]

    The interface of `pyro.infer.SVI`, with three differences: parameters stay in their
    modules (see `pvae.pair.OwnParameters`), torch's own optimisers are welcome, and a loss or
    a gradient that is not finite raises before it reaches the parameters.

    Args:
        model: Pyro program p(z) p(x|z).
        guide: Pyro program q(z|x).
        optim: A class of `torch.optim` (or a `functools.partial` of one), an optimiser of
            `torch.optim` or `pyro.optim`, or `None` for Adam at 1e-3.
        loss: An ELBO of `pyro.infer`.
        clip_norm: Bound on the global norm of the gradient, in the units of the loss.

    Source: Hoffman et al. 2013, *Stochastic Variational Inference*; Kingma & Welling 2014.

    Example:
        >>> import torch
        >>> from pyro.infer import Trace_ELBO
        >>> from pvae import SVI, guides, models
        >>> model, guide = models.VAE((1, 8, 8)), guides.MeanField((1, 8, 8))
        >>> svi = SVI(model, guide, torch.optim.Adam, Trace_ELBO())
        >>> svi.step(torch.zeros(16, 1, 8, 8)) > 0
        True
    """

    def __init__(
        self,
        model: Program,
        guide: Program,
        optim: MakeOptimizer | PyroOptim | torch.optim.Optimizer | None,
        loss: ELBO,
        *,
        clip_norm: float | None = None,
    ) -> None:
        if not isinstance(loss, ELBO):
            raise PvaeError(f"loss={loss!r}: expected an ELBO such as pyro.infer.Trace_ELBO().")
        self.model, self.guide, self.loss = model, guide, loss
        self.optim = optim if isinstance(optim, Optimiser) else Optimiser(optim)
        self.clip_norm = clip_norm
        self.own = OwnParameters(model, guide)
        self._looked_for_strays = False

    def find_parameters(self, *args: Any, **kwargs: Any) -> None:
        """Runs the pair once, without a gradient, and gives its parameters to the optimiser."""
        with evaluating(self.model, self.guide), self.own, torch.no_grad():
            self.loss.loss(self.model, self.guide, *args, **kwargs)
        self.optim.add(self.own.parameters)

    def step(self, *args: Any, **kwargs: Any) -> float:
        """Takes one gradient step on a minibatch and returns its loss, in nats (summed).

        Raises:
            PvaeError: If the loss or its gradient is not finite, naming the site; nothing was
                updated then. Pyro's own validation, where it is on, may raise first.
        """
        state = torch.get_rng_state()
        with self.own:
            loss = self.loss.loss_and_grads(self.model, self.guide, *args, **kwargs)
        if len(self.own.parameters) != len(self.optim.names):
            self.optim.add(self.own.parameters)
        if not self._looked_for_strays:
            self._looked_for_strays = True
            self._warn_of_strays()
        gradients = [p.grad for p in self.optim.parameters if p.grad is not None]
        if not gradients:
            raise PvaeError(
                "The pair has no parameter that the loss depends on. Make the programs "
                "PyroModules, call pyro.module(name, network) in them, or use pyro.param."
            )
        norm = torch.nn.utils.get_total_norm(gradients)
        if not (math.isfinite(loss) and norm.isfinite()):
            self.optim.zero_grad()
            torch.set_rng_state(state)
            raise PvaeError(self._what_is_not_finite(loss, args, kwargs))
        if self.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self.optim.parameters, self.clip_norm, norm)
        self.optim.step()
        self.optim.zero_grad()
        return loss

    def evaluate_loss(self, *args: Any, **kwargs: Any) -> float:
        """Returns the loss of a minibatch, in nats (summed), without a gradient."""
        with self.own, torch.no_grad():
            return float(self.loss.loss(self.model, self.guide, *args, **kwargs))

    def _warn_of_strays(self) -> None:
        strays = [
            f"{path}.{name}"
            for path, module in self.own.modules.items()
            for name, parameter in module.named_parameters()
            if parameter.grad is not None and id(parameter) not in self.optim.names
        ]
        if strays:
            warnings.warn(
                f"{len(strays)} parameters have a gradient but are not trained, as in Pyro, "
                f"because no program registers them: {', '.join(strays[:3])}, … Call "
                "pyro.module(name, network) in the program, or make it a PyroModule.",
                stacklevel=3,
            )

    def _what_is_not_finite(self, loss: float, args: Any, kwargs: Any) -> str:
        head = f"The loss is {loss}" if not math.isfinite(loss) else "The gradient is not finite"
        names = self.optim.names
        sick = [names[id(p)] for p in self.optim.parameters if not p.isfinite().all()]
        if sick:
            return f"{head}: parameter {sick[0]} holds NaN or infinite values."
        with self.own, torch.no_grad(), pyro.validation_enabled(False):
            guide_trace = trace_guide(functools.partial(self.guide, **kwargs), *args)
            model = functools.partial(self.model, **kwargs)
            model_trace = trace_model(model, guide_trace, *args)
        for role, sites in (
            ("guide", latent_sites(guide_trace)),
            ("model", {**latent_sites(model_trace), **observed_sites(model_trace)}),
        ):
            for name, site in sites.items():
                for what, value in (
                    ("value", site["value"]),
                    ("log density", site["fn"].log_prob(site["value"])),
                ):
                    if not _finite(value):
                        return (
                            f"{head}: the {what} of site {name!r} in the {role} is not finite "
                            f"(its distribution: {_parameters(site['fn'])})."
                        )
        return (
            f"{head}, though every site's log density is finite: a derivative overflows, as "
            "that of sqrt or of a scale at zero. Bound the scales away from zero, or lower the "
            "learning rate."
        )


def _finite(value: Tensor) -> bool:
    return bool(torch.as_tensor(value).isfinite().all())


def _parameters(fn: Any) -> str:
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    parts = [
        f"{name} between {value.min().item():g} and {value.max().item():g}"
        for name, value in vars(fn).items()
        if isinstance(value, Tensor) and value.is_floating_point() and value.numel()
    ]
    return f"{type(fn).__name__}, {', '.join(parts)}" if parts else type(fn).__name__
