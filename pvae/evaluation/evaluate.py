"""evaluate(): everything that is known about log p(x) of a data set, put into an Evaluation."""

import dataclasses
import math
import os
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from pvae.data import Data, Split, as_data
from pvae.errors import PvaeError, reason_of
from pvae.evaluation.cost import expected_time
from pvae.evaluation.estimators import annealed
from pvae.evaluation.estimators.aggregate import surgery as surgery_of
from pvae.evaluation.estimators.gap import gap as inference_gap
from pvae.evaluation.estimators.importance import from_weights
from pvae.evaluation.estimators.pareto import khat_threshold
from pvae.evaluation.estimators.point import fingerprint_of_code, from_code, is_code, prior_of
from pvae.evaluation.estimators.prior import NUM_SAMPLES, from_prior
from pvae.evaluation.estimators.quadrature import quadrature as quadrature_of
from pvae.evaluation.identity import check_counts, choose, describe, discretised, fingerprint_of
from pvae.evaluation.result import Evaluation
from pvae.evaluation.work import Whole, Work, take
from pvae.importance import Density, Sampler, Strategy
from pvae.pair import Program, TensorSplit, alone, check_data, given, inspect, move, name_of
from pvae.runtime import check_seed, default_device, find_device, own_random_state

__all__ = ["evaluate"]

_PRIOR_RUNS = 2**18  # of the decoder, which the prior may take without being asked for
_WORDS = {
    "prior": "Naive Monte Carlo from the prior",
    "surgery": "The ELBO surgery",
    "quadrature": "Quadrature",
    "ais_prior": "AIS from the prior",
    "ais_guide": "AIS from the guide",
    "bdmc": "Bidirectional Monte Carlo",
    "gap": "The inference gap",
}


