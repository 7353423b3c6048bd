"""evaluate(): streams the log weights of a pair over a data set into an Evaluation."""

import numpy as np
import torch
from torch import Tensor

from pvae.data import Data, Part
from pvae.data.tensors import Tensors
from pvae.environment import default_device, find_device, own_random_state
from pvae.errors import PvaeError
from pvae.evaluation.active_units import ActiveUnits
from pvae.evaluation.bounds import bound, effective_sample_size, log_px_se
from pvae.evaluation.pareto import khat, khat_threshold
from pvae.evaluation.result import Evaluation
from pvae.importance import Sampler, Strategy
from pvae.pair import Program, modules, name_of
from pvae.progress import tqdm

__all__ = ["evaluate"]

_BOUNDS = (1, 5, 50, 500, 5000)
_WEIGHTS = 2**21  # log weights held at a time: 16 MiB in double precision


def evaluate(
    model: Program,
    guide: Program,
    data: Data | Part | Tensor | tuple[Tensor, ...],
    *,
    num_samples: int = 5000,
    seed: int = 0,
    strategy: Strategy = "auto",
    plate: str | None = None,
    device: str = "auto",
    progress: bool = True,
) -> Evaluation:
    r"""Bounds log p(x) of every datum by importance sampling with the guide.

    .. math:: \mathrm{ELBO} = E[\log w], \qquad
        L_K = E \left[ \log \frac1K \sum_{k=1}^K w_k \right] \le \log p_\theta(x), \qquad
        w_k = \frac{p_\theta(x, z_k)}{q_\phi(z_k | x)}

    Memory grows neither with `num_samples` nor, beyond the data and a few numbers for each
    datum, with the data. The work is cut into fixed units (data × samples), each drawn from
    its own seed, so that the same seed gives the same numbers on the same device.

    Args:
        model: Pyro program p(z) p(x|z), called as `model(*batch)`.
        guide: Pyro program q(z|x), called as `guide(*batch)`.
        data: What `pvae.data.load` returns (its test part is used), one part of it, or the
            pair's arguments: a tensor or a tuple of tensors of the same leading size N.
        num_samples: K, samples for each datum; L_K is reported for K = 1, 5, 50, 500, 5000
            below it, and for K itself.
        seed: Seed of the draws.
        strategy: See `pvae.log_weights`.
        plate: Name of the batch plate, where it is ambiguous.
        device: `"auto"` (the GPU where there is one), `"cpu"`, `"cuda"`, …
        progress: Whether to show a progress bar.

    Returns:
        Bounds, errors and diagnostics, datum by datum; `summary()` has their means.

    Raises:
        PvaeError: As `pvae.log_weights`.

    Source: Burda, Grosse & Salakhutdinov 2016, *Importance Weighted Autoencoders*.

    Example:
        >>> from pvae import data, evaluate, guides, models
        >>> digits = data.load("digits")
        >>> model, guide = models.VAE((1, 8, 8)), guides.MeanField((1, 8, 8))
        >>> evaluation = evaluate(model, guide, digits, num_samples=50, progress=False)
        >>> evaluation.log_px.shape
        (297,)
    """
    if num_samples < 1:
        raise PvaeError(f"num_samples={num_samples}: at least one sample is needed.")
    part = data.test if isinstance(data, Data) else data
    part = part if isinstance(part, Part | Tensors) else Tensors(part)
    place = find_device(device)
    for module in modules(model, guide).values():
        module.to(place)
    part = part.to(place)
    with own_random_state(seed), default_device(place):
        first = _rows(part, 0, min(len(part), 64), place)
        sampler = Sampler(model, guide, *first, strategy=strategy, plate=plate)
        # A unit holds few data and many samples, so that the encoder runs seldom; a loop has
        # one sample at a time and wants many data.
        most = max(1, _WEIGHTS // num_samples)
        step = min(most, sampler.rows(place) if sampler.strategy == "loop" else 32)
        columns: dict[str, list[np.ndarray]] = {}
        active = ActiveUnits()
        with (
            sampler,
            tqdm(total=len(part), unit="datum", disable=not progress, desc="evaluate") as bar,
        ):
            for start in range(0, len(part), step):
                batch = _rows(part, start, min(start + step, len(part)), place)
                for name, values in _datum_by_datum(
                    sampler, batch, num_samples, seed, start, active
                ).items():
                    columns.setdefault(name, []).append(values)
                bar.update(len(batch[0]))
    arrays = {name: np.concatenate(values) for name, values in columns.items()}
    sites = {
        name: {"kl": _finite(arrays.pop(f"kl {name}").mean()), "active_units": active.count(name)}
        for name in sampler.structure.latent
    }
    bounds = {k: arrays.pop(f"bound {k}") for k in _bounds(num_samples)}
    named = isinstance(data, Data)
    return Evaluation(
        **arrays,
        bounds=bounds,
        log_px=bounds[num_samples],
        sites=sites,
        num_samples=num_samples,
        seed=seed,
        khat_threshold=khat_threshold(num_samples),
        model=name_of(model),
        guide=name_of(guide),
        data={
            "name": data.name if named else "tensor",
            "observation": data.observation if named else "as given",
            "hash": part.hash,
        },
        strategy=sampler.strategy,
        caveat=sampler.structure.caveat,
    )


def _datum_by_datum(
    sampler: Sampler,
    batch: tuple[Tensor, ...],
    num_samples: int,
    seed: int,
    start: int,
    active: ActiveUnits,
) -> dict[str, np.ndarray]:
    """Everything about B data from all their samples, held together only here."""
    size = len(batch[0])
    log_w = np.empty((size, num_samples))
    elbo = np.zeros(size)
    kl = {name: np.zeros(size) for name in sampler.structure.latent}
    done = 0
    for draws in sampler.stream(batch, num_samples, first=start, seed=seed):
        count = len(draws.log_w)
        log_w[:, done : done + count] = draws.log_w.T.double().cpu().numpy()
        elbo += draws.elbo.double().sum(0).cpu().numpy()
        for name, terms in draws.kl.items():
            kl[name] += terms.double().sum(0).cpu().numpy()
        active.add(draws.means)
        done += count
    active.end_data(num_samples)
    elbo /= num_samples
    kl = {name: total / num_samples for name, total in kl.items()}
    total = sum(kl.values()) if kl else np.zeros(size)
    with np.errstate(invalid="ignore"):  # -inf + inf, where some weight is zero
        reconstruction = elbo + total
    return {
        "elbo": elbo,
        "log_px_se": log_px_se(log_w),
        "khat": khat(log_w),
        "ess": effective_sample_size(log_w),
        "kl": total,
        "reconstruction": reconstruction,
        "zero_weights": np.isneginf(log_w).mean(1),
        **{f"kl {name}": values for name, values in kl.items()},
        **{f"bound {k}": bound(log_w, k) for k in _bounds(num_samples)},
    }


def _bounds(num_samples: int) -> list[int]:
    return [k for k in _BOUNDS if k < num_samples] + [num_samples]


def _rows(part: Part | Tensors, start: int, stop: int, device: torch.device) -> tuple[Tensor, ...]:
    return tuple(tensor.to(device) for tensor in part.observe(slice(start, stop)))


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
