"""evaluate(): bounds and estimates of log p(x) of a data set, as an Evaluation."""

import dataclasses
import json
import math
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pvae.data import Data, Split, as_data
from pvae.errors import PvaeError, reason_of
from pvae.evaluation.cost import expected_time
from pvae.evaluation.estimator import Estimator, Task
from pvae.evaluation.estimators.importance import from_weights
from pvae.evaluation.estimators.pareto import khat_threshold
from pvae.evaluation.estimators.point import fingerprint_of_code, from_code, is_code, prior_of
from pvae.evaluation.folder import former, save
from pvae.evaluation.identity import check_counts, choose, describe, discretised, fingerprint_of
from pvae.evaluation.plan import (
    check_estimators,
    is_due,
    make_plan,
    refuse_options,
    settings_of,
    usual,
)
from pvae.evaluation.result import Evaluation
from pvae.evaluation.rounded import rounded
from pvae.evaluation.work import Whole, Work, in_blocks, take
from pvae.importance import Sampler, Strategy
from pvae.pair import (
    Inspection,
    Program,
    TensorSplit,
    alone,
    check_data,
    density_of,
    given,
    gives_one_code,
    inspect,
    latent_sites,
    move,
    name_of,
)
from pvae.runtime import (
    Precision,
    Watch,
    check_precision,
    check_seed,
    default_device,
    find_device,
    own_random_state,
)

__all__ = ["evaluate"]


