"""diagnose(): what is wrong with a pair beyond what one call of it shows."""

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pyro
import torch
from pyro.infer import ELBO, TraceMeanField_ELBO
from pyro.infer.inspect import get_dependencies
from torch import Tensor
from torch.nn.parameter import is_lazy

from pvae.alone import alone
from pvae.arguments import Arguments
from pvae.bounded import in_free_memory
from pvae.checking import look
from pvae.consistency import compare_bounds
from pvae.environment import is_out_of_memory, own_random_state
from pvae.errors import PvaeError, first_line
from pvae.gradients import check_gradients
from pvae.objectives import LossName, choose_elbo
from pvae.pair import (
    OwnParameters,
    Program,
    latent_sites,
    modules,
    observed_sites,
    trace_guide,
)
from pvae.structure import (
    Structure,
    base_distribution,
    batch_plate,
    listed,
    plates_in_words,
)

__all__ = ["Diagnosis", "at_a_glance", "diagnose", "same_buffers"]


@dataclass
class Diagnosis:
    """What was found out about a pair.

    Attributes:
        faults: What is wrong, each with what to change.
        notes: What is legal and may not be meant.
        facts: What the pair is, line by line.
    """

    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)

    def add(self, facts: list[str], notes: list[str], faults: list[str]) -> None:
        """Adds what was found out by a closer look."""
        self.facts += facts
        self.notes += notes
        self.faults += faults

    def __str__(self) -> str:
        lines = [f"fault: {text}" for text in self.faults]
        lines += [f"note: {text}" for text in self.notes]
        end = (
            f"{len(self.faults)} fault{'s' * (len(self.faults) != 1)}"
            if self.faults
            else "no fault"
        )
        return "\n".join([*self.facts, *lines, f"{end} found"])


