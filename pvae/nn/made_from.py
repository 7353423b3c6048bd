"""The arguments that an object was constructed with, for the config of a run."""

import functools
import inspect
from typing import Any

__all__ = ["arguments", "remember"]

_KEY = "_made_from"


def remember(*classes: type) -> None:
    """Makes the objects of some classes keep their constructor's arguments.

    Example:
        >>> from torch import nn
        >>> class Half(nn.Module):
        ...     def __init__(self, width: int = 3):
        ...         super().__init__()
        >>> remember(Half)
        >>> arguments(Half(5))
        {'width': 5}
    """
    for cls in classes:
        init = cls.__init__

        @functools.wraps(init)
        def keeping(self: Any, *args: Any, _cls: type = cls, _init: Any = init, **kw: Any) -> None:
            if type(self) is _cls:
                self.__dict__[_KEY] = args, kw
            _init(self, *args, **kw)

        cls.__init__ = keeping


def arguments(made: object) -> dict[str, Any] | None:
    """Returns an object's constructor arguments by name, or None if they are not known.

    They come from `remember` or, for PyTorch's layers, from attributes that have the names of the
    constructor's parameters.

    Example:
        >>> from torch import nn
        >>> arguments(nn.Linear(2, 3))["out_features"]
        3
    """
    signature = inspect.signature(type(made).__init__)
    kept = vars(made).get(_KEY)
    if kept is not None:
        bound = signature.bind(made, *kept[0], **kept[1]).arguments
        named = dict(list(bound.items())[1:])
        for name, parameter in signature.parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                named |= named.pop(name, {})
        return named
    found = {}
    for name, parameter in list(signature.parameters.items())[1:]:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            return None
        if hasattr(made, name):
            found[name] = getattr(made, name)
        elif parameter.default is parameter.empty:
            return None
    return found