@alone
def evaluate(
    model: Program,
    guide: Program,
    data: Data | Split | Tensor | tuple[Any, ...],
    *,
    num_samples: int | list[int] = 5000,
    num_data: int | None = None,
    prior_samples: int | None = None,
    ais: int = 0,
    bdmc: int = 0,
    gap: int = 0,
    quadrature: int | bool = False,
    surgery: bool = True,
    num_chains: int = 16,
    num_temperatures: int = 500,
    num_leapfrog: int = 2,
    seed: int = 0,
    strategy: Strategy = "auto",
    plate: str | None = None,
    memory: float | None = None,
    device: str = "auto",
    out: str | os.PathLike[str] | None = None,
    progress: bool = True,
    **kwargs: Any,
) -> Evaluation:
    r"""Bounds log p(x) of every datum, and says how far the bounds can be trusted.

    .. math:: \mathrm{ELBO} = E[\log w], \qquad
        L_K = E \left[ \log \frac1K \sum_{k=1}^K w_k \right] \le \log p_\theta(x), \qquad
        w_k = \frac{p_\theta(x, z_k)}{q_\phi(z_k | x)}

    From one stream of weights come the ELBO, L_K for each K, the jackknife and the
    Pareto-smoothed estimates and the diagnostics; beside it naive Monte Carlo from the prior
    and the ELBO surgery. Annealed importance sampling, bidirectional Monte Carlo, the inference
    gaps and quadrature are asked for by the number of data they may cost.

    A guide that gives a point z = f(x) (a Delta: an autoencoder) has no density, and there is no
    bound. The evaluation says so, and reports log p(x, z) and the squared error at the point, in
    `findings["code"]`; what needs no guide (the prior, AIS from there, bidirectional Monte
    Carlo, quadrature) still estimates log p(x).

    Memory grows neither with `num_samples` (up to a million, whose weights of one datum are
    held together) nor, beyond the data and a few numbers for each datum, with the data. The work
    is cut into fixed units (data × samples), each drawn from its own seed: the same seed gives
    the same draws whatever the chunks, the interruptions and the number of processes, and on a
    CPU, with as many threads, the same numbers bit for bit. Under `torchrun` the data are shared
    out over the processes.

    Args:
        model: Pyro program p(z) p(x|z), called as `model(*batch, **kwargs)`.
        guide: Pyro program q(z|x), called as `guide(*batch, **kwargs)`.
        data: What `pvae.data.load` returns (its test part is used), one part of it, or the
            pair's arguments: a tensor of leading size N, or a tuple of such tensors and what else
            the programs take, as for `pvae.check`.
        num_samples: K, samples for each datum; L_K is reported for K = 1, 5, 50, 500, 5000
            below it, and for K itself. Or an increasing list of all these K.
        num_data: How many of the data are evaluated, drawn at random, the same ones for every
            seed; None for all.
        prior_samples: Samples for each datum from the prior, for naive Monte Carlo; 0 for none.
            None is 500, but none at all where each datum needs draws of its own and they would
            take more runs of the decoder than the bounds (and more than 262,144).
        ais: Number of data, drawn at random, for annealed importance sampling, from the prior
            (which can find modes that the guide misses) and from the guide. At most all data
            are taken, here and in the next two.
        bdmc: Number of data simulated from the model for bidirectional Monte Carlo.
        gap: Number of data for the inference gaps, which need AIS on as many; AIS that is there
            already for as many is used.
        surgery: Whether to look at the aggregate of q(z|x) over the data, which takes as long as
            everything else where there are many data and few samples, and much longer in
            hierarchies.
        quadrature: Number of data for which a latent space of one or two dimensions is
            integrated over; True for all.
        num_chains: Chains for each datum, in AIS.
        num_temperatures: Temperatures, in AIS.
        num_leapfrog: Leapfrog steps at each temperature, in AIS.
        seed: Seed of the draws.
        strategy: See `pvae.log_weights`.
        plate: Name of the batch plate, where it is ambiguous.
        memory: MiB for the weights and activations of a chunk of samples; None is 64 on the CPU
            and 4096 on a GPU. Gradients (AIS, gaps) have chunks of their own.
        device: `"auto"` (the GPU where there is one), `"cpu"`, `"cuda"`, …
        out: A run folder. The evaluation is saved there, and what is done of it is kept there
            until it is complete: the same call goes on after an interruption. An evaluation
            that is there already, of the same pair, data, seed and samples, is added to;
            another one is replaced, with a warning.
        progress: Whether to show progress bars, and how long the work is expected to take.
        **kwargs: Arguments of the programs by name.

    Returns:
        Bounds, errors and diagnostics, datum by datum; `summary()` has their means. What does
        not apply to this pair, or failed, is in `missing`, with the reason; what was computed
        before is kept.

    Raises:
        PvaeError: As `pvae.log_weights`; if a number of samples or data makes no sense.

    Source: Burda, Grosse & Salakhutdinov 2016, *Importance Weighted Autoencoders*; each
    estimator names its own.

    Example:
        >>> from pvae import data, evaluate, guides, models
        >>> digits = data.load("digits")
        >>> model, guide = models.VAE((1, 8, 8)), guides.MeanField((1, 8, 8))
        >>> evaluation = evaluate(model, guide, digits, num_samples=50, progress=False)
        >>> evaluation.log_px.shape
        (297,)
    """
    annealing = {
        "num_chains": num_chains,
        "num_temperatures": num_temperatures,
        "num_leapfrog": num_leapfrog,
    }
    counts = {"ais": ais, "bdmc": bdmc, "gap": gap, "quadrature": quadrature}
    some = {"num_data": num_data, "prior_samples": prior_samples}
    given_counts = {name: value for name, value in some.items() if value is not None}
    ks = check_counts(num_samples, **counts, **given_counts, **annealing)
    # Integers of numpy, say, could not be saved.
    ais, bdmc, gap, _ = map(int, counts.values())
    annealing = {name: int(value) for name, value in annealing.items()}
    seed = check_seed(seed)
    place = find_device(device)
    # Some estimators follow gradients, whatever mode they are called in.
    with torch.inference_mode(False), own_random_state(seed), default_device(place):
        move(place, model, guide)
        data = as_data(data)
        part = data.test if isinstance(data, Data) else data
        part, (model, guide) = given(part, kwargs, place, model, guide)
        rows = choose(len(part), num_data)
        part = part if rows is None else part.take(rows)
        described = describe(data, part)
        quadrature = len(part) if quadrature is True else int(quadrature)
        everything = np.arange(len(part))
        order = np.random.default_rng(seed).permutation(len(part))
        batch = take(part, everything[:64], place)
        found = inspect(model, guide, *batch, plate=plate)
        code, drawn_by = is_code(found), guide
        if code:
            drawn_by = prior_of(model, guide)
            found = inspect(model, drawn_by, *batch, plate=plate)
        sampler = Sampler(found, strategy=strategy, memory=memory)
        if sampler.bound:  # all data together, or not at all
            part = Whole(part, len(batch[0]), guide)
            ais, bdmc, gap, quadrature = (
                len(part) if n else 0 for n in (ais, bdmc, gap, quadrature)
            )
        described |= discretised(data, sampler.structure)
        few = len(batch[0])
        caveat, fault = check_data(model, drawn_by, part, place, size=few, seen=few)
        if fault:
            raise PvaeError(fault)
        names = name_of(model), name_of(guide)
        pair = [*names, sampler.strategy, sampler.plate, *fingerprint_of(sampler, batch)]
        if code:  # nothing is sampled, and what tells guides apart is the code
            ks, pair = [], [*pair, fingerprint_of_code(sampler, guide, batch)]
        key = {
            "pair": pair,
            "data": described["hash"],
            "num_samples": ks,
            "seed": seed,
            "device": place.type,
        }
        folder = None if out is None else Path(out)
        options = {**counts, **given_counts, **annealing, "surgery": surgery}
        work = Work(folder, key, progress, **options)
        work.whole = sampler.bound
        shared = (sampler, part)
        where = {"work": work, "device": place}
        with work, sampler:
            result = _former(folder, work)
            latent = set(sampler.structure.latent) - set(sampler.structure.enumerated)
            former = {} if result is None else result.settings
            plan = _plan(
                everything,
                order,
                prior=prior_samples if latent else 0,
                most=len(part) * (ks[-1] if ks else 0),
                surgery=bool(
                    sampler.structure.latent and not code and surgery and not sampler.bound
                ),
                quadrature=quadrature,
                ais=ais,
                bdmc=bdmc,
                gap=0 if code else gap,
                code=code,
                former=former,
                annealing=annealing,
            )
            if progress and work.rank == 0 and not sampler.bound:
                todo = {} if result or code else {"bounds": (len(part), {"num_samples": ks[-1]})}
                todo |= {
                    task.name: (len(task.positions), task.settings)
                    for task in plan
                    if task.due(former)
                }
                if gap and not code and former.get("gap", {}).get("num_data", 0) < gap:
                    todo["gap"] = (len(order[:gap]), {})
                if words := expected_time(sampler, tuple(t[:16] for t in batch), todo):
                    print(words, flush=True)
            if result is None:
                result = Evaluation(
                    **from_code(*shared, guide, **where)
                    if code
                    else from_weights(*shared, ks, seed=seed, **where),
                    num_samples=0 if code else ks[-1],
                    seed=seed,
                    khat_threshold=math.nan if code else khat_threshold(ks[-1]),
                    model=names[0],
                    guide=names[1],
                    data=described,
                    rows=rows,
                    strategy=sampler.strategy,
                    caveat=sampler.structure.caveat or caveat,
                    exact=not latent,
                    key=work.key,
                )
                if "details" in result.missing:
                    warnings.warn(f"Left out: {result.missing['details']}", stacklevel=3)
                result = _save(result, folder, work)

            def add(task: _Task) -> None:
                nonlocal result
                if not task.due(result.settings):
                    return
                work.settings = task.settings
                found, missing, made = dict(result.findings), dict(result.missing), {}
                try:
                    found[task.name] = task.estimate(*shared, task.positions, seed=seed, **where)
                    made = {task.name: task.settings}
                    missing.pop(task.name, None)
                except Exception as error:  # what is known already is worth more than this
                    reason = reason_of(error)
                    if task.name not in found:
                        missing[task.name] = reason
                    warnings.warn(f"{_WORDS[task.name]} was left out: {reason}", stacklevel=4)
                result = dataclasses.replace(
                    result, findings=found, missing=missing, settings=result.settings | made
                )
                result = _save(result, folder, work)

            for task in plan:
                add(task)
            if surgery and sampler.bound:
                add(_Task("surgery", everything, _no_surgery))
            if gap and code:
                add(_Task("gap", np.sort(order[:gap]), _no_gap))
            elif gap:
                some = np.sort(order[:gap])
                source, log_px = _best_known(result, some)
                # With another estimate of log p(x) the gap is another.
                depends = {"of": source, "of_settings": result.settings.get(source)}
                add(_Task("gap", some, partial(inference_gap, log_px=log_px), depends))
        work.close()
    return result


