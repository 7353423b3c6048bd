"""The structure of a pair: its sites, and the plate that counts the data."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions import MaskedDistribution
from pyro.poutine import Trace
from torch import Tensor

from pvae.drawing import card
from pvae.errors import PvaeError
from pvae.pair.program import Program
from pvae.pair.traces import latent_sites, observed_sites, sample_sites

__all__ = [
    "Inspection",
    "Structure",
    "base_distribution",
    "kind_of",
    "listed",
    "mask_of",
    "plates_at",
    "plates_in_words",
    "plates_of_enumerated",
    "unmasked",
]


@dataclass(frozen=True)
class Structure:
    """The structure that one call of a pair shows.

    Attributes:
        latent: Names of the guide's latent sites, in the order of the guide.
        observed: Names of the model's observed sites.
        enumerated: Names of the sites marked `infer={"enumerate": "parallel"}` (in the guide also
            "sequential"), the guide's first.
        max_plate_nesting: Number of dimensions that the plates of both programs take up.
        caveat: Why the model's density is not a likelihood of this data, else `None`.
        bounded: Names of the sites whose values may lie outside their support.
        remarks: Faults of supports, measures and masks, with which the weights give no bound.
        guide_trace: The checked call of the guide.
        model_trace: The checked call of the model, with the guide's samples.
        one_by_one: Whether the enumerated sites are summed out one value at a time, because a
            program does not broadcast over them.
        one_by_one_given: The same for calls in which the other latents are given, or are the
            model's own samples: they do not have the dimensions of the enumerated sites then.
        together_only: Whether the programs run only with all values of the enumerated sites at
            once.
    """

    latent: tuple[str, ...]
    observed: tuple[str, ...]
    enumerated: tuple[str, ...]
    max_plate_nesting: int
    caveat: str | None
    bounded: frozenset[str]
    remarks: tuple[str, ...]
    guide_trace: Trace
    model_trace: Trace
    one_by_one: bool = False
    one_by_one_given: bool = False
    together_only: bool = False


@dataclass(frozen=True, repr=False)
class Inspection:
    """What one call of a pair on a batch shows. `print` it to see the sites.

    Attributes:
        model: The model, called as `model(*batch)`.
        guide: The guide, called as `guide(*batch)`.
        batch: The data, tensors of leading size B.
        structure: The sites of both programs.
        wanted: The batch plate's name, if the caller gave it.
        plate: The batch plate's name.
        dim: The batch plate's dimension, negative.
        size: B, the number of data.

    Example:
        >>> import pvae, torch
        >>> model, guide = pvae.models.VAE((4,), 2), pvae.guides.MeanField((4,), 2)
        >>> found = pvae.inspect(model, guide, torch.ones(8, 4))
        >>> found.plate, found.dim, found.size
        ('data', -1, 8)
    """

    model: Program
    guide: Program
    batch: tuple[Tensor, ...]
    structure: Structure
    wanted: str | None = None

    @property
    def size(self) -> int:
        """B, the number of data."""
        return len(self.batch[0])

    @property
    def plate(self) -> str:
        """The batch plate's name: the plate that is common to all per-datum sample sites.

        Raises:
            PvaeError: If there is none or more than one, or an observed site is outside it.
        """
        return self._plate[0]

    @property
    def dim(self) -> int:
        """The batch plate's dimension, negative. Raises a PvaeError as `plate`."""
        return self._plate[1]

    @functools.cached_property
    def _plate(self) -> tuple[str, int]:
        return _batch_plate(self.structure, self.size, self.wanted)

    def _sites(self) -> Iterator[tuple[str, str, str, tuple[int, ...], str]]:
        """Yields role, name, distribution, event shape and plates of each site."""
        traces = ("guide", self.structure.guide_trace), ("model", self.structure.model_trace)
        for role, trace in traces:
            for name, site in sample_sites(trace).items():
                fn, what = site["fn"], "observed " if site["is_observed"] else ""
                plates = plates_in_words(site["cond_indep_stack"])
                yield role, f"{what}{name}", kind_of(fn), tuple(fn.event_shape), plates

    def __str__(self) -> str:
        return "\n".join(
            f"{role}: {name} ~ {kind}, event {event}, {'plates ' * (plates != 'no plate')}{plates}"
            for role, name, kind, event, plates in self._sites()
        )

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """Returns the sites as a table for a notebook, with what is wrong with them."""
        words = list(self.structure.remarks)
        try:
            words.insert(0, f"The plate {self.plate!r} at dim {self.dim} counts the data.")
        except PvaeError as error:
            words.append(str(error))
        if self.structure.caveat:
            words.append(f"The density is {self.structure.caveat}.")
        head = ("", "site", "distribution", "event", "plates")
        many = f"{self.size} data" if self.size != 1 else "1 datum"
        return card(f"The sites of a pair, on {many}", self._sites(), head=head, words=words)


