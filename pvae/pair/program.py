"""What a pair is made of: its modules, its parameters and the traces of one call."""

import contextlib
import functools
import inspect
import itertools
import re
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.nn import PyroModule
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from pvae.errors import PvaeError, text_of
from pvae.pair.bounded import Bounded
from pvae.pair.reach import modules
from pvae.runtime import is_out_of_memory

__all__ = [
    "OwnParameters",
    "Program",
    "arose_in_programs",
    "check_programs",
    "evaluating",
    "in_words",
    "latent_sites",
    "modules",
    "move",
    "name_of",
    "observed_sites",
    "refuse_meta",
    "same_buffers",
    "trace_guide",
    "trace_model",
    "trace_of",
    "trace_program",
    "with_densities",
]

Program = Callable[..., Any]


def name_of(program: Program) -> str:
    """Returns the name that a person would give a program: its class, or its function."""
    while isinstance(program, functools.partial):
        # Pyro's handlers wrap a program as an argument of a partial.
        wrapped = [a for a in program.args if callable(a) and not isinstance(a, Messenger)]
        program = wrapped[-1] if wrapped else program.func
    if inspect.ismethod(program):
        return f"{type(program.__self__).__name__}.{program.__name__}"
    return getattr(program, "__name__", type(program).__name__)


def check_programs(*programs: Any) -> None:
    """Raises a PvaeError if what is given for a program cannot be called with a batch."""
    for program in programs:
        if not callable(program) or isinstance(program, type):
            is_class = isinstance(program, type)
            what = "the class" if is_class else f"a {type(program).__name__},"
            raise PvaeError(
                "A model or a guide is a function or a module that is called with the batch, and "
                f"{what} {str(program)[:80]} is given. "
                + ("Make an object of it." if is_class else "Hand in the program.")
            )


def move(device: torch.device, *programs: Program) -> None:
    """Moves the modules of programs to a device.

    Raises:
        PvaeError: If a parameter is on the meta device, so that it has no values to move.
    """
    for path, module in modules(programs[0], programs[-1]).items():
        refuse_meta({f"{path}.{name}": p for name, p in module.named_parameters()})
        module.to(device)


def refuse_meta(parameters: dict[str, Tensor]) -> None:
    """Raises a PvaeError if a parameter has no values."""
    for name, parameter in parameters.items():
        if parameter.is_meta:
            raise PvaeError(
                f"Parameter {name} is on the meta device and has no values. Make the module where "
                "it is used, or call module.to_empty(device=…) and set them."
            )