@alone
def evaluate(
    model: Program,
    guide: Program,
    data: Data | Split | Tensor | tuple[Any, ...],
    *,
    num_samples: int | list[int] = 5000,
    num_data: int | None = None,
    estimators: Sequence[Estimator] | None = None,
    seed: int = 0,
    strategy: Strategy = "auto",
    plate: str | None = None,
    memory: float | None = None,
    precision: Precision = "float32",
    device: str = "auto",
    out: str | os.PathLike[str] | None = None,
    progress: bool = True,
    **kwargs: Any,
) -> Evaluation:
    r"""Bounds log p(x) of every datum, and reports how far the bounds can be trusted.

    .. math:: \mathrm{ELBO} = E[\log w], \qquad
        L_K = E \left[ \log \frac1K \sum_{k=1}^K w_k \right] \le \log p_\theta(x), \qquad
        w_k = \frac{p_\theta(x, z_k)}{q_\phi(z_k | x)}

    One stream of weights gives the ELBO, L_K for each K, the jackknife and the Pareto-smoothed
    estimates, and the diagnostics. `estimators` adds other estimates.

    A guide that gives a point z = f(x) (a Delta: an autoencoder) has no density, and there is no
    bound. The evaluation says so, and reports log p(x, z) and the squared error at the point in
    `findings["code"]`. Estimators that need no guide (from the prior, bidirectional Monte Carlo,
    quadrature) still estimate log p(x).

    Memory does not grow with `num_samples` (up to a million: the weights of one datum are held
    together). It grows with the data by the data themselves and a few numbers per datum. The work
    is cut into fixed units (data × samples), each with its own seed. The same seed gives the same
    samples whatever the chunks, the interruptions and the number of processes; on a CPU with the
    same number of threads it gives the same numbers bit for bit. Under `torchrun` the processes
    share the data.

    Args:
        model: Pyro program p(z) p(x|z), called as `model(*batch, **kwargs)`.
        guide: Pyro program q(z|x), called as `guide(*batch, **kwargs)`.
        data: What `pvae.data.load` returns (its test part is used), or one part of it; a name or
            a file, which is loaded; a dict of arrays, a data frame, a Dataset or a DataLoader, used
            whole and unchanged; or the pair's arguments: a tensor of leading size N, or a tuple of
            such tensors and other arguments, as for `pvae.check`.
        num_samples: K, samples for each datum; L_K is reported for K = 1, 5, 50, 500, 5000
            below it, and for K itself. Or an increasing list of all these K.
        num_data: Number of data that are evaluated, drawn at random, the same for every seed;
            by default all.
        estimators: What to compute beside the bounds: estimators from `pvae.estimators`, such as
            `AIS(100)` and `Gap(50)`, or your own. None means naive Monte Carlo from the prior and
            the ELBO surgery.
        seed: Seed of the samples.
        strategy: How samples are laid out: see `pvae.log_weights`.
        plate: Name of the batch plate, if it is ambiguous.
        memory: MiB for the weights and activations of a chunk of samples; by default 64 on a CPU
            and 4096 on a GPU. Gradients (AIS, gaps) have their own chunks.
        precision: Of the matrix products and convolutions in log p(x, z) of the weights:
            `"bf16"` if the hardware has it, or `"tf32"` on an NVIDIA GPU. Both precisions are
            first compared on up to 64 data, with the same samples, and the result says by how
            much the mean bound moves. The precision is refused if the bound of a datum moves by
            more than the Monte Carlo error of a datum (root mean squares). Other estimators are
            computed in float32, without TF32.
        device: `"auto"` (the GPU if there is one), `"cpu"`, `"cuda"`, …
        out: The run folder that the evaluation is saved in. Finished blocks are kept there until
            it is complete, so the same call continues after an interruption. An older
            evaluation of the same pair, data, seed and samples is extended; any other is
            replaced, with a warning.
        progress: Whether to show progress bars and the expected time.
        **kwargs: Arguments of both programs, by name.

    Returns:
        Bounds, errors and diagnostics, datum by datum; `summary()` has their means. `missing`
        has the reason for each estimator that failed or does not apply to this pair.

    Raises:
        PvaeError: As `pvae.log_weights`; if an option is not valid; if a lower precision moves the
            bound by more than its Monte Carlo error.

    Source: Burda, Grosse & Salakhutdinov 2016, *Importance Weighted Autoencoders*; each
    estimator names its own.

    Example:
        >>> from pvae import data, evaluate, guides, models
        >>> from pvae.estimators import AIS
        >>> digits = data.load("digits")
        >>> model, guide = models.VAE((1, 8, 8)), guides.MeanField((1, 8, 8))
        >>> evaluation = evaluate(model, guide, digits, num_samples=50, progress=False)
        >>> evaluation.log_px.shape
        (297,)
        >>> annealing = AIS(2, num_temperatures=20)  # on two of the data
        >>> evaluation = evaluate(
        ...     model, guide, digits, num_samples=50, estimators=[annealing], progress=False
        ... )
        >>> evaluation.findings["ais_prior"].log_px.shape
        (2,)
    """
    ks = check_counts(num_samples, num_data)
    asked = usual() if estimators is None else check_estimators(estimators)
    refuse_options(kwargs, evaluate, model, guide)
    seed = check_seed(seed)
    place = find_device(device)
    check_precision(precision, place)
    watch = Watch(place)
    # Some estimators need gradients, even if the caller has switched them off.
    with torch.inference_mode(False), own_random_state(seed), default_device(place):
        move(place, model, guide)
        data = as_data(data)
        part, (model, guide) = given(data, kwargs, place, model, guide)
        rows = choose(len(part), num_data)
        part = part if rows is None else part.take(rows)
        described = describe(data, part)
        everything = np.arange(len(part))
        first, batch, found = _inspected(model, guide, part, place, plate)
        code, drawn_by = is_code(found), guide
        if code:
            drawn_by = prior_of(model, guide)
            found = inspect(model, drawn_by, *batch, plate=plate)
        density = "p(x)"
        if len(batch) > 1:
            density = density_of(found, part.names if isinstance(part, Split) else None)
            described |= {} if density == "p(x)" else {"density": density}
        one_code, asked_ks = gives_one_code(found.structure), ks
        ks = [1] if one_code else ks  # log w is the same for every sample
        sampler = Sampler(found, strategy=strategy, memory=memory)
        if sampler.bound:  # all data together, or not at all
            part = Whole(part, len(batch[0]), guide)
        structure = sampler.structure
        precision, most = "float32" if code else precision, ks[-1] if ks and not code else 0
        few = len(batch[0])
        bits, no_bits = {}, None
        if density.startswith("p(x"):
            bits, no_bits = discretised(data, structure, few)
        described |= bits
        seen = few if first else 0
        caveat, fault = check_data(model, drawn_by, part, place, size=few, seen=seen)
        if fault:
            raise PvaeError(fault)
        names = name_of(model), name_of(guide)
        pair = [*names, sampler.strategy, sampler.plate, *fingerprint_of(sampler, batch)]
        if code:  # nothing is sampled: only the code identifies the guide
            ks, pair = [], [*pair, fingerprint_of_code(sampler, guide, batch)]
        key = {
            "pair": pair,
            "data": described["hash"],
            "num_samples": [] if code else asked_ks,
            "seed": seed,
            "device": place.type,
        } | ({} if precision == "float32" else {"precision": precision})
        folder = None if out is None else Path(out)

        def compared() -> dict[str, Any] | None:
            if precision == "float32":
                return None
            with sampler:
                return rounded(sampler, part, most, seed, place, precision)

        work = Work(folder, key, progress, compared, estimators=asked, num_data=num_data)
        work.whole = sampler.bound
        with work, sampler:
            result = former(folder, work)
            if result is not None:
                watch.before = result.made.get("seconds", 0.0)
            task = Task(
                sampler, part, everything, result, work, place, seed, code, most, source=data
            )
            plan = make_plan(asked, task)
            if progress and work.rank == 0 and not sampler.bound:
                _say_time(plan, task, batch)
            if result is None:
                columns = from_code(task, guide) if code else from_weights(task, ks, precision)
                if one_code:
                    columns["bounds"] = dict.fromkeys(asked_ks, columns["elbo"])
                    columns["bounds_se"] = dict.fromkeys(asked_ks, np.zeros(len(part)))
                if no_bits:
                    columns["missing"] = columns.get("missing", {}) | {"bits_per_dim": no_bits}
                result = Evaluation(
                    **columns,
                    num_samples=task.num_samples,
                    seed=seed,
                    khat_threshold=math.nan if code else khat_threshold(ks[-1]),
                    model=names[0],
                    guide=names[1],
                    data=described,
                    rows=rows,
                    strategy=sampler.strategy,
                    caveat=structure.caveat or caveat,
                    one_code=one_code,
                    precision=work.checked,
                    exact=not set(structure.latent) - set(structure.enumerated),
                    key=work.key,
                    made=watch.read(),
                )
                if "details" in result.missing:
                    warnings.warn(f"Left out: {result.missing['details']}", stacklevel=3)
                result = save(result, folder, work)
            for estimator, own in plan.values():
                own = dataclasses.replace(own, known=result)
                if is_due(estimator, own):
                    result = dataclasses.replace(_add(result, estimator, own), made=watch.read())
                    result = save(result, folder, work)
    return result


