"""Watch: the Python values that a recorded pair takes for granted, to notice when one changes."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from pvae.pair import Program, reach, variables

__all__ = ["Change", "Watch"]

_PLAIN = (bool, int, float, complex, str, type(None))
_MISSING = object()


class Change(NamedTuple):
    """A value that is another now: its full name, and where it is kept, if that is a dict."""

    name: str
    holder: dict[str, Any] | None
    key: str


class Watch:
    """Remembers what the programs of a pair can see besides the values of tensors.

    That is: numbers, strings and None in the attributes of modules and of other callable
    objects, in closures and in globals, which tensors and submodules a module holds, and which
    parameters are frozen. Not seen are the entries of lists and dicts, and what is read from
    outside.

    Args:
        model: Pyro program.
        guide: Pyro program.
        loss: An object whose attributes count too.
        ignored: What may change, as dict and key.

    Example:
        >>> net = nn.Linear(2, 2)
        >>> watch = Watch(net, net, object())
        >>> net.in_features = 3
        >>> watch.changed().name
        'model.in_features'
    """

    def __init__(
        self,
        model: Program,
        guide: Program,
        loss: object,
        ignored: Sequence[tuple[dict[str, Any], str]] = (),
    ) -> None:
        self._ignored = {(id(holder), key) for holder, key in ignored}
        self._entries: list[tuple[dict[str, Any], str, Any, str]] = []
        self._cells: list[tuple[Any, Any, str]] = []
        self._frozen: list[tuple[Tensor, bool, str]] = []
        modules, holders = reach(model, guide)
        for path, module in modules.items():
            for name, parameter in module.named_parameters():
                self._frozen.append((parameter, parameter.requires_grad, f"{path}.{name}"))
            for name, part in module.named_modules():
                here = f"{path}.{name}" if name else path
                self._see(vars(part), vars(part), here, _PLAIN)
                for held in (part._parameters, part._buffers, part._modules):
                    self._see(held, held, here, object)
        for path, holder in holders.items():
            if isinstance(holder, dict):
                self._see(holder, holder, path, _PLAIN)
                continue
            seen = variables(holder)
            self._see(holder.__globals__, seen.keys() & holder.__globals__.keys(), path, _PLAIN)
            for name, cell in zip(
                holder.__code__.co_freevars, holder.__closure__ or (), strict=True
            ):
                if isinstance(seen.get(name, _MISSING), _PLAIN):
                    self._cells.append((cell, seen[name], f"{path}.{name}"))
        own = getattr(loss, "__dict__", {})
        self._see(own, own, type(loss).__name__, _PLAIN)

    def _see(self, holder: dict[str, Any], keys: Any, path: str, kinds: Any) -> None:
        for key in keys:
            # Pyro's own, such as a module's name in its parameter store, change with the context.
            if key.startswith("_pyro_") or (id(holder), key) in self._ignored:
                continue
            if isinstance(holder[key], kinds):
                self._entries.append((holder, key, holder[key], f"{path}.{key}"))

    def changed(self) -> Change | None:
        """Returns the first value that is another now."""
        for holder, key, value, name in self._entries:
            now = holder.get(key, _MISSING)
            if now is not value and _differ(now, value):
                return Change(name, holder, key)
        for cell, value, name in self._cells:
            if cell.cell_contents is not value and _differ(cell.cell_contents, value):
                return Change(name, None, "")
        for parameter, requires_grad, name in self._frozen:
            if parameter.requires_grad is not requires_grad:
                return Change(f"{name}.requires_grad", None, "")
        return None


def _differ(now: Any, before: Any) -> bool:
    if isinstance(now, Tensor | nn.Module) or type(now) is not type(before):
        return True
    return now != before and not (now != now and before != before)  # NaN is NaN