@dataclasses.dataclass(frozen=True)
class _Task:
    """An estimator that was asked for, its data, and the options that its numbers depend on."""

    name: str
    positions: np.ndarray
    estimate: Callable[..., Any]
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def settings(self) -> dict[str, Any]:
        return {"num_data": len(self.positions), **self.options}

    def due(self, former: dict[str, dict[str, Any]]) -> bool:
        """Whether it is not there already, for as many data or more."""
        there = former.get(self.name, {})
        enough = there.get("num_data", 0) >= len(self.positions)
        same = there | {"num_data": len(self.positions)} == self.settings
        return bool(len(self.positions)) and not (enough and same)


def _plan(
    everything: np.ndarray,
    order: np.ndarray,
    *,
    prior: int | None,
    most: int,
    surgery: bool,
    quadrature: int,
    ais: int,
    bdmc: int,
    gap: int,
    code: bool,
    former: dict[str, dict[str, Any]],
    annealing: dict[str, int],
) -> list[_Task]:
    """Returns the estimators beside the bounds, but for the gap, which needs the others' values."""

    def task(name: str, positions: np.ndarray, estimate: Callable, **options: Any) -> _Task:
        return _Task(name, positions, partial(estimate, **options), options)

    plan = []
    if prior != 0:
        limit = max(most, _PRIOR_RUNS) if prior is None else None
        estimate = partial(from_prior, most=limit)
        plan.append(task("prior", everything, estimate, num_samples=int(prior or NUM_SAMPLES)))
    if surgery:
        plan.append(task("surgery", everything, surgery_of))
    if quadrature:
        plan.append(task("quadrature", np.sort(order[:quadrature]), _quadrature))
    some = np.sort(order[: max(ais, gap)])
    if ais or former.get("ais_prior", {}).get("num_data", 0) < len(some):
        for start in ("prior",) if code else ("prior", "guide"):
            options = {"start": start, **annealing}
            plan.append(task(f"ais_{start}", some, annealed.ais, **options))
    simulated = {"start": "prior", **annealing}
    plan.append(task("bdmc", np.sort(order[:bdmc]), annealed.bdmc, **simulated))
    return plan


