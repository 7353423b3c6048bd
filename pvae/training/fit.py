"""fit(): trains a pair by stochastic variational inference."""

import inspect
import math
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pyro
import torch
from pyro.infer import ELBO, ReweightedWakeSleep
from pyro.optim import PyroOptim
from torch.optim.lr_scheduler import LRScheduler

from pvae.data import Data, as_data
from pvae.errors import PvaeError
from pvae.objectives import (
    Beta_ELBO,
    LossName,
    ParticleELBO,
    SemiSupervised_ELBO,
    choose_elbo,
)
from pvae.pair import (
    Program,
    alone,
    at_a_glance,
    check_data,
    given,
    in_words,
    move,
    objective_name,
)
from pvae.pair import inspect as inspect_pair
from pvae.runtime import (
    Group,
    Precision,
    backends_in,
    check_precision,
    check_seed,
    default_device,
    find_device,
    is_out_of_memory,
    locked,
    number,
    own_random_state,
    seed_noise,
    whole,
)
from pvae.training.average import Average, check_decay
from pvae.training.checkpoint import plain, read_checkpoint
from pvae.training.fitted import Fit
from pvae.training.hooks import Callback, check_callbacks
from pvae.training.loop import Run
from pvae.training.optimiser import MakeOptimizer, Optimiser
from pvae.training.record import keep_config
from pvae.training.resume import restore
from pvae.training.schedule import Factor, MakeScheduler, rate_factor, scheduler_class
from pvae.training.settings import of_data, of_loss, of_sites
from pvae.training.stages import say_frozen
from pvae.training.suitable import (
    full_size,
    nothing_to_learn,
    share_to_weigh,
    try_smallest,
    try_the_sum,
    without_effect,
)
from pvae.training.svi import SVI, Mode
from pvae.training.together import check_same, parts_of
from pvae.training.warn import warn

__all__ = ["fit"]

_STEPS_WORTH_COMPILING = 10_000  # each saves some two milliseconds