class OwnParameters(Messenger):
    """Inside this context every module's parameters live in that module, and nowhere else.

    Pyro keeps parameters in one global store by name, so that two modules of the same name
    (a model's `.net` and a guide's `.net`, or two pairs in one notebook) would share them.
    Here `nn.Parameter`s never enter the store, and `PyroParam`s enter it under a name of
    their own for as long as the context lasts. A program's own `pyro.param` stays in Pyro's
    store, where its author expects it.

    Attributes:
        parameters: The leaf tensors that the pair used so far, by name: what Pyro's SVI
            would optimise.
        stored: Names of the pair's `pyro.param` sites in Pyro's store.
        used: Ids of the leaf tensors that have been seen since somebody emptied this set.
    """

    def __init__(self, model: Program, guide: Program) -> None:
        super().__init__()
        check_programs(model, guide)
        self.modules = modules(model, guide)
        self.parameters: dict[str, Tensor] = {}
        self.stored: set[str] = set()
        self.used: set[int] = set()
        self._names: dict[int, str] = {}
        self._used: dict[int, str] = {}
        self._renamed: list[tuple[PyroModule, str]] = []
        self._depth = 0

    def __enter__(self) -> "OwnParameters":
        if self in _PYRO_STACK:
            self._depth += 1
            return self
        self._rename_back()  # after an interrupt there may be something left to undo
        self._depth = 1
        store = pyro.get_param_store()
        self._before = set(store._params)
        for path, module in self.modules.items():
            for name, part in module.named_modules():
                # A PyroSample's site takes the module's name, so that one may not change. A module
                # that has a name and no parameters may make them when it is first called.
                if (
                    isinstance(part, PyroModule)
                    and (part._pyro_params or part._pyro_name)
                    and not part._pyro_samples
                ):
                    self._renamed.append((part, part._pyro_name))
                    part._pyro_name = self._unused(part, f"{path}.{name or type(part).__name__}")
        self._learn_names()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        self._depth -= 1
        if self._depth:
            return
        self._rename_back()
        self._learn_names()
        store = pyro.get_param_store()
        for name in set(store._params) - self._before:
            if id(store._params[name]) in self._names:
                store._param_to_name.pop(store._params[name], None)
                del store._params[name], store._constraints[name]
        super().__exit__(*error)

    def _unused(self, part: PyroModule, other: str) -> str:
        """Returns a name whose parameters in Pyro's store are this module's, its own if it can."""
        store, own = pyro.get_param_store()._params, {id(p) for p in part.parameters()}
        foreign = [name for name, leaf in store.items() if id(leaf) not in own]
        taken = {module._pyro_name for module, _ in self._renamed if module is not part}
        numbered = (f"{other}.{i}" for i in itertools.count(2))
        for name in itertools.chain([part._pyro_name, other], numbered):
            if name and name not in taken and not any(f.startswith(f"{name}.") for f in foreign):
                return name
        raise AssertionError

    def _rename_back(self) -> None:
        for part, name in reversed(self._renamed):
            part._pyro_name = name
        self._renamed.clear()

    def _learn_names(self) -> None:
        for path, module in self.modules.items():
            for name, parameter in module.named_parameters():
                self._names.setdefault(id(parameter), f"{path}.{name}")

    def _pyro_param(self, msg: dict[str, Any]) -> None:
        value = msg["args"][1] if len(msg["args"]) > 1 else None
        if isinstance(value, nn.Parameter) and ("$$$" in msg["name"] or id(value) in self._names):
            msg["value"] = value
            msg["done"] = True
            self.used.add(id(value))
            if id(value) not in self._used:
                self._keep(self._names.get(id(value), msg["name"]), value)

    def _pyro_post_param(self, msg: dict[str, Any]) -> None:
        if not hasattr(msg["value"], "unconstrained"):
            return
        leaf = msg["value"].unconstrained()
        self.used.add(id(leaf))
        if id(leaf) not in self._used:
            if id(leaf) not in self._names:
                self._learn_names()
            if id(leaf) in self._names:
                self._keep(self._names[id(leaf)], leaf)
            else:
                self.stored.add(msg["name"])
                self._keep(msg["name"], leaf)

    def _keep(self, name: str, leaf: Tensor) -> None:
        self._used[id(leaf)] = name
        self.parameters[name] = leaf


@contextlib.contextmanager
def evaluating(model: Program, guide: Program) -> Iterator[None]:
    """Puts every module that a pair can reach into eval mode, and restores each one's mode."""
    training = [
        part
        for module in modules(model, guide).values()
        for part in module.modules()
        if part.training
    ]
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True


def trace_guide(guide: Program, *batch: Tensor) -> Trace:
    """Runs the guide once on a batch, recorded site by site."""
    return trace_program("guide", guide, guide, batch)


def trace_model(model: Program, guide_trace: Trace, *batch: Tensor) -> Trace:
    """Runs the model once on a batch with the guide's draws in place of its own."""
    replayed = poutine.replay(model, trace=guide_trace)
    return trace_program("model", model, replayed, batch)


