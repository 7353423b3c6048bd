"""SVI: pyro.infer.SVI's interface, with the step compiled and parameters kept in their modules."""

import contextlib
import math
from collections.abc import Callable
from typing import Any, Literal, NoReturn, get_args

import torch
from pyro.infer import ELBO
from pyro.optim import PyroOptim
from torch import Tensor

from pvae.errors import PvaeError
from pvae.objectives import plain_elbo
from pvae.pair import OwnParameters, Program, alone, evaluating
from pvae.runtime import (
    Precision,
    backends_in,
    check_precision,
    noise_state,
    restore_noise,
)
from pvae.training.accumulate import Held
from pvae.training.compiled_step import CompiledGradient
from pvae.training.eager_step import EagerGradient
from pvae.training.not_finite import NotFiniteError, what_is_not_finite
from pvae.training.optimiser import MakeOptimizer, Optimiser
from pvae.training.together import Together

__all__ = ["SVI", "Mode"]

Mode = Literal["auto", "eager", "compiled"]

_UNCHECKED = 50  # steps on a GPU between two checks that loss and gradient are finite
_EAGER_STEPS = 1000  # of mode "auto", before it compiles: shorter runs would not gain from it


class SVI:
    r"""Stochastic variational inference: maximises the ELBO of a pair by its gradient.

    .. math:: \nabla_{\theta, \phi} \; E_{q_\phi(z|x)}
        [\log p_\theta(x, z) - \log q_\phi(z|x)]

    Interface and steps are those of `pyro.infer.SVI`, with these differences. Parameters stay in
    their modules (see `pvae.pair.OwnParameters`) and are trained from the step in which a program
    first registers them. Frozen parameters do not move. torch's optimisers are accepted. A loss or
    gradient that is not finite raises before it reaches the parameters. Steps are compiled.

    The first compiled step runs the model and the guide and records their tensor operations as a
    graph. Later steps run the graph without Pyro. Inputs of the graph are the parameters and
    buffers of the pair, the tensors and floats among the arguments, and `kl_weight`. Other tensors
    are read in place. Constants of the graph are shapes, integers, strings, Python's control flow,
    and everything that the code of the programs and the loss names: attributes, closures, globals,
    lists, dicts, modules, hooks, functions, and the objects in them. Every step checks these (see
    `pvae.compile.Watch`). If one has changed, the pair is recorded again; a float or a tensor
    becomes one more input.

    Some constants cannot be watched: values from outside (files, clocks, environment variables,
    settings of libraries except the default dtype and autocast), the inside of NumPy arrays and of
    objects written in C, lists and dicts of more than a thousand entries, and attributes that the
    programs set at each call. Therefore the first two steps and every 500th (with an objective of
    `pvae.objectives` also the 3rd, 11th and 101st) compute the gradient both ways from the same
    random numbers, and the two must agree. If a pair cannot be recorded, SVI runs eagerly, and one
    warning says why, where, and what to change. Reasons are a decision by a sampled value, values
    that go from torch to NumPy or a list, random numbers of Python or NumPy, or an ELBO without
    `differentiable_loss`, such as TraceGraph_ELBO with its baselines.

    Args:
        model: Pyro program p(z) p(x|z).
        guide: Pyro program q(z|x).
        optim: A class of `torch.optim` (or a `functools.partial` of one), an optimiser of
            `torch.optim` or `pyro.optim`, or `None` for Adam at 1e-3.
        loss: An ELBO of `pyro.infer` or `pvae.objectives`.
        clip_norm: Bound on the global norm of the gradient, in the units of the loss.
        mode: `"compiled"`, `"eager"` (as Pyro), or `"auto"`: compiled after a thousand eager
            steps, because compiling takes some ten seconds. Minibatches that are smaller than
            earlier ones, such as the last one of an epoch, always run eagerly.
        precision: `"bf16"` computes the matrix products and convolutions of a step in bfloat16,
            `"tf32"` in TF32 (on an NVIDIA GPU), and all else (densities, sums, the optimiser) in
            float32. `"float32"` excludes TF32, in which torch computes convolutions by default.

    Attributes:
        kl_weight: β, a factor on the latent sites' log densities; None means 1. It may change
            from step to step.
        share: A factor on the gradients that `hold` and the step after it add up.
        compiled: Whether the last step was compiled.
        compiling: Returns a context in which a graph is compiled, for a message.
        together: Adds up the gradients of processes that share each minibatch; None alone.

    Raises:
        PvaeError: If the loss is no ELBO, or the mode or precision is not known; at the first
            step, if the hardware lacks the precision.

    On a GPU a compiled step, from the copy of its minibatch to the optimiser's update, is one
    CUDA graph. The optimiser must be a fused one of torch's that can be captured, such as Adam;
    with others only the gradient is compiled.

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
        mode: Mode = "auto",
        precision: Precision = "float32",
    ) -> None:
        loss = plain_elbo(loss)
        if mode not in get_args(Mode):
            raise PvaeError(f"mode={mode!r} is not known: use one of {', '.join(get_args(Mode))}.")
        check_precision(precision)
        self.model, self.guide, self.loss = model, guide, loss
        self.optim = optim if isinstance(optim, Optimiser) else Optimiser(optim)
        self.clip_norm, self.precision = clip_norm, precision
        self.kl_weight: float | None = None
        self.share = 1.0
        self.compiling: Callable[[], Any] = contextlib.nullcontext
        self.together: Together | None = None
        self.own = OwnParameters(model, guide)
        self.compiled = False
        self._wait = {"auto": _EAGER_STEPS, "eager": math.inf, "compiled": 0}[mode]
        self._start()
        self._held = Held()
        self._step = 0
        self._taken: list[tuple[Any, ...]] = []
        self._good: Tensor | None = None
        self._bad: tuple[Any, ...] = ()
        self._mine: Tensor | bool = True

    def _start(self) -> None:
        """Begins without graphs."""
        pair = self.model, self.guide, self.loss
        self._eager = EagerGradient(*pair, self.own, self.optim, self.precision)
        self._graphs = CompiledGradient(self._eager, lambda: self.compiling())

    def _follow(self) -> None:
        """Starts again if another model, guide, loss, optimiser or precision has been set."""
        now = self._eager
        if now.model is not self.model or now.guide is not self.guide:
            self.own = OwnParameters(self.model, self.guide)
        elif now.loss is self.loss and now.optim is self.optim and now.precision == self.precision:
            return
        self._start()

    @property
    def why_eager(self) -> str | None:
        """Why steps are not compiled; None if nothing prevents it so far."""
        return self._graphs.why_not

    def find_parameters(self, *args: Any, **kwargs: Any) -> None:
        """Runs the pair once, without a gradient, and gives its parameters to the optimiser.

        Minibatches smaller than this one will run eagerly.
        """
        with evaluating(self.model, self.guide), self.own, torch.no_grad():
            self.loss.loss(self.model, self.guide, *args, **kwargs)
        self._eager.take_up_parameters()
        self._graphs.expect(args, kwargs)

    def compare(self) -> None:
        """Makes the next compiled step be compared with the eager one."""
        self._graphs.compare_next()

    @alone
    def step(self, *args: Any, **kwargs: Any) -> float | tuple[float, ...]:
        """Takes one gradient step on a minibatch and returns its loss, in nats (summed).

        As in Pyro, `ReweightedWakeSleep` returns its two losses. A step also works inside of
        `torch.no_grad` and `torch.inference_mode`.

        Raises:
            NotFiniteError: If the loss or its gradient is not finite. The message names the site,
                and nothing is updated. Pyro's own validation, if it is on, may raise first.
            PvaeError: If the arguments or the pair's structure are wrong.
        """
        loss = self.update(*args, **kwargs)
        loss = tuple(map(float, loss)) if isinstance(loss, tuple) else float(loss)
        self.settle()
        return loss

    def update(self, *args: Any, **kwargs: Any) -> float | Tensor | tuple[float, ...]:
        """Takes a step without waiting for a GPU: the loss stays there.

        On a GPU, a fused optimiser stops updating after a loss or a gradient that is not finite.
        `settle`, called here every 50 steps, then raises.

        Raises:
            NotFiniteError: As `step`, for this minibatch or, on a GPU, for an earlier one: its
                `steps_ago` says which. The parameters are those of that step.
            PvaeError: As `step`.
        """
        with backends_in(self.precision):
            return self._run(args, kwargs, last=True)

    @alone
    def hold(self, *args: Any, **kwargs: Any) -> float | Tensor | tuple[float, ...]:
        """Adds a minibatch's gradient to that of the next `step` or `update`; returns its loss.

        The loss is a sum over the data, so that k minibatches have the gradient of one that is k
        times larger. If a plate scales minibatches to all data, let `share` be a minibatch's part
        of the larger one, also for the step. A step after `hold` is not one CUDA graph.

        Raises:
            NotFiniteError: As `update`.
            PvaeError: As `step`.
        """
        with backends_in(self.precision):
            return self._run(args, kwargs, last=False)

    def _run(self, args: Any, kwargs: Any, last: bool) -> float | Tensor | tuple[float, ...]:
        if not torch.is_grad_enabled() or any(map(_is_inference, (*args, *kwargs.values()))):
            with torch.inference_mode(False), torch.enable_grad():
                args = [a.clone() if _is_inference(a) else a for a in args]
                kwargs = {k: a.clone() if _is_inference(a) else a for k, a in kwargs.items()}
                return self._run(args, kwargs, last)
        self._follow()
        weight = self.kl_weight
        weight = weight if weight is None or isinstance(weight, Tensor) else float(weight)
        state, found = noise_state(), None
        if self._wait > 0 or (self.together is not None and self.together.meets):
            self._wait -= 1
        elif (
            last
            and not (self._held or self.together)
            and (replayed := self._replay(weight, args, kwargs))
        ):
            return self._note(*replayed, last, state, args, kwargs)
        else:
            found = self._graphs(weight, args, kwargs)
        self.compiled = found is not None and self.why_eager is None
        loss, norm = found or self._eager(weight, args, kwargs)
        on_gpu = _on_gpu(loss) and self.optim.can_mask
        if on_gpu and self._good is None:
            self._good = torch.ones((), dtype=torch.bool, device=loss.device)
        losses = loss if isinstance(loss, tuple) else (loss,)
        call = state, args, kwargs
        if on_gpu and self.together is not None:
            self._mine = losses[0].isfinite() & norm.isfinite() & self._mine
        if not on_gpu and not all(map(math.isfinite, (*losses, norm))):
            self._bad = self._bad or (float(sum(losses)), *call)
            if self.together is None:
                self._refuse(*self._bad)
        apart = self.together is not None and self.share != 1.0
        if self._held or not last or apart:
            self._held.add(self.optim.parameters, self.own.used, self.share)
            if last:
                norm, self.own.used = self._held.release()
        total = math.nan if self._bad else sum(losses)
        if last and self.together is not None:
            total = torch.where(self._mine, total, math.nan) if on_gpu else total
            total, norm, self.own.used = self.together.add(self.own.used, total)
        if on_gpu:
            if last or self.together is None:  # else this process alone would stop
                self._finish(total, norm, last)
            return self._note(loss, self._good.clone(), last, *call)
        if last:
            if not all(map(math.isfinite, (total, norm))):
                self._refuse(*(self._bad or (float(total), *call)))
            self._descend(norm, None)
        return loss

    def _descend(self, norm: Tensor, good: Tensor | None) -> None:
        if self.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self.optim.parameters, self.clip_norm, norm)
        self.optim.fill(self.own.used)
        self.optim.step(good)
        self.optim.zero_grad()

    def _finish(self, loss: Tensor, norm: Tensor, last: bool = True) -> list[Tensor]:
        """Ends a step on a GPU without waiting; it changes nothing if it is not finite."""
        self._good.logical_and_(loss.isfinite() & norm.isfinite())
        if last:
            self._descend(norm, self._good)
        return [loss, self._good.clone()]

    def _replay(self, weight: float | Tensor | None, args: Any, kwargs: Any) -> Any:
        """Takes a whole step as one CUDA graph, if it can."""
        constants = self.optim.constants if self._good is not None else None
        if constants is None:
            return None

        def finish(loss: Tensor, norm: Tensor) -> list[Tensor]:
            with self.optim.captured():
                return self._finish(loss, norm)

        self.optim.send_lr()
        changes = lambda: [self._good, *self.optim.memory]  # noqa: E731
        constants = constants, self.clip_norm
        found = self._graphs.replay(finish, changes, constants, weight, args, kwargs)
        self.compiled = self.compiled or found is not None
        return found

    def _note(self, loss: Tensor, good: Tensor, last: bool, *call: Any) -> Tensor:
        self._taken.append((loss, good, self._step, *call))
        self._step += last
        if len(self._taken) >= _UNCHECKED:
            self.settle()
        return loss

    def settle(self) -> None:
        """Checks the steps that a GPU took since the last check; raises as `update` does."""
        taken, self._taken = self._taken, []
        mine, self._mine = self._mine, True
        if taken and not self._good:
            self._good.fill_(True)
            self._bad = self._bad or (() if mine else taken[0])
            bad = [not good for good in torch.stack([good for _, good, *_ in taken]).tolist()]
            loss, _, step, *call = taken[bad.index(True)]
            self._refuse(float(loss), *call, steps_ago=taken[-1][2] - step)

    def _refuse(
        self, loss: float, state: Any, args: Any, kwargs: Any, *, steps_ago: int = 0
    ) -> NoReturn:
        bad, self._bad = self._bad, ()
        self.optim.zero_grad()
        self._held.drop()
        if self.together is not None:
            self.together.end()
        if self.together is not None and not bad:
            text = "The loss or its gradient is not finite in another process, which says where."
        else:
            restore_noise(state)
            pair = self.model, self.guide, self.own, self.optim
            text = what_is_not_finite(*pair, loss, args, kwargs)
        error = NotFiniteError(text)
        error.steps_ago = steps_ago
        raise error

    @alone
    def evaluate_loss(self, *args: Any, **kwargs: Any) -> float | tuple[float, ...]:
        """Returns the loss of a minibatch, in nats (summed), without a gradient."""
        with self.own, torch.no_grad(), backends_in(self.precision):
            loss = self.loss.loss(self.model, self.guide, *args, **kwargs)
        return tuple(map(float, loss)) if isinstance(loss, tuple) else float(loss)


def _is_inference(value: Any) -> bool:
    """Whether a tensor was made in inference mode, and so has no gradient."""
    return isinstance(value, Tensor) and value.is_inference()


def _on_gpu(loss: float | Tensor) -> bool:
    return isinstance(loss, Tensor) and loss.is_cuda
