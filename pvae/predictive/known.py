"""The pair of the known values of x: p(z) p(x_known|z), and weights of its samples."""

import functools
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pvae.distributions import known_values, only
from pvae.errors import PvaeError
from pvae.importance import Sampler, few, rows_at, seed_unit
from pvae.pair import (
    Inspection,
    Program,
    inspect,
    latent_sites,
    name_of,
    observed_sites,
    refuse_unbounded,
)
from pvae.runtime import is_out_of_memory

_PRIOR = 0.2  # the prior's share of the samples

__all__ = ["KnownPart", "Weighted", "blank", "known_of", "spare_of"]


class Weighted(NamedTuple):
    """K samples of z for each of B data, with weights for p(z | x_known).

    Attributes:
        values: The latents as rows [K, B, *rest], by site.
        log_w: log p(x_known, z) − log q(z), [K, B], nats; their mean weight estimates p(x_known).
    """

    values: dict[str, Tensor]
    log_w: Tensor


def known_of(known: Any, x: Tensor) -> Tensor:
    """Returns which values are known for each datum, booleans [B, *event].

    Args:
        known: Booleans [B, *event], [*event], or of the first dimensions of an event.
        x: The data, [B, *event].

    Raises:
        PvaeError: If they have another type or shape, or all or none of the values are known.
    """
    known = torch.as_tensor(known, device=x.device)
    if known.dtype != torch.bool or known.shape != x.shape:
        known = known_values(known, x.shape[1:]).expand(x.shape)
    if known.all():
        raise PvaeError(
            "known is True everywhere: no value is missing, and there is nothing to complete. "
            "Give False where a value is missing."
        )
    if not known.any():
        raise PvaeError(
            "known is False everywhere: no value is given. Draw from p(x) with pvae.generate, and "
            "bound log p(x) with pvae.evaluate."
        )
    return known