@alone
def diagnose(
    model: Program,
    guide: Program,
    *batch: Any,
    loss: ELBO | LossName = "auto",
    num_particles: int = 1,
    seed: int = 0,
    **kwargs: Any,
) -> Diagnosis:
    """Runs a pair a few times and says in plain words what is wrong with it.

    Beside what `pvae.check` finds in one call: a guide whose support is not the model's,
    parameters without a gradient, modules that no program registers, data that are mixed across
    the batch, an ELBO that the pair's structure does not allow, an objective that is above the
    importance-weighted bound, and densities that are not those of the draws, so that every
    bound is wrong. Parameters, buffers and gradients stay as they are.

    Args:
        model: Pyro program p(z) p(x|z), called as `model(*batch, **kwargs)`.
        guide: Pyro program q(z|x), called as `guide(*batch, **kwargs)`.
        *batch: Some 64 data, tensors of leading size B, and what else the programs take, as for
            `pvae.check`.
        loss: The objective that is to train the pair, as for `pvae.fit`.
        num_particles: As for `pvae.fit`.
        seed: Of the draws.
        **kwargs: Arguments of the programs by name.

    Returns:
        Faults, notes and facts; `print` shows them.

    Example:
        >>> from pvae import data, diagnose, guides, models
        >>> (x,) = data.load("digits").test.observe(slice(0, 64))
        >>> found = diagnose(models.VAE((1, 8, 8)), guides.MeanField((1, 8, 8)), x)
        >>> found.faults
        []
    """
    found = Diagnosis()
    with (
        own_random_state(seed),
        same_buffers(model, guide),
        warnings.catch_warnings(),
        in_free_memory("a diagnosis of the pair"),
    ):
        warnings.simplefilter("ignore")
        try:
            arguments = Arguments(batch, kwargs)
            model, guide = arguments.bind(model, guide)
            batch = arguments.batch
            structure = look(model, guide, *batch)
            found.facts += _sites(structure)
            elbo = choose_elbo(loss, structure, num_particles)
        except PvaeError as error:
            found.faults.append(str(error))
            return found
        found.facts.append(f"objective: {type(elbo).__name__}")
        if structure.caveat:
            found.notes.append(
                f"This is {structure.caveat}. Choose a likelihood for such values, or observe the "
                "data otherwise (observation='dynamic' binarises, 'dequantize' adds the noise of "
                "rounding)."
            )
        few = tuple(t[: -(-len(t) // 4)] for t in batch)
        try:
            look(model, guide, *few)
        except PvaeError as error:
            found.faults.append(
                f"The pair runs with {len(batch[0])} data and not with {len(few[0])}; the last "
                f"minibatch of an epoch is smaller than the others. {error} "
                "Take every size from the data: len(x)."
            )
            few = batch
        found.faults += _plates(structure) + list(structure.remarks)
        _order(found, structure, elbo, model, guide, batch)
        structural = len(found.faults)
        for closer in (
            lambda: check_gradients(model, guide, elbo, batch),
            lambda: compare_bounds(structure, model, guide, elbo, batch, few),
        ):
            try:
                found.add(*closer())
            except Exception as error:
                short = is_out_of_memory(error)
                if not isinstance(error, PvaeError | RuntimeError | MemoryError):
                    raise
                if (text := first_line(error)) in found.faults:
                    continue
                text = f"there is not enough memory ({text[:200]})" if short else text
                # After another fault this may be what comes of it.
                where = found.facts if structural or short else found.faults
                where.append(f"{'not checked further: ' * bool(structural or short)}{text}")
        found.faults = list(dict.fromkeys(found.faults))  # a refusal may repeat a remark
    return found


def at_a_glance(
    structure: Structure,
    model: Program,
    guide: Program,
    batch: tuple[Tensor, ...],
    plate: str | None = None,
) -> list[str]:
    """Says what is wrong with a pair as far as one more call of the guide shows it.

    Args:
        structure: What `pvae.check` found, on this minibatch.
        model: Pyro program.
        guide: Pyro program.
        batch: One minibatch, tensors of leading size B.
        plate: Name of the batch plate, where it is ambiguous.
    """
    return _plates(structure) + _shared(structure, model, guide, batch, plate)


def _shared(
    structure: Structure,
    model: Program,
    guide: Program,
    batch: tuple[Tensor, ...],
    plate: str | None,
) -> list[str]:
    """A guide that looks at no data has a place for each row of a minibatch, whoever is there."""
    size = len(batch[0])
    half = tuple(t[: size // 2] for t in batch)
    cure = (
        "What a guide keeps for the rows of a minibatch, as Pyro's AutoGuides do, is shared by all "
        "minibatches, whose rows are other data each time. Let the guide compute it from x "
        "(pvae.guides.MeanField), or keep it for all data and hand in the index of each datum."
    )
    try:
        _, dim = batch_plate(structure, size, plate)
    except PvaeError:
        return []
    if size < 2:
        return []
    try:
        with OwnParameters(model, guide), pyro.validation_enabled(False), torch.no_grad():
            sites = latent_sites(trace_guide(guide, *half))
    except PvaeError as error:
        return [f"The guide runs with {size} data and not with {size // 2}. {error} {cure}"]
    for name, site in sites.items():
        shape = site["value"].shape[: site["value"].ndim - site["fn"].event_dim]
        if len(shape) >= -dim and shape[dim] == size:
            return [
                f"Site {name!r} of the guide has {size} rows for {size // 2} data: it does not "
                f"look at them. {cure}"
            ]
    return []


@contextlib.contextmanager
def same_buffers(model: Program, guide: Program) -> Iterator[None]:
    """Restores what batch normalisation learns from every call."""
    everything = (b for module in modules(model, guide).values() for b in module.buffers())
    buffers = [buffer for buffer in everything if not is_lazy(buffer)]
    kept = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in zip(buffers, kept, strict=True):
                buffer.copy_(value)


def _sites(structure: Structure) -> list[str]:
    lines = []
    for role, trace in (("guide", structure.guide_trace), ("model", structure.model_trace)):
        for name, site in {**latent_sites(trace), **observed_sites(trace)}.items():
            fn, what = site["fn"], "observed " if site["is_observed"] else ""
            lines.append(
                f"{role}: {what}{name} ~ {type(base_distribution(fn)).__name__}, event "
                f"{tuple(fn.event_shape)}, plates {plates_in_words(site['cond_indep_stack'])}"
            )
    return lines


def _plates(structure: Structure) -> list[str]:
    """A plate of one name has to count the same data in both programs."""
    sizes: dict[str, dict[str, int]] = {}
    for role, trace in (("guide", structure.guide_trace), ("model", structure.model_trace)):
        for site in {**latent_sites(trace), **observed_sites(trace)}.values():
            for frame in site["cond_indep_stack"]:
                if frame.vectorized and frame.full_size not in (None, -1):
                    sizes.setdefault(frame.name, {})[role] = frame.full_size
    return [
        f"The plate {name!r} counts {by['guide']} data in the guide and {by['model']} in the "
        "model, so that their terms are weighed differently. Give it the same size in both, "
        f'pyro.plate("{name}", len(x)).'
        for name, by in sizes.items()
        if len(set(by.values())) > 1
    ]


def _order(
    found: Diagnosis,
    structure: Structure,
    elbo: ELBO,
    model: Program,
    guide: Program,
    batch: tuple[Tensor, ...],
) -> None:
    """Where closed-form KLs would be wrong, and where gradients are the score function's."""
    sites = latent_sites(structure.guide_trace)
    rough = [
        name
        for name, site in sites.items()
        if not site["fn"].has_rsample and name not in structure.enumerated
    ]
    explicit = isinstance(elbo, TraceMeanField_ELBO)
    wrong = _not_mean_field(structure, model, guide, batch)
    if wrong is None and rough and explicit:
        wrong = f"site {rough[0]!r} has no reparameterised draws"
    if wrong:
        (found.faults if explicit else found.notes).append(
            f"TraceMeanField_ELBO would be wrong for this pair: {wrong}. Use loss='auto' or "
            "Trace_ELBO, or give the guide the model's dependencies and order of sites."
        )
    for name in rough:
        fn = base_distribution(sites[name]["fn"])
        remedy = (
            'Mark it infer={"enumerate": "parallel"} to sum it out, or use IWAE_ELBO.'
            if fn.has_enumerate_support
            else "Use a distribution with reparameterised draws, or IWAE_ELBO."
        )
        found.notes.append(
            f"Site {name!r} ({type(fn).__name__}) is sampled and cannot be differentiated: its "
            f"gradient is the score function's, which is noisy. {remedy}"
        )


def _not_mean_field(
    structure: Structure, model: Program, guide: Program, batch: tuple[Tensor, ...]
) -> str | None:
    """Pyro's condition: parents of z in the model are no descendants of z in the guide."""
    in_guide, in_model = (
        list(latent_sites(t)) for t in (structure.guide_trace, structure.model_trace)
    )
    order = None
    if len(in_guide) > 1 and in_guide != in_model:
        order = f"the guide samples {listed(in_guide)} in this order, the model {listed(in_model)}"
    try:
        with OwnParameters(model, guide), pyro.validation_enabled(False):
            above, below = (
                get_dependencies(program, batch)["prior_dependencies"] for program in (model, guide)
            )
    except Exception as error:
        if is_out_of_memory(error):
            raise
        return order
    for z in in_guide:
        for parent in set(above.get(z, {})) - {z}:
            if z in below.get(parent, {}):
                return f"in the model {z!r} depends on {parent!r}, in the guide {parent!r} on {z!r}"
    return None