def trace_program(role: str, program: Program, run: Program, batch: tuple[Tensor, ...]) -> Trace:
    """Records one call of a program, perhaps wrapped by handlers as `run`.

    Raises:
        PvaeError: If it fails, naming the last site and the line of the user's own code.
    """
    tracer = poutine.trace(Bounded()(run))
    try:
        return with_densities(tracer.get_trace(*batch))
    except Exception as error:
        if is_out_of_memory(error):
            raise
        shapes = ", ".join(str(tuple(getattr(b, "shape", ()))) for b in batch)
        sites = [n for n, s in tracer.trace.nodes.items() if s["type"] == "sample"]
        # Pyro raises a failure anew, with a table of shapes.
        notes = [n for e in (error, error.__cause__) for n in getattr(e, "__notes__", ())]
        after = f" after site {sites[-1]!r}" if sites else ""
        raise PvaeError(
            f"The {role} {name_of(program)} failed{after} when called with a batch of shapes "
            f"{' '.join([shapes + in_words(error), *notes])}"
        ) from error


def with_densities(trace: Trace) -> Trace:
    """Returns a trace all of whose sites have a density of a tensor.

    Raises:
        PvaeError: If a site has a value of another kind, or is drawn by a function.
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
                f"site {name!r} {verb} a {type(site['value']).__name__} where a density needs a "
                "tensor. Write torch.as_tensor(value)."
            )
    return trace


def in_words(error: Exception) -> str:
    """Returns where in the user's own code an error arose, and what it says."""
    return f"{_where(error)}: {_in_words(error)}"


def arose_in_programs(error: Exception) -> bool:
    """Whether an error came through code that is neither a library's nor ours."""
    return bool(_where(error))


def _where(error: Exception) -> str:
    """Returns the innermost line of the user's own code that an error came through."""
    libraries = ("/pyro/", "/torch/", "/pvae/", "/lib/python", "<frozen")
    frames = [
        f"{frame.filename}:{frame.lineno}"
        for frame in traceback.extract_tb(error.__traceback__)
        if not any(part in frame.filename for part in libraries)
    ]
    return f" (at {frames[-1]})" if frames else ""


def _in_words(error: Exception) -> str:
    # Pyro appends a table of shapes to whatever passes through it.
    text = " ".join(text_of(error).partition("Trace Shapes:")[0].split())
    clash = re.search(r"inside plate\('(.+)'\) at site (.+) dim (-\d+), (\d+) vs (\d+)", text)
    if clash:
        plate, site, dim, size, ours = clash.groups()
        return (
            f"site {site!r} has size {ours} at dim {dim} of its batch shape, where the plate "
            f"{plate!r} counts {size} data. If that dimension is part of one datum, write "
            ".to_event(n) to count the last n dimensions to the event."
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
            f"the {parameter} of a {kind} has values outside of {constraint}, or NaN. "
            + (f"Make it positive: {parameter} = softplus(…) + 1e-6, or exp(…)." if positive else
               "Transform what the network gives to where the parameter may be.")
        )  # fmt: skip
    if twice := re.search(r"Multiple sample sites named '(.+)'", text):
        return f"two sites are called {twice[1]!r}. Give each a name of its own."
    if "up to 64 dims" in text:
        return (
            "a tensor would have more than 64 dimensions, PyTorch's limit: each plate and each "
            "site that is summed out takes one. Sum out fewer sites, about 60 at most (a chain of "
            "discrete states: dist.DiscreteHMM is one site)."
        )
    text = text if len(text) < 500 else text[:500] + " …"
    if re.search(r"same dtype|scalar type", text):
        text += ". Give the data the type of the parameters: x.float()."
    if "shapes cannot be multiplied" in text:
        text += ". Make the layer's in_features the size of the last dimension of what it is given."
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


def trace_of(values: Mapping[str, Tensor], infer: Mapping[str, Any] | None = None) -> Trace:
    """Returns a trace to replay: of latent sites with given values."""
    trace = Trace()
    for name, value in values.items():
        node = {"type": "sample", "name": name, "value": value, "is_observed": False}
        trace.add_node(name, **node, infer=dict((infer or {}).get(name, {})))
    return trace