class KnownPart:
    r"""The pair of the known values, whose samples of z are weighted.

    .. math:: p(z) \, p(x_{\text{known}} \mid z), \qquad
        q(z) = \frac{\alpha}{M} \sum_m q(z \mid x_{\text{known}}, \hat x^{(m)}_{\text{missing}})
            + (1 - \alpha) \, p(z), \qquad \alpha = 0.8

    The M imputations come from M chains of Gibbs steps in which the guide stands for the
    posterior: z ~ q(z|x), then x_missing ~ p(x_missing|z). Whatever they are, the mean weight is
    an unbiased estimate of p(x_known); the prior keeps the weights bounded. If the guide's density
    is known at its own samples only, each sample is weighted by the one density that it came
    from, without the prior. With enumerated sites, the prior is left out.

    Args:
        inspection: The pair, inspected on data without the missing values (see `blank`).
        known: Which values are known, [B, *event].
        num_chains: M.
        num_steps: Gibbs steps of each chain.

    Raises:
        PvaeError: If x's likelihood does not factorise given z, or the pair has no bound.
    """

    def __init__(
        self, inspection: Inspection, known: Tensor, num_chains: int, num_steps: int
    ) -> None:
        self.model = inspection.model
        self.site = _site_of(inspection)
        refuse_unbounded(inspection)
        site = inspection.structure.model_trace.nodes[self.site]
        try:
            only(site["fn"], known.reshape(site["value"].shape))
        except PvaeError as error:
            where = f"Site {self.site!r} of the model {name_of(self.model)}"
            raise PvaeError(f"{where}: {error}") from None
        found = inspect(
            functools.partial(_of_known, inspection.model, self.site),
            functools.partial(_of_data, inspection.guide),
            *inspection.batch,
            known,
            plate=inspection.plate,
        )
        self.sampler = Sampler(found)
        self.num_chains, self.num_steps = num_chains, num_steps
        in_guide = latent_sites(self.sampler.structure.guide_trace)
        self.unsampled = [n for n in self.sampler.structure.enumerated if n not in in_guide]

    def __enter__(self) -> "KnownPart":
        self.sampler.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.sampler.__exit__(*error)

    @property
    def exact(self) -> bool:
        """Whether all latents are summed out, so that log p(x_known) is exact."""
        structure = self.sampler.structure
        return set(structure.latent) <= set(structure.enumerated)

    def log_w(self, batch: tuple[Tensor, ...], num: int, first: int = 0, seed: int = 0) -> Tensor:
        """Returns log weights for p(x_known), [K, B].

        Args:
            batch: The data without the missing values, and `known` at the end.
            num: K, or a few more, so that each imputation has as many.
            first: Number of the first datum, for seeds.
            seed: Seed of the samples.
        """
        if self.exact:
            return next(iter(self.sampler.stream(batch, 1, first, seed))).log_w
        return self.weighted(batch, num, first, seed).log_w

    def weighted(
        self, batch: tuple[Tensor, ...], num: int, first: int = 0, seed: int = 0
    ) -> Weighted:
        """Draws z from the mixture over imputations, with weights; see `log_w`."""
        seed_unit(seed, first, purpose=7)
        imputed = [] if self.unsampled else self.imputations(batch)
        imputed, size = imputed or [batch], len(batch[0])
        prior = 0 if self.sampler.structure.enumerated else math.ceil(_PRIOR * num)
        counts = [math.ceil((num - prior) / len(imputed))] * len(imputed)
        each = [self._draw(other, n) for other, n in zip(imputed, counts, strict=True)]
        drawn, own = [values for values, _ in each], torch.cat([q for _, q in each])
        parts = [*drawn, self.sampler.prior(batch, prior)] if prior else drawn
        values = _joined(parts)
        mixed = self._mixture(imputed, counts, values)
        if mixed is None:
            values, prior = _joined(drawn), 0

        def run(start: int, stop: int) -> dict[str, Tensor]:
            part = {name: value[start:stop] for name, value in values.items()}
            terms = self.sampler.terms(batch, stop - start, part)
            observed = self.sampler.structure.observed
            log_prior = [term for name, term in terms.items() if name not in observed]
            sums = {"joint": terms.values()} | ({"prior": log_prior} if prior else {})
            return {name: self._add(each, stop - start, batch[0]) for name, each in sums.items()}

        total = sum(counts) + prior
        p = self.sampler.chunks.run(total, size, run)
        if mixed is None:
            return Weighted(values, p["joint"] - own)
        if prior:
            mixed = torch.logaddexp(mixed, p["prior"] + math.log(prior))
        return Weighted(values, p["joint"] - mixed + math.log(total))

    def imputations(self, batch: tuple[Tensor, ...]) -> list[tuple[Tensor, ...]]:
        """Returns the data with the missing values of each of M chains."""
        size, found = len(batch[0]), []
        together = 1 if self.sampler.bound else self.num_chains
        for _ in range(self.num_chains // together):
            many = tuple(t.repeat(together, *(1,) * (t.ndim - 1)) for t in batch)
            for step in range(self.num_steps):
                before, values = many, self.sampler.posterior(many, 1)
                x = self.drawn(many, values)[0]
                many = (torch.where(many[-1], many[0], x), *many[1:])
                if step == 0:
                    self._refuse_reading(before, many, values)
            found += zip(*(t.split(size) for t in many), strict=True)
        return found

    def drawn(
        self, batch: tuple[Tensor, ...], values: dict[str, Tensor], *, mean: bool = False
    ) -> Tensor:
        """Draws all of x from p(x|z), [n, B, *event], at given latents, or returns its mean.

        The mean is of floats; it is NaN if the likelihood has none, as that of classes.
        """
        x, particles = batch[0], self.sampler.particles
        num = next((len(value) for value in values.values()), 1)
        if self.sampler.strategy == "loop" and num > 1:
            rows = ({n: v[k : k + 1] for n, v in values.items()} for k in range(num))
            return torch.cat([self.drawn(batch, row, mean=mean) for row in rows])
        fn = particles.model(batch, num, values).nodes[self.site]["fn"]
        value = fn.mean if mean else fn.sample()
        rows = particles.rows(value, fn.event_dim, num, len(x)).reshape(num, *x.shape)
        return rows if mean and not x.is_floating_point() else rows.to(x.dtype)

    def _draw(self, batch: tuple[Tensor, ...], num: int) -> tuple[dict[str, Tensor], Tensor]:
        """Draws z ~ q(z|x), as rows, with log q(z|x), [K, B]."""
        if self.sampler.strategy == "loop" and num > 1:
            each = [self._draw(batch, 1) for _ in range(num)]
            return _joined([values for values, _ in each]), torch.cat([q for _, q in each])
        particles, size = self.sampler.particles, len(batch[0])
        trace = particles.guide(batch, num, enumerate=False)
        q = particles.log_terms(trace, num, size, observed=False)
        # What only the model sums out has no value here.
        values = particles.rows_of(trace, num, size, enumerated=True)
        return values, self._add(q.values(), num, batch[0])

    def _mixture(
        self, imputed: list[tuple[Tensor, ...]], counts: list[int], values: dict[str, Tensor]
    ) -> Tensor | None:
        """Returns log Σ_m n_m q(z|x_m), [K, B]; None if the guide cannot compute it."""
        num, found = len(next(iter(values.values()), ())), None
        for other, count in zip(imputed, counts, strict=True):
            try:
                terms = self.sampler.guide_terms(other, num, values, enumerate=False)
            except (PvaeError, NotImplementedError, KeyError) as error:
                if is_out_of_memory(error):
                    raise
                return None
            q = self._add(terms.values(), num, other[0]) + math.log(count)
            found = q if found is None else torch.logaddexp(found, q)
        return found

    def _add(self, terms: Iterable[Tensor], num: int, x: Tensor) -> Tensor:
        """Returns the sum of log densities, [K, B]; 0 without any."""
        terms = list(terms)
        return self.sampler.particles.sum_out(terms) if terms else x.new_zeros(num, len(x))

    def _refuse_reading(
        self, before: tuple[Tensor, ...], after: tuple[Tensor, ...], values: dict[str, Tensor]
    ) -> None:
        """Raises a PvaeError if the density of the known values changes with the missing ones."""
        if not self.sampler.bound:
            rows = few(len(before[0]))
            before, after = rows_at(before, rows), rows_at(after, rows)
            values = {name: value[:, rows] for name, value in values.items()}
        ours, theirs = (self.sampler.terms(t, 1, values)[self.site] for t in (before, after))
        if not torch.allclose(ours, theirs, 1e-3, 1e-3, equal_nan=True):
            raise PvaeError(
                f"The density of site {self.site!r} of the model {name_of(self.model)} changes "
                "with the data that it observes, as that of an autoregressive decoder does: the "
                "known values have no density by themselves that could be computed."
            )


class _Known(Messenger):
    """Leaves the missing values out of the density of x."""

    def __init__(self, site: str, known: Tensor) -> None:
        super().__init__()
        self.site, self.known = site, known

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["name"] == self.site:
            msg["fn"] = only(msg["fn"], self.known.reshape(msg["value"].shape))


def _joined(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _of_known(model: Program, site: str, *batch: Tensor) -> Any:
    with _Known(site, batch[-1]):
        return model(*batch[:-1])


def _of_data(guide: Program, *batch: Tensor) -> Any:
    return guide(*batch[:-1])


def blank(x: Tensor, known: Tensor, spare: Tensor | None = None) -> Tensor:
    """Returns x without its missing values, which become others that are as possible.

    Args:
        x: Data [B, *event].
        known: Which values are known, [B, *event].
        spare: See `spare_of`; None is that of these data.
    """
    return torch.where(known, x, spare_of(x, known) if spare is None else spare)


def spare_of(x: Tensor, known: Tensor) -> Tensor:
    """Returns a value for each place of an event, [*event]: the known one nearest to their mean.

    Where no datum knows a place, it is one of all known values; zeros if there is none.
    """
    values = x[known]
    if not len(values):
        return torch.zeros_like(x[0])
    number = known.sum(0)
    mean = torch.where(known, x, 0).sum(0, dtype=torch.double) / number
    nearest = torch.where(known, (x.double() - mean).abs(), math.inf).argmin(0, keepdim=True)
    middle = values[(values.double() - values.double().mean()).abs().argmin()]
    return torch.where(number > 0, x.gather(0, nearest)[0], middle)


def _site_of(found: Inspection) -> str:
    """Returns the observed site whose value is x, the first tensor of the batch."""
    x, names = found.batch[0], []
    for name, site in observed_sites(found.structure.model_trace).items():
        value = site["value"]
        if value.numel() == x.numel() and torch.equal(value.reshape(x.shape).to(x.dtype), x):
            names.append(name)
    if len(names) != 1:
        sites = ", ".join(repr(n) for n in observed_sites(found.structure.model_trace)) or "none"
        raise PvaeError(
            f"The model {name_of(found.model)} observes x, the first argument, at "
            f"{len(names) or 'no'} site{'s' * (len(names) > 1)} (observed sites: {sites}). To "
            "complete x, one site must observe its values unchanged."
        )
    return names[0]
