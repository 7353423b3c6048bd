"""The two parts of a pair that can be exported: x to codes, and codes to the mean of x."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from pyro import poutine
from pyro.distributions import Delta
from torch import Tensor

from pvae.compile import in_words
from pvae.errors import PvaeError
from pvae.exported.rows import Rows
from pvae.pair import (
    OwnParameters,
    Program,
    base_distribution,
    latent_sites,
    name_of,
    observed_sites,
    quiet,
    signature_of,
    trace_of,
)
from pvae.predictive import AtMeans, rule_of, shown_site
from pvae.runtime import own_random_state

__all__ = ["decoder_of", "encoder_of"]

Values = dict[str, Tensor]


def encoder_of(
    model: Program, guide: Program, batch: tuple[Tensor, ...]
) -> tuple[Rows, Values, Values]:
    """Returns the guide as a module: x and what else it reads to codes and parameters of q(z|x).

    Outputs are the code of each latent site, as `pvae.encode` gives it (`z`), and the parameters of
    its distribution given the codes of the sites before it (`z.loc`, `z.scale`). The inputs and the
    outputs on the batch are returned too.

    Raises:
        PvaeError: If the guide cannot be exported, with the reason.
    """
    with own_random_state(0), quiet(model, guide), OwnParameters(model, guide) as own:
        with AtMeans():
            sites = latent_sites(poutine.trace(guide).get_trace(*batch))
        if not sites:
            raise PvaeError(f"{name_of(guide)} has no latent site, so there is nothing to encode.")
        rules = {name: rule_of(site["fn"]) for name, site in sites.items()}
        if drawn := [name for name, rule in rules.items() if rule is None]:
            raise PvaeError(
                f"site {drawn[0]!r} of {name_of(guide)} has neither a mean nor a mode in closed "
                "form, so that its code would be a draw."
            )

        def values(*rows: Tensor) -> Values:
            with AtMeans(rules):
                trace = poutine.trace(guide).get_trace(*rows)
            found = {}
            for name, site in latent_sites(trace).items():
                found[name] = site["value"]
                parameters = _parameters(site["fn"])
                found |= {f"{name}.{p}": value for p, value in parameters.items()}
            return {n: v for n, v in found.items() if v.ndim and len(v) == len(rows[0])}

        inputs = _named(guide, batch)
        expected = values(*batch)
        if lost := [name for name in sites if name not in expected]:
            raise PvaeError(
                f"site {lost[0]!r} of {name_of(guide)} does not have one value for each datum."
            )
        part = _rows(values, inputs, expected, own, optional=[*inputs][1:])
        return part, {name: inputs[name] for name in part.inputs}, expected


def decoder_of(
    model: Program, guide: Program, batch: tuple[Tensor, ...]
) -> tuple[Rows, Values, Values]:
    """Returns the model as a module: values of the latent sites to the mean of x.

    Other fields that the model reads, such as a label that it is given, are inputs too. The inputs
    and the outputs on the batch, at the codes of its data, are returned too.

    Raises:
        PvaeError: If the model cannot be exported, with the reason.
    """
    with own_random_state(0), quiet(model, guide), OwnParameters(model, guide) as own:
        with AtMeans():
            codes = latent_sites(poutine.trace(guide).get_trace(*batch))
        latents = {name: site["value"] for name, site in codes.items()}
        trace = _replayed(model, latents, batch)
        latents = {name: value for name, value in latents.items() if name in trace.nodes}
        if not latents:
            raise PvaeError(f"{name_of(model)} has no latent site, so there is nothing to decode.")
        if free := [name for name in latent_sites(trace) if name not in latents]:
            raise PvaeError(f"{name_of(guide)} gives no value of site {free[0]!r}.")
        site = shown_site(model, trace, None)
        name, mean = site["name"], _mean(site)
        if mean is None or mean.isnan().all():
            raise PvaeError(
                f"the distribution of site {name!r} in {name_of(model)} has no mean in closed form "
                "(that of an autoregressive decoder has none)."
            )
        fields = _named(model, batch)
        observed = [
            field
            for field, value in fields.items()
            if any(_same(value, each["value"]) for each in observed_sites(trace).values())
        ]
        taken = {f"{n}_given" if n in latents else n: value for n, value in fields.items()}

        def values(*rows: Tensor) -> Values:
            given = dict(zip(latents, rows, strict=False))
            site = _replayed(model, given, rows[len(latents) :]).nodes[name]
            return {name: site["fn"].mean.expand_as(site["value"])}

        expected = values(*latents.values(), *batch)
        part = _rows(values, latents | taken, expected, own, optional=[*taken])
        if read := [field for field in observed if field in part.inputs]:
            raise PvaeError(
                f"{name_of(model)} reads the {read[0]} that it observes, as an autoregressive "
                "decoder does, so that the mean is not a function of the code."
            )
        inputs = latents | taken
        return part, {name: inputs[name] for name in part.inputs}, expected


def _rows(
    values: Callable[..., Values],
    inputs: Mapping[str, Tensor],
    expected: Values,
    own: OwnParameters,
    optional: list[str],
) -> Rows:
    """Records a function of a batch, and compares it with the function itself on all data.

    Raises:
        PvaeError: If it cannot be recorded, or the numbers are others.
    """
    weights: dict[str, Tensor] = {}
    for path, module in own.modules.items():
        weights |= {f"{path}.{name}": p for name, p in module.named_parameters()}
        weights |= {f"{path}.{name}": b for name, b in module.named_buffers()}
    try:
        part = Rows(values, inputs, weights | own.parameters, optional)
        found = part(*(inputs[name] for name in part.inputs))
    except PvaeError:
        raise
    except Exception as error:
        raise PvaeError(f"{in_words(error)}.") from error
    for name, value in expected.items():
        if not torch.allclose(found[name], value, rtol=1e-3, atol=1e-4):
            worst = float((found[name] - value).abs().max())
            raise PvaeError(
                f"the recording gives other numbers for {name!r} (by {worst:.2g}): the program "
                "treats some numbers of data as a special case."
            )
    return part


def _replayed(model: Program, latents: Mapping[str, Tensor], batch: tuple[Tensor, ...]) -> Any:
    with AtMeans(), poutine.replay(trace=trace_of(latents)):
        return poutine.trace(model).get_trace(*batch)


def _mean(site: dict[str, Any]) -> Tensor | None:
    try:
        return site["fn"].mean.expand_as(site["value"])
    except (NotImplementedError, AttributeError, RuntimeError):
        return None


def _parameters(fn: Any) -> Values:
    """Returns the parameters of a distribution that was made of tensors, not of another one."""
    base = base_distribution(fn)
    if isinstance(base, Delta) or hasattr(base, "transforms"):
        return {}
    found = {name: vars(base).get(name) for name in getattr(base, "arg_constraints", ())}
    return {name: value for name, value in found.items() if isinstance(value, Tensor)}


def _named(program: Program, batch: tuple[Tensor, ...]) -> Values:
    """Returns the tensors of a batch by the names of the program's arguments."""
    signature = signature_of(program)
    names = [] if signature is None else [
        name for name, p in signature.parameters.items()
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]  # fmt: skip
    if len(names) < len(batch):
        names = ["x", *(f"x_{i}" for i in range(2, len(batch) + 1))]
    return dict(zip(names, batch, strict=False))


def _same(field: Tensor, value: Tensor) -> bool:
    return field.numel() == value.numel() and torch.equal(
        field.reshape(-1).double(), value.reshape(-1).double()
    )
