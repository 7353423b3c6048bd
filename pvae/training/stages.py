"""Stages: parameters taken from another run, and parts of a pair that are not trained."""

import os
import sys
from collections.abc import Container, Iterable
from typing import Any

import pyro
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from pvae.errors import PvaeError, nearest
from pvae.pair import Program, modules, name_of
from pvae.runtime import tqdm
from pvae.training.checkpoint import of_today, set_params
from pvae.training.svi import SVI
from pvae.training.weights import read_state

__all__ = ["freeze", "parts", "say_frozen", "warm_start"]

_MOST = 6  # names in a message


def warm_start(model: Program, guide: Program, run: str | os.PathLike[str]) -> list[str]:
    """Takes the parameters and buffers of a pair from a run, by name and shape.

    What the run does not have keeps its values, and what the pair does not have is left out. So a
    pair can have more parts than the run's: a prior, a deeper decoder's new layers. The pair's
    parts have the run's names, `model.decoder.layers.0.weight` in a model's attribute `decoder`.
    If the model has one part of the class of the run's model, as a prior of codes that was trained
    on codes, it is this part that starts from the run.

    In the shell: `pvae run --model … --from RUN`, or `--from [RUN,RUN]`.

    Args:
        model: The model that is to start there.
        guide: Its guide.
        run: The folder of a run or of `pvae.save`. Its parameters are those that `pvae.load` gives.

    Returns:
        The names of what was taken.

    Raises:
        PvaeError: If a tensor has another shape in the run, nothing has its name there, or the
            folder has no checkpoint. Nothing is changed in this case.

    Example:
        >>> import tempfile, torch, pvae
        >>> small = pvae.models.VAE((1, 8, 8)), pvae.guides.MeanField((1, 8, 8))
        >>> x, run = torch.zeros(16, 1, 8, 8), tempfile.mkdtemp()
        >>> _ = pvae.fit(*small, x, epochs=1, batch_size=16, out=run, progress=False)
        >>> pair = pvae.models.FlowPriorVAE((1, 8, 8)), pvae.guides.MeanField((1, 8, 8))
        >>> "model.decoder.layers.0.weight" in warm_start(*pair, run)
        True
    """
    (state, pair), found = read_state(run), modules(model, guide)
    ours: dict[str, Tensor] = {}
    theirs: dict[str, Any] = {}
    for path, values in state["modules"].items():
        here = found[path].state_dict() if path in found else {}
        theirs |= {f"{path}.{name}": v for name, v in of_today(values, here).items()}
    if inside := _part(model, pair[0]):
        theirs = {
            f"{inside}.{n.removeprefix('model.')}": v
            for n, v in theirs.items()
            if n.startswith("model.")
        }
    for path, module in found.items():
        ours |= {f"{path}.{name}": value for name, value in module.state_dict().items()}
    store = pyro.get_param_store()._params
    params = {name: param["unconstrained"] for name, param in state["params"].items()}
    ours |= {name: store.get(name, value) for name, value in params.items()}
    theirs |= params
    both = ours.keys() & theirs.keys()
    wrong = [name for name in ours if name in both and not _fits(ours[name], theirs[name])]
    taken = [name for name in ours if name in both and name not in wrong]
    if wrong or not taken:
        shapes = (
            f"{n} has shape {tuple(theirs[n].shape)} there and {tuple(ours[n].shape)} here"
            for n in wrong
        )
        fault = f"these do not fit: {_few(shapes, '; ')}" if wrong else "no name is in both"
        raise PvaeError(
            f"{name_of(model)} and {name_of(guide)} cannot start from {run}, a run of "
            f"{pair[0]} and {pair[1]}: {fault}. What fits: "
            f"{_few(parts(ours, taken)) or 'nothing'}. Build the pair with the sizes of the run."
        )
    for path, module in found.items():
        own = {name: theirs.get(f"{path}.{name}") for name in module.state_dict()}
        module.load_state_dict({n: v for n, v in own.items() if v is not None}, strict=False)
    set_params(state["params"])
    return taken


def freeze(model: Program, guide: Program, names: Iterable[str]) -> None:
    """Freezes parts of a pair, as `requires_grad_(False)` does.

    Args:
        model: The model.
        guide: The guide.
        names: Modules or parameters, such as `"guide"` and `"model.decoder"`.

    Raises:
        PvaeError: If the pair has no parameter of such a name.
    """
    every = {
        f"{path}.{name}": parameter
        for path, module in modules(model, guide).items()
        for name, parameter in module.named_parameters()
    }
    for name in names:
        chosen = [n for n in every if f"{n}.".startswith(f"{name}.")]
        if not chosen:
            known = {n.rpartition(".")[0] for n in every} | {n.partition(".")[0] for n in every}
            raise PvaeError(f"freeze={name!r}: no parameter has this name. {nearest(name, known)}")
        for each in chosen:
            every[each].requires_grad_(False)


def say_frozen(svi: SVI, say: bool) -> tuple[str, ...]:
    """Returns the parts of a pair that are not trained, and says so."""
    every = {
        f"{path}.{name}": parameter
        for path, module in svi.own.modules.items()
        for name, parameter in module.named_parameters()
    }
    found = parts(every, [name for name, p in every.items() if not p.requires_grad])
    if found and not svi.optim.parameters:
        raise PvaeError(
            f"All parameters of the pair are frozen ({', '.join(found)}), so that nothing is left "
            "to train. Call requires_grad_() on the part that is to be trained."
        )
    if found and say:
        tqdm.write(f"Frozen, and not trained: {', '.join(found)}.", file=sys.stderr)
    return tuple(found)


def parts(every: Iterable[str], chosen: Container[str]) -> list[str]:
    """Returns names of parameters with each module that is chosen as a whole named once.

    Example:
        >>> parts(["a.b.x", "a.b.y", "a.c"], ["a.b.x", "a.b.y"])
        ['a.b']
    """
    every = list(every)
    rest = {start for name in every if name not in chosen for start in _starts(name)}
    found = (
        next(start for start in _starts(name) if start not in rest)
        for name in every
        if name in chosen
    )
    return list(dict.fromkeys(found))


def _starts(name: str) -> list[str]:
    pieces = name.split(".")
    return [".".join(pieces[: i + 1]) for i in range(len(pieces))]


def _part(model: Program, name: str) -> str | None:
    """Returns where in a model of another class its one part of a class is."""
    if not isinstance(model, nn.Module) or type(model).__name__ == name:
        return None
    found = [path for path, part in model.named_modules() if type(part).__name__ == name]
    alone = all(
        path.startswith(f"{found[0]}.") for path in found[1:]
    )  # its network's name is its own
    return f"model.{found[0]}" if found and alone else None


def _fits(ours: Any, theirs: Any) -> bool:
    if not isinstance(ours, Tensor) or not isinstance(theirs, Tensor):
        return True  # a module's extra state
    return is_lazy(ours) or ours.shape == theirs.shape


def _few(names: Iterable[str], between: str = ", ") -> str:
    names = list(names)
    more = f"{between}and {len(names) - _MOST} more" if len(names) > _MOST else ""
    return between.join(names[:_MOST]) + more
