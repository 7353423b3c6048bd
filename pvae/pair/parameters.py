"""The parameters of a pair, and the context in which a pair is inspected."""

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any

import pyro
import torch
from pyro.nn import PyroModule
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import _PYRO_STACK
from torch import Tensor, nn

from pvae.pair.program import Program, check_programs, evaluating
from pvae.pair.reach import modules

__all__ = ["OwnParameters", "quiet"]


class OwnParameters(Messenger):
    """Inside this context, every module's parameters are kept in that module and nowhere else.

    Pyro keeps parameters in one global store by name, so two modules of the same name (a model's
    `.net` and a guide's `.net`, or two pairs in one notebook) would share them. Here
    `nn.Parameter`s never enter the store, and `PyroParam`s enter it under a unique name while the
    context lasts. A program's own `pyro.param` stays in Pyro's store, where its author expects it.

    Attributes:
        parameters: The leaf tensors that the pair has used so far, by name: those that Pyro's SVI
            would optimise.
        stored: Names of the pair's `pyro.param` sites in Pyro's store.
        used: Ids of the leaf tensors that the pair has used since this set was last emptied.
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
        self._rename_back()  # an interrupt may have left something to undo
        self._depth = 1
        store = pyro.get_param_store()
        self._before = set(store._params)
        for path, module in self.modules.items():
            for name, part in module.named_modules():
                # A PyroSample's site takes the module's name, which may not change then. A module
                # with a name and no parameters may make them in its first call.
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
        """Returns a name that no other module's parameters have in Pyro's store."""
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
def quiet(model: Program, guide: Program) -> Iterator[None]:
    """Runs a pair in eval mode, with its own parameters, without validation or gradients."""
    with (
        evaluating(model, guide),
        OwnParameters(model, guide),
        pyro.validation_enabled(False),
        torch.no_grad(),
    ):
        yield