def _batch_plate(structure: Structure, size: int, plate: str | None) -> tuple[str, int]:
    """Finds the plate that is common to all per-datum sample sites, and its dimension."""
    observed = observed_sites(structure.model_trace)
    sites = latent_sites(structure.guide_trace) | observed
    stacks = {name: site["cond_indep_stack"] for name, site in sites.items()}
    listing = "; ".join(f"{name!r} in {plates_in_words(stack)}" for name, stack in stacks.items())
    frames = {
        frame.name: frame.dim
        for stack in stacks.values()
        for frame in stack
        if frame.vectorized and frame.size in (-1, size)
    }
    if plate is not None:
        if plate not in frames:
            raise PvaeError(
                f"plate={plate!r} is not a plate of {size} data in this pair. Sites: {listing}."
            )
        return plate, frames[plate]
    # Sites inside some plate are per datum; those outside every plate are global.
    inside = [{f.name for f in stack if f.name in frames} for stack in stacks.values()]
    common = set.intersection(*(names for names in inside if names)) if any(inside) else set()
    if not common and any(inside):
        # Model and guide may name their plates differently; position and size decide then.
        dims = [{frames[n] for n in names} for names in inside if names]
        shared = set.intersection(*dims)
        if len(shared) == 1:
            common = {next(n for n, dim in frames.items() if dim in shared)}
    if len(common) > 1:
        raise PvaeError(
            f"Which plate counts the data? {listed(sorted(common))} all have size {size} and "
            f"contain every site. Say which: plate={sorted(common)[0]!r}. Sites: {listing}."
        )
    if not common:
        raise PvaeError(
            f"No plate of size {size}, the leading size of the batch, is common to the sites of "
            'model and guide. Put the sites of each datum in pyro.plate("data", len(x)) in both. A '
            "plate that subsamples inside the program cannot be evaluated datum by datum. Sites: "
            f"{listing}."
        )
    name = common.pop()
    dim = frames[name]
    for site, stack in stacks.items():
        if site in observed and not any(f.dim == dim for f in stack):
            raise PvaeError(
                f"Site {site!r} stands outside the batch plate {name!r}, so it belongs to no "
                f"datum. Move it into the plate, or leave it out of the evaluated model. Sites: "
                f"{listing}."
            )
    return name, dim


def base_distribution(fn: Any) -> Any:
    """Unwraps Independent, masked and expanded distributions."""
    while hasattr(fn, "base_dist") and not hasattr(fn, "transforms"):
        fn = fn.base_dist
    return fn


def kind_of(fn: Any) -> str:
    """Returns what to call a distribution in a message: the class of its base."""
    return type(base_distribution(fn)).__name__


def unmasked(fn: Any) -> Any:
    """Returns a distribution without the masks of `Distribution.mask()`."""
    while isinstance(fn, MaskedDistribution):
        fn = fn.base_dist
    return fn


def mask_of(site: dict[str, Any]) -> Tensor | None:
    """Returns which of a site's values count, by `poutine.mask` and by its distribution's own mask.

    The mask broadcasts with the value, plates and event. None if there is no mask.
    """
    fn, found = site["fn"], []

    def add(mask: Tensor | bool, event_dim: int) -> None:
        mask = torch.as_tensor(mask, dtype=torch.bool, device=site["value"].device)
        found.append(mask[(...,) + (None,) * event_dim])

    if site["mask"] is not None:
        add(site["mask"], fn.event_dim)
    while hasattr(fn, "base_dist") and not hasattr(fn, "transforms"):
        if isinstance(fn, MaskedDistribution):
            add(fn._mask, fn.event_dim)
        fn = fn.base_dist
    return torch.stack(torch.broadcast_tensors(*found)).all(0) if found else None


def listed(names: Any) -> str:
    """Returns names in quotes, separated by commas, for a message."""
    return ", ".join(repr(name) for name in names) or "none"


def plates_at(trace: Trace, dim: int) -> set[str]:
    """Returns the names of the plates at a dimension."""
    sites = sample_sites(trace).values()
    return {f.name for site in sites for f in site["cond_indep_stack"] if f.dim == dim}


def plates_of_enumerated(structure: Structure, dim: int) -> tuple[tuple[int, int], ...]:
    """Returns dimension and size of each plate of enumerated sites, except the batch plate."""
    found = set()
    for trace in (structure.guide_trace, structure.model_trace):
        for name in set(structure.enumerated).intersection(trace.nodes):
            site = trace.nodes[name]
            shape = site["fn"].batch_shape
            dims = [f.dim for f in site["cond_indep_stack"] if f.vectorized and f.dim != dim]
            found |= {(d, shape[d]) for d in dims if len(shape) >= -d and shape[d] > 1}
    return tuple(sorted(found))


def plates_in_words(stack: Any) -> str:
    """Returns the plates of a site with their dimensions and sizes, for a message."""
    plates = [
        f"{f.name!r} at dim {f.dim}" + (f" of size {f.size}" if f.size != -1 else "")
        for f in stack
        if f.vectorized
    ]
    return ", ".join(plates) or "no plate"