def _no_surgery(*_: Any, **__: Any) -> NoReturn:
    raise PvaeError(
        "The pair runs with all its data together and no others, and the aggregate posterior is "
        "made of each datum's q(z|x) at the draws of the others. Let the programs take their "
        "shapes from their arguments."
    )


def _no_gap(*_: Any, **__: Any) -> NoReturn:
    raise PvaeError("A guide that gives a point has no bound, and so no gap below log p(x).")


def _quadrature(sampler: Sampler, part: Split | TensorSplit, positions: np.ndarray, **options: Any):
    del options["seed"]  # nothing is drawn but the box to start from
    density = Density(sampler, take(part, positions[:64], options["device"]))
    return quadrature_of(density, part, positions, **options)


def _best_known(evaluation: Evaluation, positions: np.ndarray) -> tuple[str, np.ndarray]:
    """The best estimate of log p(x) at these data: its name, and its values among all N.

    Quadrature, where it is there and certain, else of the estimates from below the one whose
    mean is highest. It is the same one for all data: the highest for each datum would be that of
    the luckiest draws.
    """
    names, best, source = ("quadrature", "ais_prior", "ais_guide"), evaluation.log_px, "log_px"
    for name in names:
        found = evaluation.findings.get(name)
        if found is None or not np.isin(positions, found.datum).all():
            continue
        values = evaluation.log_px.copy()
        values[found.datum] = found.log_px
        if name == "quadrature":
            if np.isfinite(values[positions]).all():
                return name, values
            continue
        if values[positions].mean() > best[positions].mean():
            best, source = values, name
    return source, best


def _former(folder: Path | None, work: Work) -> Evaluation | None:
    """The evaluation that a folder holds already, if it is of the same work.

    The first process looks, for all of them.
    """
    return work.gather(None if work.rank else _read(folder, work.key))[0]


def _read(folder: Path | None, key: str) -> Evaluation | None:
    if folder is None or not (folder / "evaluation.nc").exists():
        return None
    try:
        former = Evaluation.load(folder)
    except PvaeError as error:
        if isinstance(error.__cause__, PermissionError):
            raise
        warnings.warn(f"{error} This is done now.", stacklevel=5)
        return None
    if former.key == key:
        former.save_summary(folder)  # a kill between its two files left another one, or none
        return former
    lost = [_WORDS[name] for name in former.findings if name in _WORDS]
    warnings.warn(
        f"The evaluation in {folder} is of another pair, data, seed or number of samples "
        f"(seed {former.seed}, K = {former.num_samples}). It is replaced, and what it had beside "
        f"the bounds is lost: {', '.join(lost) or 'nothing'}.",
        stacklevel=5,
    )
    return None


def _save(evaluation: Evaluation, folder: Path | None, work: Work) -> Evaluation:
    if folder is not None and work.rank == 0:
        evaluation.save(folder)
    work.saved()
    return evaluation