def _inspected(
    model: Program,
    guide: Program,
    part: Split | TensorSplit,
    place: torch.device,
    plate: str | None,
) -> tuple[bool, tuple[Tensor, ...], Inspection]:
    """Inspects a pair on 64 data that show all sites: the first, if they do.

    A guide may have no site for unknown labels while it sees only known ones.

    Returns:
        Whether these are the first data, the data, and the inspection.
    """
    for block in in_blocks(np.arange(len(part)), 64):
        batch = take(part, block, place)
        found = inspect(model, guide, *batch, plate=plate)
        if block[0] == 0:
            at_first = batch, found
        absent = latent_sites(found.structure.model_trace).keys() - found.structure.latent
        if absent <= set(found.structure.enumerated):
            return bool(block[0] == 0), batch, found
    return True, *at_first


def _say_time(
    plan: dict[str, tuple[Estimator, Task]], task: Task, batch: tuple[Tensor, ...]
) -> None:
    """Prints about how long the evaluation takes, if it takes long."""
    bounds = not (task.known or task.code)
    runs = {"bounds": len(task.data) * task.num_samples} if bounds else {}
    runs |= {
        name: len(own.positions) * estimator.cost(task.sampler)
        for name, (estimator, own) in plan.items()
        if is_due(estimator, own)
    }
    if words := expected_time(task.sampler, tuple(t[:16] for t in batch), runs):
        print(words, flush=True)


def _add(result: Evaluation, estimator: Estimator, task: Task) -> Evaluation:
    """Runs an estimator; if it fails, keeps the reason and an older finding."""
    name = estimator.name
    found, missing, made = dict(result.findings), dict(result.missing), {}
    task.work.settings = settings = settings_of(estimator, task)
    try:
        new = estimator.estimate(task)
        json.dumps(new.summary(result), allow_nan=False)  # else nothing could be saved
        found[name], made = new, {name: settings}
        missing.pop(name, None)
    except Exception as error:  # the bounds are worth more than this estimator
        reason = reason_of(error)
        if name not in found:
            missing[name] = reason
        warnings.warn(f"{estimator.title} was left out: {reason}", stacklevel=4)
    return dataclasses.replace(
        result, findings=found, missing=missing, settings=result.settings | made
    )
