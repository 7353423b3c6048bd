"""ELBO surgery: the rate split into mutual information and the divergence of q(z) from p(z)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from pvae.errors import PvaeError, first_line
from pvae.evaluation.estimator import Estimator, Task
from pvae.evaluation.estimators.aggregate_posterior import AggregatePosterior
from pvae.evaluation.work import in_blocks
from pvae.importance import Particles, Sampler, seed_unit
from pvae.pair import gives_one_code, latent_sites, mask_of
from pvae.runtime import is_out_of_memory

__all__ = ["Surgery"]

LogQ = Callable[[tuple[Tensor, ...], dict[str, Tensor]], Tensor]

_BLOCK = 2048  # samples compared with all data together; each block encodes every datum
_PIECE = 64  # data sampled together
_FLOATS = {"cpu": 2**19}  # latent values evaluated together
_ENCODINGS = 2**21  # at most, if each sample encodes a datum again: about a minute on a CPU
_FEWEST = 64  # samples, even if they need more encodings
_DENSITY = 0.03  # cost of a density without a network, in decoder runs
_TAG = 0x5A


@dataclass(frozen=True)
class Surgery(Estimator):
    r"""Samples one z ~ q(z|x_n) for each n, and evaluates q(z) = 1/N Σ_j q(z|x_j) exactly.

    The code z is all latent sites of the guide. Sites that the guide enumerates are sampled here;
    sites that only the model enumerates are summed out of p(z). If the prior depends on the datum
    (a label among the pair's arguments), log p(z) is that of datum n, and the marginal KL is a
    difference of expectations, not a divergence.

    Where the guide gives one discrete code z(x), q(z) is the share of the data with this code, and
    the cost is N encodings.

    Else the cost is n·N densities of the guide, n samples and, for each 2048 samples, N encodings.
    A guide that cannot run in a particle plate needs n·N encodings: n is then reduced, at random,
    so that they are at most two million. With several latent sites, whose networks see each
    sample, n·N is at most twenty million. Memory grows with N only by the data themselves.

    Attributes:
        num_data: Number of data whose z is sampled, at random; None for all.

    Raises:
        PvaeError: If the guide samples nothing, or a site that the model does not have; if a
            latent site is masked for some data only; if the guide's density cannot be evaluated
            at samples of other data; or if a density is NaN.

    Source: Hoffman & Johnson 2016, *ELBO surgery: yet another way to carve up the variational
    evidence lower bound*.

    Example:
        >>> import pvae, torch
        >>> model, guide = pvae.models.PPCA((4,), 1), pvae.guides.LinearGaussian((4,), 1)
        >>> wanted = [Surgery()]
        >>> found = pvae.evaluate(model, guide, torch.rand(5, 4), num_samples=10, estimators=wanted)
        >>> found.findings["surgery"].log_q_marginal.shape
        (5,)
    """

    name, finding = "surgery", AggregatePosterior

    @classmethod
    def from_options(cls, surgery: bool = True) -> Self | None:
        """ELBO surgery.

        Args:
            surgery: Whether to compute the aggregate of q(z|x) over the data. With many data and
                few samples this takes as long as everything else, and much longer in hierarchies.
        """
        return cls() if surgery else None

    def plan(self, asked: Sequence[Estimator], task: Task) -> list[Estimator]:
        applies = task.sampler.bound or (task.sampler.structure.latent and not task.code)
        return [self] if applies else []

    def cost(self, sampler: Sampler) -> float:
        if gives_one_code(sampler.structure):
            return 1.0
        # A density of the guide, or a call of the guide, for each other datum.
        count = self.num_data or 0
        plate = sampler.strategy == "plate"
        return _DENSITY * count if plate else min(count, _ENCODINGS / max(1, count))

    def estimate(self, task: Task) -> AggregatePosterior:
        sampler, positions, num_data = task.sampler, task.positions, len(task.data)
        if sampler.bound:
            raise PvaeError(
                "The pair runs only with all its data together, but the aggregate posterior needs "
                "each datum's q(z|x) at the samples of the others. Let the model and the guide "
                "take their shapes from their arguments."
            )
        seed_unit(task.seed, 0, purpose=_TAG)
        shares, log_q, layout, chained = None, None, "plate", False
        if gives_one_code(sampler.structure):
            shares = _log_shares(sampler, task)
        else:
            log_q, layout = _log_q(sampler, task.batch(np.arange(min(6, num_data))))
            chained = len(latent_sites(sampler.structure.guide_trace)) > 1
        if layout != "plate" or chained:  # networks see each datum again for each sample
            most = max(_FEWEST, (_ENCODINGS if layout != "plate" else 10 * _ENCODINGS) // num_data)
            some = np.random.default_rng(task.seed).permutation(len(positions))[:most]
            positions = positions[np.sort(some)]
        rows = _FLOATS.get(task.device.type, 2**26) // sampler.latent_numel
        if layout != "plate":
            rows = min(rows, sampler.usual_rows)  # the encoder sees each row, not each datum
        observed = sampler.structure.observed

        def compute(block: np.ndarray) -> dict[str, np.ndarray]:
            seed_unit(task.seed, int(block[0]), 1, purpose=_TAG)
            drawn, log_prior = [], []
            for piece in in_blocks(block, _PIECE):
                batch = task.batch(piece)
                _refuse_other_sites(sampler, batch)
                values = sampler.posterior(batch, 1)
                terms = sampler.terms(batch, 1, values)
                prior = [t for name, t in terms.items() if name not in observed]
                drawn.append({name: value[0] for name, value in values.items()})
                log_prior.append(sampler.particles.sum_out(prior)[0].double())
            values = {name: torch.cat([each[name] for each in drawn]) for name in drawn[0]}
            if shares is None:
                given, marginal = _against_all(log_q, values, task, block, rows)
            else:
                marginal = shares[torch.from_numpy(np.asarray(block)).to(shares.device)]
                given = torch.zeros_like(marginal)
            found = {
                "log_q_given_x": given,
                "log_q_marginal": marginal,
                "log_prior": torch.cat(log_prior),
            }
            for name, value in found.items():
                bad = (value.isnan() | (value == math.inf)).nonzero()
                if len(bad):
                    raise PvaeError(
                        f"{name} is {float(value[bad[0, 0]])} at the sample of datum "
                        f"{int(block[int(bad[0, 0])])}. Check the parameters and this datum for "
                        "NaN, and the distributions for scales that reach zero."
                    )
            return {name: value.cpu().numpy() for name, value in found.items()}

        columns = task.map("surgery", in_blocks(positions, _BLOCK), compute)
        return AggregatePosterior(positions, **columns, num_data=num_data)


def _refuse_other_sites(sampler: Sampler, batch: tuple[Tensor, ...]) -> None:
    """Raises a PvaeError if a latent site is masked for some data only."""
    first = {n: mask_of(s) for n, s in latent_sites(sampler.structure.guide_trace).items()}
    if all(mask is None for mask in first.values()):
        return
    trace = sampler.particles.guide(batch, 1, enumerate=False)
    for name, expected in first.items():
        if expected is None:
            continue
        own = trace.nodes.get(name)
        axis = sampler.dim - sampler.structure.guide_trace.nodes[name]["fn"].event_dim
        if expected.ndim >= -axis:
            expected = expected.narrow(axis, 0, 1)
        if own is None or (mask_of(own) != expected).any():
            raise PvaeError(
                f"Site {name!r} of the guide is masked for some data and not for others: their "
                "codes have different sites, so there is no q(z) of all data."
            )


def _log_shares(sampler: Sampler, task: Task) -> Tensor:
    """Returns the log of the share of all data that have the code of each datum, [N]."""
    draw, keys = torch.Generator("cpu").manual_seed(0), []
    weights: dict[str, Tensor] = {}
    for piece in in_blocks(np.arange(len(task.data)), _PIECE):
        key = torch.zeros(len(piece), dtype=torch.long, device=task.device)
        for name, value in sampler.posterior(task.batch(piece), 1).items():
            code = value[0].reshape(len(piece), -1).long()
            if name not in weights:  # of all 64-bit sums, hardly two are equal for other codes
                size = code.shape[1:]
                weight = torch.randint(-(2**62), 2**62, size, generator=draw, device="cpu")
                weights[name] = weight.to(task.device)
            key += (code * weights[name]).sum(-1)
        keys.append(key)
    _, which, count = torch.cat(keys).unique(return_inverse=True, return_counts=True)
    return (count[which].double() / len(task.data)).log()


def _against_all(
    log_q: LogQ,
    values: dict[str, Tensor],
    task: Task,
    block: np.ndarray,
    rows: int,
) -> tuple[Tensor, Tensor]:
    """Returns log q(z_m|x_m) and log q(z_m), each [M], at the samples of a block.

    Both are from one evaluation, so that their difference is at most log N to the last bit.
    """
    num, num_data, device = len(block), len(task.data), task.device
    # Few data with many samples each need the fewest encodings.
    size = max(1, min(num_data, max(16, rows // num)))
    step = max(1, rows // size)
    total = torch.full((num,), -math.inf, dtype=torch.float64, device=device)
    own = total.clone()
    positions = torch.from_numpy(np.asarray(block)).to(device)
    for data in in_blocks(np.arange(num_data), size):
        batch = task.batch(data)
        for start in range(0, num, step):
            here = slice(start, start + step)
            draws = {
                name: value[here][:, None].expand(-1, len(data), *value.shape[1:])
                for name, value in values.items()
            }
            log_p = log_q(batch, draws).double()
            total[here] = torch.logaddexp(total[here], log_p.logsumexp(1))
            column = positions[here] - int(data[0])
            row = ((column >= 0) & (column < len(data))).nonzero()[:, 0]
            own[here][row] = log_p[row, column[row]]
    return own, total - math.log(num_data)


def _log_q(sampler: Sampler, batch: tuple[Tensor, ...]) -> tuple[LogQ, str]:
    """Returns a function for log q(z|x), [M, B], at samples of other data, and its layout."""
    structure = sampler.structure
    in_model = latent_sites(structure.model_trace)
    extra = [name for name in structure.latent if name not in in_model]
    if extra or not structure.latent:
        reason = f"samples {extra[0]!r}, which the model does not have" if extra else "is empty"
        raise PvaeError(
            f"The guide {reason}: there is no code z whose q(z) could be compared with p(z)."
        )

    def usual(batch: tuple[Tensor, ...], values: dict[str, Tensor]) -> Tensor:
        num = len(next(iter(values.values())))
        return sum(sampler.guide_terms(batch, num, values, enumerate=False).values())

    alone = Particles(sampler.model, sampler.guide, structure, sampler.dim, "plate")

    def in_plate(batch: tuple[Tensor, ...], values: dict[str, Tensor]) -> Tensor:
        num = len(next(iter(values.values())))
        trace = alone.guide(batch, num, values, enumerate=False)
        return sum(alone.log_terms(trace, num, len(batch[0]), observed=False).values())

    strange = {name: v.roll(1, 1) for name, v in sampler.posterior(batch, 3).items()}
    try:
        expected = usual(batch, strange)
        reason = "it is NaN there" if expected.isnan().any() else None
    except (PvaeError, RuntimeError, NotImplementedError, ValueError, KeyError) as error:
        if is_out_of_memory(error):
            raise
        reason = f"{type(error).__name__}: {first_line(error)[:200]}"
    if reason:
        raise PvaeError(
            "The surgery needs log q(z|x_j) at samples of other data, but this guide's density "
            f"cannot be evaluated away from its own samples ({reason}). A flow needs an inverse."
        )
    if sampler.strategy == "plate":
        return usual, "plate"
    # Often only the model cannot run in a particle plate. The guide then encodes each datum once.
    try:
        found = in_plate(batch, strange)
        if torch.allclose(found, expected, 1e-4, 1e-4):
            return in_plate, "plate"
    except (PvaeError, RuntimeError, ValueError, IndexError) as error:
        if is_out_of_memory(error):
            raise
    return usual, sampler.strategy
