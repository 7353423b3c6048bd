"""The codes of a trained pair as data."""

import functools
import inspect
import os
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from pvae.data import Data, Split, as_data, drawn_once, load, names
from pvae.distributions import is_discrete, support_of
from pvae.errors import PvaeError
from pvae.pair import Program, base_distribution, given, latent_sites, name_of
from pvae.pair import inspect as inspect_pair
from pvae.predictive import draw_codes, place_of
from pvae.runs.config import read_config
from pvae.runs.folder import load as load_pair

__all__ = ["codes", "read_codes"]

_CODES = "codes:"  # before a run folder: its codes
_FEW = 4  # data that show the sites
_PARTS = "train", "validation", "test"


def codes(
    pair: str | os.PathLike[str] | tuple[Program, Program],
    data: Any = None,
    *,
    trust: bool = False,
    **options: Any,
) -> Data:
    r"""Returns the discrete codes of data under a trained pair, as data for a density of codes.

    .. math:: z_n \sim q_\phi(z \mid x_n), \qquad n = 1, \ldots, N

    Each datum has one code, an integer or a map of integers: where a site has one-hot form
    [..., K], the places of the ones, [...]. x is drawn once from the data seed, for training too,
    and so is the code of a guide that draws. The parts, the labels and other fields stay.

    The codes of one site are the field x; those of several sites are fields with the sites' names.
    Continuous sites are left out. `Data.levels` is K.

    In the shell: `--data codes:RUN`.

    Args:
        pair: A run folder, or model and guide.
        data: What `pvae.data.load` returns, or a name or a file; None for the data of the run.
        trust: As for `pvae.load`.
        **options: `labels`, `validation` and `root` of `pvae.data.load` in place of the run's own,
            if the data are those of the run.

    Raises:
        PvaeError: If the pair has no discrete site with a code for each datum, or the run cannot
            be loaded.

    Example:
        >>> import pvae
        >>> model = pvae.models.VQVAE((1, 8, 8), num_codes=16)
        >>> pair = model, pvae.guides.NearestCode(model, (1, 8, 8))
        >>> found = codes(pair, "digits")
        >>> found.train, found.levels
        (Split(1500 × x int64 [2, 2], as given), 16)
    """
    name, source, labels = None, None, True
    if isinstance(pair, str | os.PathLike):
        run = os.fspath(pair)
        name = os.path.basename(os.path.abspath(run))
        if data is None:
            held = [os.path.exists(f"{run}/{file}") for file in ("checkpoint.pt", "config.yaml")]
            if held == [True, False]:
                raise PvaeError(
                    f"{run} was trained on data without a name, which it does not hold: give the "
                    "pair and its data, codes((model, guide), data)."
                )
            how = read_config(run, trust=trust)["data"]
            own = how.get("labels", False)
            labels, source = options.get("labels", own), f"{_CODES}{run}"
            # The guide may need labels that the batches of codes shall not have.
            first = how.pop("source")
            how |= options | {"labels": own or labels}
            read = read_codes if first.startswith(_CODES) else load
            data, options = read(first, **how), {}
        pair = load_pair(run, trust=trust)
    if options:
        raise PvaeError(
            f"{', '.join(options)}: these are options for a run's own data. Give them to "
            "pvae.data.load, whose result is `data`."
        )
    data = as_data(data)
    if not isinstance(data, Data):
        raise PvaeError(
            f"data={type(data).__name__} is not valid: give what pvae.data.load returns, or a name."
        )
    model, guide = pair
    # Without labels, batches of a named dataset hold x alone, and those of others only lack y.
    off = set() if labels else set(data.train.names) if data.name in names() else {"y"}
    kept = [n for n in data.train.names if n not in off | {"x"}]
    parts = {part: getattr(data, part) for part in _PARTS if getattr(data, part) is not None}
    sites = _sites(model, guide, data.test)
    found = {}
    for purpose, part in parts.items():
        part = drawn_once(part, data.seed, purpose, data.name)
        bound, (bound_guide,) = given(part, {}, None, guide)
        draws = draw_codes(bound_guide, bound, data.seed, functools.partial(_integers, sites))
        fields = {"x" if len(sites) == 1 else site: torch.from_numpy(draws[site]) for site in sites}
        others = {n: column for n, column in part.fields.items() if n not in {"x", *fields}}
        batch = (*fields, *(n for n in kept if n in others))
        found[purpose] = Split(fields | others, "as_given", None, batch)
    first = found["train"].fields[found["train"].names[0]]
    return Data(
        name=f"{name or data.name}-codes",
        observation="as_given",
        seed=data.seed,
        levels=next(iter(sites.values()))[1] if len(sites) == 1 else None,
        event_shape=tuple(first.shape[1:]),
        support="real",
        train=found["train"],
        validation=found.get("validation"),
        test=found["test"],
        source=source,
        asked_validation=data.asked_validation,
        vocabulary=data.vocabulary,
    )


