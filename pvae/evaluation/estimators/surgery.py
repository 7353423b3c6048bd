"""ELBO surgery: the rate split into mutual information and the divergence of q(z) from p(z)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from pvae.drawing import Panel, attempt, responsive, steps, text
from pvae.errors import PvaeError, first_line
from pvae.evaluation.estimator import Estimator, Task
from pvae.evaluation.finding import Finding, Known
from pvae.evaluation.numbers import finite, show
from pvae.evaluation.work import in_blocks
from pvae.importance import Particles, Sampler, seed_unit, sum_out
from pvae.pair import latent_sites, mask_of
from pvae.runtime import is_out_of_memory

__all__ = ["AggregatePosterior", "Surgery"]

LogQ = Callable[[tuple[Tensor, ...], dict[str, Tensor]], Tensor]

_BLOCK = 2048  # draws that are compared with all data together; each block encodes every datum
_PIECE = 64  # data that are drawn together
_FLOATS = {"cpu": 2**19}  # latent values that are evaluated together
_ENCODINGS = 2**21  # where a datum is encoded again for each draw: a minute or so on a CPU
_FEWEST = 64  # draws all the same
_DENSITY = 0.03  # the price of a density without a network, in runs of the decoder
_TAG = 0x5A


@dataclass(frozen=True)
class AggregatePosterior(Finding, kind="Surgery"):
    r"""One draw z ~ q(z|x_n) for each of n data, weighed against all N data of the part.

    .. math:: \underbrace{E_n \mathrm{KL}(q(z|x_n) \| p(z))}_{\text{rate}}
        = \underbrace{I_q(n; z)}_{\text{mutual information}}
        + \underbrace{\mathrm{KL}(q(z) \| p(z))}_{\text{marginal KL}}, \qquad
        q(z) = \frac1N \sum_{j=1}^N q(z|x_j), \qquad I_q(n; z) \le \log N

    Estimates are means over the draws; standard errors are those of the means.

    Attributes:
        datum: Positions n of the data whose z was drawn, [n].
        log_q_given_x: log q(z|x_n) at the draw of datum n, [n], nats.
        log_q_marginal: log q(z) at the same draw, [n], nats.
        log_prior: log p(z) at the same draw, [n], nats.
        num_data: N, all data of the part.

    Source: Hoffman & Johnson 2016, *ELBO surgery: yet another way to carve up the variational
    evidence lower bound*.

    Example:
        >>> found = AggregatePosterior(
        ...     np.arange(2), np.zeros(2), np.log([0.5, 0.5]), np.array([-1.0, -2.0]), num_data=2
        ... )
        >>> found.rate, round(found.mutual_information, 4), round(found.marginal_kl, 4)
        (1.5, 0.6931, 0.8069)
    """

    title, section, order = "The ELBO surgery", "parts", 50

    log_q_given_x: np.ndarray
    log_q_marginal: np.ndarray
    log_prior: np.ndarray
    num_data: int

    @property
    def mutual_information(self) -> float:
        """I = E[log q(z|x_n) - log q(z)], nats: between 0 and log N, but for noise at 0."""
        return float(self._information.mean())

    @property
    def mutual_information_se(self) -> float:
        """Standard error of `mutual_information`, nats."""
        return _se(self._information)

    @property
    def marginal_kl(self) -> float:
        """KL(q(z) ‖ p(z)) = E[log q(z) - log p(z)], nats."""
        return float((self.log_q_marginal - self.log_prior).mean())

    @property
    def marginal_kl_se(self) -> float:
        """Standard error of `marginal_kl`, nats."""
        return _se(self.log_q_marginal - self.log_prior)

    @property
    def rate(self) -> float:
        """E_n KL(q(z|x_n) ‖ p(z)) from the same draws, nats: the sum of the other two."""
        return float((self.log_q_given_x - self.log_prior).mean())

    @property
    def log_num_data(self) -> float:
        """Log N, nats: the most that the mutual information can be."""
        return math.log(self.num_data)

    def summary(self, known: Known) -> dict[str, Any]:
        return {
            "num_data": self.num_data,
            "num_draws": len(self),
            "mutual_information": finite(self.mutual_information),
            "mutual_information_se": finite(self.mutual_information_se),
            "log_num_data": self.log_num_data,
            "marginal_kl": finite(self.marginal_kl),
            "marginal_kl_se": finite(self.marginal_kl_se),
        }

    def panels(self, known: Known) -> list[Panel]:
        return [attempt("surgery", "ELBO surgery: what the rate is spent on", _split_rate, self)]

    def line(self, summary: dict[str, Any]) -> str:
        return (
            f"index-code mutual information {show(summary['mutual_information'])} (at most log N = "
            f"{self.log_num_data:.2f}), marginal KL {show(summary['marginal_kl'])}"
        )

    @property
    def _information(self) -> np.ndarray:
        return self.log_q_given_x - self.log_q_marginal


@dataclass(frozen=True)
class Surgery(Estimator):
    r"""Draws one z ~ q(z|x_n) for each n, and evaluates q(z) = 1/N Σ_j q(z|x_j) without sampling.

    The code z is all of the guide's latent sites, those included that it enumerates: here they
    are sampled. Sites that only the model enumerates are summed out of p(z). Where the prior
    depends on the datum (a label among the pair's arguments), log p is that of datum n, and the
    marginal KL is a difference of expectations, not a divergence.

    The price is n·N densities of the guide, n draws and, for each 2048 draws, N encodings. A
    guide that cannot have a particle plate pays n·N encodings: there n is cut so that these are
    at most two million, and the draws are those of n data chosen at random. With several latent
    sites, whose networks see each draw, n·N is at most twenty million. Memory does not grow with
    N beyond the data themselves.

    Attributes:
        num_data: Number of data whose z is drawn, at random; None for all.

    Raises:
        PvaeError: If the guide samples nothing, or a site that the model does not have; if a
            latent site is masked for some data only; if the guide's density cannot be evaluated
            at the draws of other data; or if a density is NaN.

    Source: Hoffman & Johnson 2016, *ELBO surgery: yet another way to carve up the variational
    evidence lower bound*.
    """

    name, finding = "surgery", AggregatePosterior

    @classmethod
    def from_options(cls, surgery: bool = True) -> Self | None:
        """ELBO surgery.

        Args:
            surgery: Whether to look at the aggregate of q(z|x) over the data, which takes as long
                as everything else where there are many data and few samples, and much longer in
                hierarchies.
        """
        return cls() if surgery else None

    def plan(self, asked: Sequence[Estimator], task: Task) -> list[Estimator]:
        applies = task.sampler.bound or (task.sampler.structure.latent and not task.code)
        return [self] if applies else []

    def cost(self, sampler: Sampler) -> float:
        # A density of the guide for each other datum, or a call of it.
        count = self.num_data or 0
        plate = sampler.strategy == "plate"
        return _DENSITY * count if plate else min(count, _ENCODINGS / max(1, count))

    def estimate(self, task: Task) -> AggregatePosterior:
        sampler, positions, num_data = task.sampler, task.positions, len(task.data)
        if sampler.bound:
            raise PvaeError(
                "The pair runs with all its data together and no others, and the aggregate "
                "posterior is made of each datum's q(z|x) at the draws of the others. Let the "
                "programs take their shapes from their arguments."
            )
        seed_unit(task.seed, 0, purpose=_TAG)
        log_q, layout = _log_q(sampler, task.batch(np.arange(min(6, num_data))))
        chained = len(latent_sites(sampler.structure.guide_trace)) > 1
        if layout != "plate" or chained:  # networks see each datum again for each draw
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
                prior = sum_out(t for name, t in terms.items() if name not in observed)
                drawn.append({name: value[0] for name, value in values.items()})
                log_prior.append(prior[0].double())
            values = {name: torch.cat([each[name] for each in drawn]) for name in drawn[0]}
            given, marginal = _against_all(log_q, values, task, block, rows)
            found = {
                "log_q_given_x": given,
                "log_q_marginal": marginal,
                "log_prior": torch.cat(log_prior),
            }
            for name, value in found.items():
                bad = (value.isnan() | (value == math.inf)).nonzero()
                if len(bad):
                    raise PvaeError(
                        f"{name} is {float(value[bad[0, 0]])} at the draw of datum "
                        f"{int(block[int(bad[0, 0])])}. Check the parameters and this datum for "
                        "NaN, and the distributions for scales that reach zero."
                    )
            return {name: value.cpu().numpy() for name, value in found.items()}

        columns = task.map("surgery", in_blocks(positions, _BLOCK), compute)
        return AggregatePosterior(positions, **columns, num_data=num_data)


def _refuse_other_sites(sampler: Sampler, batch: tuple[Tensor, ...]) -> None:
    """Raises a PvaeError if masks give some data other latent sites than others have."""
    first = {n: mask_of(s) for n, s in latent_sites(sampler.structure.guide_trace).items()}
    if all(mask is None for mask in first.values()):
        return
    trace = sampler.particles.guide(batch, 1, enumerate=False)
    for name, expected in first.items():
        if expected is None:
            continue
        axis = sampler.dim - trace.nodes[name]["fn"].event_dim
        if expected.ndim >= -axis:
            expected = expected.narrow(axis, 0, 1)
        if (mask_of(trace.nodes[name]) != expected).any():
            raise PvaeError(
                f"Site {name!r} of the guide is masked for some data and not for others: their "
                "codes have other sites, so that no q(z) is common to all data."
            )


def _against_all(
    log_q: LogQ,
    values: dict[str, Tensor],
    task: Task,
    block: np.ndarray,
    rows: int,
) -> tuple[Tensor, Tensor]:
    """Returns log q(z_m|x_m) and log q(z_m), each [M], of the draws of a block.

    Both come from one evaluation, so that their difference is at most log N to the last bit.
    """
    num, num_data, device = len(block), len(task.data), task.device
    # The encoder's share is least where many draws meet few data.
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
    """Finds how log q(z|x), [M, B], is evaluated at draws of other data, given as rows."""
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
            "The surgery needs log q(z|x_j) at draws of other data, and this guide's density "
            f"cannot be evaluated away from its own samples ({reason}). A flow needs an inverse."
        )
    if sampler.strategy == "plate":
        return usual, "plate"
    # Often only the model cannot have a particle plate; the guide then need not encode each
    # datum once for each draw.
    try:
        found = in_plate(batch, strange)
        if torch.allclose(found, expected, 1e-4, 1e-4):
            return in_plate, "plate"
    except (PvaeError, RuntimeError, ValueError, IndexError) as error:
        if is_out_of_memory(error):
            raise
    return usual, sampler.strategy


def _se(values: np.ndarray) -> float:
    if len(values) < 2:
        return math.nan
    return float(values.std(ddof=1) / math.sqrt(len(values)))


def _split_rate(found: AggregatePosterior) -> Panel | None:
    """Draws the rate as mutual information and marginal KL, beside log N."""
    parts = [
        ("index-code mutual information", found.mutual_information, found.mutual_information_se),
        ("marginal KL(q(z) ‖ p(z))", found.marginal_kl, found.marginal_kl_se),
    ]
    most = found.log_num_data
    if not all(math.isfinite(value) for _, value, _ in parts):
        return None
    body = responsive(lambda width: steps("ELBO surgery", parts, "rate", found.rate, width, most))
    n = text.count(found.num_data)
    note = (
        "Rate = mutual information + marginal KL (Hoffman & Johnson 2016), from one draw of z for "
        f"{text.plural(len(found), 'datum', 'data')}. The first says how well a code tells which "
        f"of the {n} data it is of; it cannot exceed log N = {text.number(most)} nats, the dashed "
        "line, and close to it only says that N is small for this pair, and that the other part is "
        "overstated. The second says how far the codes of all data together are from the prior: "
        "what a better prior could win."
    )
    return Panel((body,), note)
