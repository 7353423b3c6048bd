"""diagnose(): finds faults of a pair that one call does not show."""

import warnings
from dataclasses import dataclass, field
from typing import Any

import pyro
from pyro.infer import ELBO, TraceMeanField_ELBO
from pyro.infer.inspect import get_dependencies

from pvae.diagnosis.densities import compare_bounds
from pvae.diagnosis.gradients import check_gradients
from pvae.drawing import card
from pvae.errors import PvaeError, first_line
from pvae.objectives import LossName, choose_elbo
from pvae.pair import (
    Inspection,
    OwnParameters,
    Program,
    alone,
    base_distribution,
    in_free_memory,
    inspect,
    latent_sites,
    listed,
    look,
    opened,
    plate_sizes,
    same_buffers,
)
from pvae.runtime import is_out_of_memory, own_random_state

__all__ = ["Diagnosis", "diagnose"]


@dataclass(repr=False)
class Diagnosis:
    """The findings about a pair. `print` it to see them.

    Attributes:
        faults: What is wrong, and what to change.
        notes: What is legal, but may not be intended.
        facts: What the pair is, line by line.

    Example:
        >>> import pvae, torch
        >>> model, guide = pvae.models.VAE((4,), 2), pvae.guides.MeanField((4,), 2)
        >>> found = pvae.diagnose(model, guide, torch.ones(8, 4))
        >>> found.faults
        []
    """

    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)

    def add(self, facts: list[str], notes: list[str], faults: list[str]) -> None:
        """Adds findings."""
        self.facts += facts
        self.notes += notes
        self.faults += faults

    def __str__(self) -> str:
        lines = [f"fault: {text}" for text in self.faults]
        lines += [f"note: {text}" for text in self.notes]
        return "\n".join([*self.facts, *lines, self._count])

    @property
    def _count(self) -> str:
        return f"{len(self.faults) or 'no'} fault{'s' * (len(self.faults) > 1)} found"

    def __repr__(self) -> str:
        notes = f", {len(self.notes)} notes" if len(self.notes) > 1 else ""
        return f"<Diagnosis: {self._count}{notes or ', 1 note' * bool(self.notes)}; print it>"

    def _repr_html_(self) -> str:
        """Returns faults and notes for a notebook, and the facts to unfold."""
        rows = [("fault", text) for text in self.faults] + [("note", text) for text in self.notes]
        return card(self._count, rows, details=[("what the pair is", "\n".join(self.facts))])


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
    """Runs a pair a few times and explains what is wrong with it.

    Finds what `pvae.check` finds in one call, and also: parameters without a gradient, modules
    that no program registers, data that are mixed across the batch, an ELBO that the pair's
    structure does not allow, an objective above the importance-weighted bound, and densities that
    are not those of their samples, with which every bound is wrong. Parameters, buffers and
    gradients are unchanged.

    Args:
        model: Pyro program p(z) p(x|z), called as `model(*batch, **kwargs)`.
        guide: Pyro program q(z|x), called as `guide(*batch, **kwargs)`.
        *batch: About 64 data: tensors of leading size B, and any other arguments of the programs,
            as for `pvae.check`. Or a dataset, of which 64 test data are taken.
        loss: The objective that is to train the pair, as for `pvae.fit`.
        num_particles: As for `pvae.fit`.
        seed: Seed of the random numbers.
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
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                batch, kwargs, (model, guide) = opened(batch, kwargs, model, guide, few=64)
            found.notes += [str(warning.message) for warning in said]
            inspection = inspect(model, guide, *batch, **kwargs)
            model, guide, batch = inspection.model, inspection.guide, inspection.batch
            structure = inspection.structure
            found.facts += str(inspection).splitlines()
            elbo = choose_elbo(loss, structure, num_particles)
        except PvaeError as error:
            found.faults.append(str(error))
            return found
        found.facts.append(f"objective: {type(elbo).__name__}")
        if structure.caveat:
            found.notes.append(
                f"This is {structure.caveat}. Choose a likelihood for such values, or observe the "
                "data differently (observation='dynamic' binarises, 'dequantize' adds the noise of "
                "rounding)."
            )
        few = tuple(t[: -(-len(t) // 4)] for t in batch)
        unequal = plate_sizes(structure)
        try:
            if not unequal and (fixed := plate_sizes(look(model, guide, *few))):
                found.faults += [
                    f"With {len(few[0])} data, as the last minibatch of an epoch may have: {text}"
                    for text in fixed
                ]
                few = batch
        except PvaeError as error:
            found.faults.append(
                f"The pair runs with {len(batch[0])} data and not with {len(few[0])}, but the last "
                f"minibatch of an epoch may be smaller than the others. {error} "
                "Take every size from the data: len(x)."
            )
            few = batch
        found.faults += unequal + list(structure.remarks)
        found.add(*_order(inspection, elbo))
        structural = len(found.faults)
        for closer in (
            lambda: check_gradients(model, guide, elbo, batch),
            lambda: compare_bounds(inspection, elbo, few),
        ):
            try:
                with same_buffers(model, guide):
                    found.add(*closer())
            except Exception as error:
                short = is_out_of_memory(error)
                if not isinstance(error, PvaeError | RuntimeError | MemoryError):
                    raise
                if (text := first_line(error)) in found.faults:
                    continue
                text = f"there is not enough memory ({text[:200]})" if short else text
                # After another fault, this may be only a consequence.
                where = found.facts if structural or short else found.faults
                where.append(f"{'not checked further: ' * bool(structural or short)}{text}")
        found.faults = list(dict.fromkeys(found.faults))  # a refusal may repeat a remark
    return found


def _order(inspection: Inspection, elbo: ELBO) -> tuple[list[str], list[str], list[str]]:
    """Finds wrong closed-form KLs, and sites whose gradient is the score function's."""
    notes, faults, structure = [], [], inspection.structure
    sites = latent_sites(structure.guide_trace)
    rough = [
        name
        for name, site in sites.items()
        if not site["fn"].has_rsample and name not in structure.enumerated
    ]
    explicit = isinstance(elbo, TraceMeanField_ELBO)
    wrong = _not_mean_field(inspection)
    if wrong is None and rough and explicit:
        wrong = f"site {rough[0]!r} has no reparameterised samples"
    if wrong:
        (faults if explicit else notes).append(
            f"TraceMeanField_ELBO would be wrong for this pair: {wrong}. Use loss='auto' or "
            "Trace_ELBO, or give the guide the model's dependencies and order of sites."
        )
    for name in rough:
        fn = base_distribution(sites[name]["fn"])
        remedy = (
            'Mark it infer={"enumerate": "parallel"} to sum it out, or use IWAE_ELBO.'
            if fn.has_enumerate_support
            else "Use a distribution with reparameterised samples, or IWAE_ELBO."
        )
        notes.append(
            f"Site {name!r} ({type(fn).__name__}) has samples that cannot be differentiated, so "
            f"its gradient is the score function's, which is noisy. {remedy}"
        )
    return [], notes, faults


def _not_mean_field(inspection: Inspection) -> str | None:
    """Checks Pyro's condition: no parent of z in the model descends from z in the guide."""
    model, guide, structure = inspection.model, inspection.guide, inspection.structure
    in_guide = list(latent_sites(structure.guide_trace))
    in_model = list(latent_sites(structure.model_trace))
    order = None
    if len(in_guide) > 1 and in_guide != in_model:
        order = f"the guide samples {listed(in_guide)} in this order, the model {listed(in_model)}"
    try:
        with OwnParameters(model, guide), pyro.validation_enabled(False):
            above, below = (
                get_dependencies(program, inspection.batch)["prior_dependencies"]
                for program in (model, guide)
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
