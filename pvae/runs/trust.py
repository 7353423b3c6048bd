"""Trust: without it, a config may name only classes of pvae, torch and Pyro that compute."""

import contextlib
import importlib
from collections.abc import Collection, Iterator
from typing import Any

import yaml

from pvae.errors import PvaeError

__all__ = ["check_trust", "trusted"]

_LIBRARIES = ("pvae", "torch", "pyro")
_MOST_LEVELS, _MOST_VALUES = 40, 100_000


def check_trust(config: Any, where: str, given: Collection[str] = ()) -> None:
    """Refuses a config that names code to run, before any of that code is imported.

    Every class path in the config counts, at any depth and inside quoted YAML too. It must be a
    network, an objective, an optimiser or its schedule, a distribution or a transform of pvae,
    torch or Pyro: these take numbers and make tensors. Other names of these libraries are refused
    because some run code that they are given, such as `torch.hub.load`.

    Args:
        config: Plain containers from a file.
        where: The file, for the message.
        given: Names that were typed on this command line; any name is allowed here.

    Raises:
        PvaeError: The config names anything else, is nested too deeply, or is too large.
    """
    for name in _names(config):
        if name not in given and not _harmless(name):
            raise PvaeError(
                f"{where} names {name}, which is not a network, objective, optimiser or "
                "distribution of pvae, torch or Pyro. Using the config runs that code. If you "
                "trust its source, add --trust (in Python, trust=True)."
            )


def trusted(config: Any) -> bool:
    """Whether a config can be used without `--trust`."""
    try:
        check_trust(config, "the config")
    except PvaeError:
        return False
    return True


def _names(config: Any) -> Iterator[str]:
    """Yields every string of a config that may be a class path, also in quoted YAML."""
    todo, count = [(config, 0)], 0
    while todo:
        value, level = todo.pop()
        count += 1
        if level > _MOST_LEVELS or count > _MOST_VALUES:
            raise PvaeError("The config is nested too deeply or too large to be one of pvae.")
        if isinstance(value, dict):
            todo += [(each, level + 1) for each in value.values()]
        elif isinstance(value, list | tuple | set):
            todo += [(each, level + 1) for each in value]
        elif isinstance(value, str):
            inner = value
            with contextlib.suppress(yaml.YAMLError, ValueError, IndexError, RecursionError):
                inner = yaml.safe_load(value)
            if inner != value and isinstance(inner, str | dict | list):
                todo.append((inner, level + 1))
            elif _importable(value):
                yield value


def _importable(text: str) -> bool:
    with contextlib.suppress(ValueError):
        float(text)
        return False
    return ".py:" in text or ("." in text and all(text.split(".")))


def _harmless(name: str) -> bool:
    from pyro.infer import ELBO
    from pyro.optim import PyroOptim
    from torch import distributions, nn, optim

    root, *parts = name.split(".")
    if root not in _LIBRARIES or any(part.startswith("_") for part in parts):
        return False
    kinds = (nn.Module, ELBO, optim.Optimizer, optim.lr_scheduler.LRScheduler, PyroOptim)
    kinds += (distributions.Distribution, distributions.Transform)
    found, path = importlib.import_module(root), root
    for part in parts:
        path = f"{path}.{part}"
        if not hasattr(found, part):
            try:
                importlib.import_module(path)
            except ImportError:
                return True  # there is no such name: the import that follows reports it
        found = getattr(found, part)
    return isinstance(found, type) and issubclass(found, kinds)
