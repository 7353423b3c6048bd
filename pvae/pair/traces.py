"""Records one call of a program, site by site."""

import re
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

from pyro import poutine
from pyro.poutine import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pvae.errors import PvaeError, text_of
from pvae.pair.bounded import Bounded
from pvae.pair.named import is_program
from pvae.pair.program import Program, name_of
from pvae.runtime import is_out_of_memory

__all__ = [
    "arose_in_programs",
    "in_words",
    "latent_sites",
    "observed_sites",
    "place",
    "sample_sites",
    "trace_guide",
    "trace_model",
    "trace_of",
    "trace_program",
    "with_densities",
]


def trace_guide(guide: Program, *batch: Tensor) -> Trace:
    """Runs the guide once on a batch, recorded site by site."""
    return trace_program("guide", guide, guide, batch)


def trace_model(model: Program, guide_trace: Trace, *batch: Tensor) -> Trace:
    """Runs the model once on a batch, with the guide's samples in place of its own."""
    replayed = poutine.replay(model, trace=guide_trace)
    return trace_program("model", model, replayed, batch)


def trace_program(role: str, program: Program, run: Program, batch: tuple[Tensor, ...]) -> Trace:
    """Records one call of a program; `run` is the program inside its handlers.

    Raises:
        PvaeError: If it fails. The message names the last site and the line of the user's code.
    """
    tracer = poutine.trace(Bounded()(run))
    try:
        return with_densities(tracer.get_trace(*batch))
    except Exception as error:
        if is_out_of_memory(error):
            raise
        shapes = ", ".join(str(tuple(getattr(b, "shape", ()))) for b in batch)
        nodes = tracer.trace.nodes.items()
        sites = [n for n, s in nodes if s["type"] == "sample" and not site_is_subsample(s)]
        # Pyro raises the error again, with a table of shapes.
        notes = [n for e in (error, error.__cause__) for n in getattr(e, "__notes__", ())]
        after = f" after site {sites[-1]!r}" if sites else ""
        raise PvaeError(
            f"The {role} {name_of(program)} failed{after} when called with a batch of shapes "
            f"{' '.join([shapes + in_words(error), *notes])}"
        ) from error


def with_densities(trace: Trace) -> Trace:
    """Returns the trace if every site has a tensor and a density.

    Raises:
        PvaeError: If a site's value is no tensor, or a function draws it.
    """
    for name, site in trace.nodes.items():
        if site["type"] != "sample":
            continue
        if not hasattr(site["fn"], "log_prob"):
            raise PvaeError(
                f"site {name!r} is drawn by {name_of(site['fn'])}, which has no density. Give "
                "pyro.sample a distribution of pyro.distributions."
            )
        if not isinstance(site["value"], Tensor):
            verb = "observes" if site["is_observed"] else "has"
            raise PvaeError(
                f"site {name!r} {verb} a {type(site['value']).__name__}, but a density needs a "
                "tensor. Write torch.as_tensor(value)."
            )
    return trace


def in_words(error: Exception) -> str:
    """Returns an error's place in the programs, and its message."""
    where = place(traceback.extract_tb(error.__traceback__))
    return f"{where and f' ({where})'}: {_in_words(error)}"


def arose_in_programs(error: Exception) -> bool:
    """Whether an error came through the programs."""
    return bool(place(traceback.extract_tb(error.__traceback__)))


def place(frames: Sequence[traceback.FrameSummary]) -> str:
    """Returns "at FILE:LINE", the innermost line of a program among frames, or an empty string."""
    own = [frame for frame in frames if is_program(frame.filename)]
    return f"at {own[-1].filename}:{own[-1].lineno}" if own else ""


def _in_words(error: Exception) -> str:
    # Pyro appends a table of shapes to whatever passes through it.
    text = " ".join(text_of(error).partition("Trace Shapes:")[0].split())
    clash = re.search(r"inside plate\('(.+)'\) at site (.+) dim (-\d+), (\d+) vs (\d+)", text)
    if clash:
        plate, site, dim, size, ours = clash.groups()
        return (
            f"site {site!r} has size {ours} at dim {dim} of its batch shape, but the plate "
            f"{plate!r} counts {size} data there. If this dimension is part of one datum, write "
            ".to_event(n), which makes the last n dimensions the event."
        )
    pattern = r"Expected parameter (\w+) .*?of distribution (\w+)\(.*constraint (.+), but"
    wrong = re.search(pattern, text)
    if wrong:
        parameter, kind, constraint = wrong.groups()
        if kind == "Unit":
            return (
                "the log density that is given to pyro.factor is NaN or infinite. Keep "
                "probabilities off 0 and 1, and logarithms off zero."
            )
        positive = "GreaterThan" in constraint
        return (
            f"the {parameter} of a {kind} has values outside {constraint}, or NaN. "
            + (f"Make it positive: {parameter} = softplus(…) + 1e-6, or exp(…)." if positive else
               "Transform the network's output to the values that the parameter may take.")
        )  # fmt: skip
    if twice := re.search(r"Multiple sample sites named '(.+)'", text):
        return f"two sites have the name {twice[1]!r}. Give each site its own name."
    if "up to 64 dims" in text:
        return (
            "a tensor would have more than 64 dimensions, PyTorch's limit: each plate and each "
            "site that is summed out takes one. Sum out fewer sites, about 60 at most. "
            "(dist.DiscreteHMM is a chain of discrete states in one site.)"
        )
    text = text if len(text) < 500 else text[:500] + " …"
    if re.search(r"same dtype|scalar type", text):
        text += ". Give the data the type of the parameters: x.float()."
    if "shapes cannot be multiplied" in text:
        text += ". Set the layer's in_features to the size of the last dimension of its input."
    return text if isinstance(error, PvaeError) else f"{type(error).__name__}: {text}"


def latent_sites(trace: Trace) -> dict[str, dict[str, Any]]:
    """Returns the sample sites of a trace that are not observed, by name."""
    return {
        name: site
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and not site["is_observed"] and not site_is_subsample(site)
    }


def observed_sites(trace: Trace) -> dict[str, dict[str, Any]]:
    """Returns the observed sample sites of a trace (`pyro.factor` among them), by name."""
    return {
        name: site
        for name, site in trace.nodes.items()
        if site["type"] == "sample"
        and site["is_observed"]
        and not site["infer"].get("_deterministic")
    }


def sample_sites(trace: Trace) -> dict[str, dict[str, Any]]:
    """Returns the latent sites of a trace, then its observed sites, by name."""
    return latent_sites(trace) | observed_sites(trace)


def trace_of(values: Mapping[str, Tensor], infer: Mapping[str, Any] | None = None) -> Trace:
    """Returns a trace of latent sites with given values, to replay."""
    trace = Trace()
    for name, value in values.items():
        node = {"type": "sample", "name": name, "value": value, "is_observed": False}
        trace.add_node(name, **node, infer=dict((infer or {}).get(name, {})))
    return trace