@alone
def fit(
    model: Program,
    guide: Program,
    data: Any,
    *,
    epochs: int = 100,
    batch_size: int = 128,
    loss: ELBO | LossName = "auto",
    num_particles: int = 1,
    optim: MakeOptimizer | PyroOptim | torch.optim.Optimizer | LRScheduler | None = None,
    lr: float = 1e-3,
    schedule: Literal["cosine", "constant", "burda"] | MakeScheduler | Factor = "cosine",
    clip_norm: float | None = None,
    kl_warmup: int = 0,
    patience: int = 10,
    accumulate: int = 1,
    average: float | None = None,
    mode: Mode = "auto",
    precision: Precision = "float32",
    plate: str | None = None,
    device: str = "auto",
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    progress: bool = True,
    callbacks: Sequence[Callback] = (),
    **kwargs: Any,
) -> Fit:
    r"""Trains a pair: maximises the ELBO over minibatches.

    .. math:: \max_{\theta, \phi} \; \sum_b E_{q_\phi(z|x_b)}
        [\log p_\theta(x_b | z)] - \beta \, KL(q_\phi(z|x_b) \| p_\theta(z))

    The gradient is that of the sum over the minibatch, as in Pyro; numbers shown are per datum.
    The same seed repeats a run on the CPU bit for bit. The global generators of torch, Python and
    NumPy keep their state. A program's own `pyro.param` lives in Pyro's store, and starts from its
    value there if it has one.

    Under `torchrun`, or in an initialised group of `torch.distributed`, the processes train
    together: each takes its part of each minibatch, and their gradients are added up. All of them
    must call `fit` with the same arguments.

    Args:
        model: Pyro program p(z) p(x|z), called as `model(*batch, **kwargs)`.
        guide: Pyro program q(z|x), called as `guide(*batch, **kwargs)`.
        data: What `pvae.data.load` returns, or one part of it; a name or a file, which is loaded;
            a dict of arrays, a data frame, a Dataset or a DataLoader, used whole and as given; or
            the pair's arguments: a tensor of leading size N, or a tuple of such tensors and what
            else the programs take, as for `pvae.check`.
        epochs: Passes through the training data; with 0 the pair is only written to `out`.
        batch_size: B, data in a minibatch (the last one of an epoch may be smaller); all data,
            if there are fewer. It counts the parts of all processes.
        loss: An ELBO of `pyro.infer`, an objective of `pvae.objectives`, or a name. `"auto"`
            uses the closed-form KL (`TraceMeanField_ELBO`) if it is right, else `Trace_ELBO`.
            `"IWAE_ELBO"` and `"DReG_ELBO"` take K from `num_particles`.
        num_particles: L or K, samples of z for each datum and step, if `loss` is a name.
        optim: A class of `torch.optim` (or a `functools.partial` of one), an optimiser of
            `torch.optim` or `pyro.optim`, or a scheduler of `torch.optim.lr_scheduler`, which is
            stepped after each epoch; Adam by default.
        lr: Learning rate, if `optim` has none of its own.
        schedule: Factor on the learning rate: `"cosine"` decays to 3 %, `"constant"` keeps it,
            `"burda"` is 10^(−i/7) for 3^i parts of the run, i = 0 … 7 (Burda et al. 2016, whose
            run has 3280 epochs), or a function of the finished share of the run in [0, 1). It
            multiplies an optimiser's own decay (`lrd` of Pyro's ClippedAdam); a scheduler of
            `pyro.optim` or torch replaces it. Or a class of `torch.optim.lr_scheduler` (or a
            `functools.partial` of one, with its options), which is stepped after each epoch.
        clip_norm: Bound on the global norm of the gradient of the ELBO per datum.
        kl_warmup: Epochs over which β grows from 0 to 1, step by step.
        patience: Epochs without a better validation ELBO before training stops and returns to
            the best epoch. Epochs count from the first that ends at β = 1. Without a validation
            part training never stops early.
        accumulate: Number of minibatches whose gradients are added up for one step of the
            optimiser: that of a minibatch `accumulate` times larger, in the memory of one. What
            mixes the data of a minibatch (the MMD of InfoVAE_ELBO, batch normalisation) still
            sees the small ones. On a GPU such a step is not one CUDA graph.
        average: Decay d of a moving average of parameters and buffers, averaged = d averaged +
            (1 − d) present after each step, such as 0.999. Validation, the trained pair and
            everything after training have the averaged values; batch normalisation has averaged
            statistics. `elbo` in the history is that of the values that are trained.
        mode: `"compiled"`, `"eager"`, or `"auto"`: compiled if the run has 10,000 steps or more,
            because compiling takes some ten seconds. A pair that cannot be compiled runs eagerly,
            with a warning. See `pvae.SVI`.
        precision: Of matrix products and convolutions. `"bf16"` computes those of the training
            steps in bfloat16, if the hardware has it; `"tf32"` all of them in TF32, on an NVIDIA
            GPU. `"float32"` excludes TF32, in which torch computes convolutions by default.
        plate: Name of the batch plate, if it is ambiguous.
        device: `"auto"` (the GPU if there is one), `"cpu"`, `"cuda"`, `"cuda:1"`, …
        seed: Seed of minibatch order, observation noise and samples.
        out: Run folder for `checkpoint.pt` and `history.csv`. If the data come from
            `pvae.data.load` and the programs can be imported, also for `config.yaml`, with which
            the shell can evaluate and report the run.
        resume: Whether to continue from the checkpoint in `out`, if there is one. Data and
            settings must be those that the run was started with, except for device, mode and
            `epochs`: more epochs lengthen the run and stretch its schedule.
        progress: Whether to show a progress bar with the bound in nats per datum.
        callbacks: What else happens at the start, after steps and epochs, and at the end, such as
            `pvae.callbacks.TensorBoard()`. See `pvae.callbacks.Callback`.
        **kwargs: Arguments of the programs by name.

    Returns:
        The history. Model and guide are trained in place.

    Raises:
        PvaeError: If the pair or an argument is wrong (see `pvae.check`), if the smallest
            minibatch of an epoch is too small for the pair, if a resumed run was started with
            other settings, or if a step fails or is not finite. The message then names site, step
            and batch, and the last good checkpoint is kept. If a callback fails, the run is saved
            first.
        KeyboardInterrupt: After Ctrl-C, when the state has been saved.

    Source: Kingma & Welling 2014, *Auto-Encoding Variational Bayes*.

    Example:
        >>> from pvae import data, fit, guides, models
        >>> digits = data.load("digits")
        >>> model, guide = models.VAE((1, 8, 8)), guides.MeanField((1, 8, 8))
        >>> len(fit(model, guide, digits, epochs=2, progress=False).history)
        2
    """
    apart = {"model", "guide", "data", "out", "resume", "callbacks", "kwargs"}
    options = {name: value for name, value in locals().items() if name not in apart}
    epochs = whole("epochs", epochs, least=1 if out is None else 0)
    batch_size = whole("batch_size", batch_size)
    num_particles = whole("num_particles", num_particles, why="at least one sample of z is needed")
    patience, seed = whole("patience", patience), check_seed(seed)
    lr, kl_warmup = number("lr", lr), number("kl_warmup", kl_warmup, zero=True)
    clip_norm = None if clip_norm is None else number("clip_norm", clip_norm)
    accumulate = whole("accumulate", accumulate)
    average = None if average is None else check_decay(average)
    callbacks, factor = check_callbacks(callbacks), rate_factor(schedule)
    scheduler = scheduler_class(schedule)
    place, group = find_device(device), Group()
    data, programs = as_data(data), (model, guide)
    train, (model, guide) = given(data, kwargs, place, model, guide, split="train")
    validation = data.validation if isinstance(data, Data) else None
    if validation is not None:
        validation = validation.only(train.names)
    usual = inspect.signature(fit).parameters["patience"].default
    asked = None if patience == usual else patience
    sizes = epochs, batch_size, len(train), kl_warmup
    said = without_effect(*sizes, asked, validation is not None)
    for text in [*said, *nothing_to_learn(train, programs[0])]:
        if group.first:
            warn(text)
    batch_size = min(batch_size, len(train))
    check_same(
        group,
        {"batch_size": batch_size, "num_data": len(train), "seed": seed, "resume": resume,
         "out": None if out is None else "a folder"},
    )  # fmt: skip
    part, smallest = parts_of(batch_size, len(train), group.world)
    if group.world > 1 and share_to_weigh(train) is not None:
        raise PvaeError(
            "labelled_share and several processes do not go together: the objective weighs each "
            "process's part by its own number of labelled data. Train in one process, or load the "
            "data without labelled_share."
        )
    check_precision(precision, place)
    if mode == "auto":
        steps = epochs * math.ceil(len(train) / batch_size)
        mode = "compiled" if steps >= _STEPS_WORTH_COMPILING else "eager"
    checkpoint = None if out is None else Path(out) / "checkpoint.pt"
    # Before the splits move to the device: a hash is the same on every machine.
    hashed = checkpoint is not None or group.world > 1
    sources = of_data(train, validation) if hashed else {}
    with (
        locked(out if group.first else None),
        torch.inference_mode(False),
        torch.enable_grad(),
        own_random_state(seed),
        default_device(place),
        backends_in(precision),
        warnings.catch_warnings(),
    ):
        # Pyro warns of each frozen parameter, and one sentence says it below.
        warnings.filterwarnings("ignore", ".*was not registered in the param store")
        if not group.first:
            warnings.simplefilter("ignore")  # process 0 says the same
        begun = group.from_first(checkpoint is not None and checkpoint.exists())
        if begun and not resume:
            raise PvaeError(
                f"{checkpoint} exists: another run was trained there. Pass resume=True to continue "
                "it, or choose another folder."
            )
        move(place, model, guide)
        if validation is not None:
            validation = validation.to(place)
        first = next(iter(train.batches(part, device=place)))
        pair = inspect_pair(model, guide, *first, plate=plate)
        structure = pair.structure
        elbo = choose_elbo(loss, structure, num_particles, share_to_weigh(train))
        for text in (*structure.remarks, *at_a_glance(pair)):
            warn(text)
        if isinstance(elbo, ReweightedWakeSleep):
            raise PvaeError(
                "ReweightedWakeSleep has two losses, of the model and of the guide, and fit "
                "maximises one bound. Train with the steps of pvae.SVI, which return both losses, "
                "or use IWAE_ELBO or DReG_ELBO."
            )
        if isinstance(elbo, ParticleELBO) and elbo.plate in (None, plate):
            elbo.take(pair)
        try_smallest(pair, smallest, len(train), batch_size)
        try_the_sum(elbo, pair)
        caveat, size = structure.caveat, len(first[0])
        for part, seen in ((train, size), (validation, 0)):
            if part is not None:
                found, fault = check_data(model, guide, part, place, size=size, seen=seen)
                caveat = caveat or found
                if fault:
                    warn(fault)
        pyro.set_rng_seed(seed)
        optimiser = Optimiser(optim, lr, None if scheduler is None else schedule)
        svi = SVI(model, guide, optimiser, elbo, mode=mode, precision=precision)
        more = isinstance(elbo, Beta_ELBO | SemiSupervised_ELBO)  # than the ELBO
        run = Run(
            svi=svi,
            # An objective's penalty must not decide when to stop.
            bound=choose_elbo("auto", structure) if more else None,
            train=train,
            validation=validation,
            device=place,
            epochs=epochs,
            batch_size=batch_size,
            factor=factor,
            clip_norm=clip_norm,
            kl_warmup=kl_warmup,
            patience=patience,
            seed=seed,
            checkpoint=checkpoint,
            full_size=full_size(pair),
            objective="objective" if more else objective_name(structure),
            accumulate=accumulate,
            average=None if average is None else Average(svi, average),
            callbacks=callbacks if group.first else (),
            group=group,
        )
        if caveat:
            warn(caveat)
        with pyro.validation_enabled(False):
            try:
                run.svi.find_parameters(*first)
            except Exception as error:
                if isinstance(error, PvaeError) or is_out_of_memory(error):
                    raise
                raise PvaeError(f"{type(elbo).__name__} failed{in_words(error)}") from error
            frozen = say_frozen(run.svi, progress and group.first)
            run.settings = plain(
                {
                    "epochs": epochs, "batch_size": batch_size, "seed": seed,
                    "kl_warmup": kl_warmup, "num_data": len(train), "precision": precision,
                    "clip_norm": clip_norm, "plate": plate,
                    "patience": None if validation is None else patience,
                    "schedule": schedule if isinstance(schedule, str) else "a function"
                    if scheduler is None else scheduler.__name__,
                    "accumulate": accumulate, "average": average, "frozen": frozen,
                }
                | of_loss(elbo) | of_sites(structure) | run.svi.optim.settings | sources
            )  # fmt: skip
            check_same(group, run.settings)
            if group.world > 1:
                seed_noise(seed, group.rank)
            if begun:
                restore(run, group.from_first(read_checkpoint(checkpoint) if group.first else {}))
            if group.first and not (
                kwargs or checkpoint is None or (checkpoint.parent / "config.yaml").exists()
            ):
                keep_config(checkpoint.parent, *programs, data, options)
            run.go(progress and group.first)
    return Fit(
        run.history,
        type(run.svi.loss).__name__,
        sum(p.numel() for p in run.svi.optim.parameters),
        run.best_epoch or len(run.history),
        caveat,
        frozen,
        run.watch.read(),
    )