def read_codes(
    source: str,
    root: str | os.PathLike[str] | None = None,
    observation: str | None = None,
    levels: int | None = None,
    validation: int = 0,
    labels: bool = False,
    seed: int = 0,
    *,
    trust: bool = False,
    **others: Any,
) -> Data:
    """Returns the data of `codes:RUN`; the arguments are those of `pvae.data.load`."""
    usual = inspect.signature(load).parameters
    if changed := [name for name, value in others.items() if value != usual[name].default]:
        raise PvaeError(
            f"{changed[0]} is not for {source}: codes are taken as given. Leave it out."
        )
    if levels is not None or observation not in (None, "as_given"):
        raise PvaeError(
            f"levels and observation are not for {source}: codes are integers, taken as given. "
            "Leave both out."
        )
    run = source.removeprefix(_CODES)
    options = {"labels": labels, "validation": validation} | ({"root": root} if root else {})
    found = codes(run, trust=trust, **options)
    if seed not in (0, found.seed):
        raise PvaeError(
            f"seed={seed} is not valid for {source}: the codes are those of the run's own data, "
            f"whose seed is {found.seed}. Leave it out."
        )
    return found


def _sites(model: Program, guide: Program, part: Split) -> dict[str, tuple[bool, int]]:
    """Returns whether each discrete site of a pair has one-hot form, and its K."""
    few, place = part.take(torch.arange(min(_FEW, len(part)))), place_of(model, guide)
    bound, pair = given(few, {}, place, model, guide)
    structure = inspect_pair(*pair, *bound.tensors()).structure
    in_guide, found = latent_sites(structure.guide_trace), {}
    for name, site in latent_sites(structure.model_trace).items():
        fn = base_distribution(site["fn"])
        if name not in in_guide or not is_discrete(fn):
            continue
        support = support_of(fn)
        while isinstance(support, constraints.independent):
            support = support.base_constraint
        if isinstance(support, type(constraints.one_hot)):
            found[name] = True, fn.event_shape[-1]
        elif isinstance(support, type(constraints.boolean)):
            found[name] = False, 2
        elif isinstance(support, constraints.integer_interval) and not support.lower_bound:
            found[name] = False, int(support.upper_bound) + 1
    if not found:
        kinds = ", ".join(
            f"{n} ({type(base_distribution(s['fn'])).__name__})"
            for n, s in latent_sites(structure.model_trace).items()
        )
        raise PvaeError(
            f"{name_of(model)} and {name_of(guide)} have no discrete code: the latent sites are "
            f"{kinds or 'none'}. pvae.encode returns the means of continuous codes."
        )
    return found


def _integers(sites: dict[str, tuple[bool, int]], name: str, z: Tensor) -> Tensor:
    if name not in sites:
        return z
    return z.argmax(-1) if sites[name][0] else z.long()
