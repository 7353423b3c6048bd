"""What an evaluation computes beside the bounds: which estimators, on which data."""

import dataclasses
import difflib
import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from pyro.infer.autoguide import AutoGuide
from torch import nn

from pvae.errors import PvaeError
from pvae.evaluation.estimator import Estimator, Task
from pvae.evaluation.estimators import find_estimators
from pvae.pair import Program

__all__ = ["check_estimators", "is_due", "make_plan", "refuse_options", "settings_of", "usual"]


def usual() -> list[Estimator]:
    """Returns the estimators that run if none is asked for, as in the shell."""
    found = (kind.from_options() for kind in find_estimators())
    return [each for each in found if each is not None]


def check_estimators(estimators: Iterable[Estimator]) -> list[Estimator]:
    """Returns the estimators as a list.

    Raises:
        PvaeError: If one is not an estimator, or if two have the same name.
    """
    if isinstance(estimators, Estimator):
        raise PvaeError(f"estimators: give a list, as in [{type(estimators).__name__}(100)].")
    asked = list(estimators)
    for each in asked:
        if not isinstance(each, Estimator):
            what = each.__name__ if isinstance(each, type) else repr(each)
            raise PvaeError(
                f"estimators: {what} is not an estimator. Pass instances of the classes in "
                "pvae.estimators, as in estimators=[AIS(100)]."
            )
    names = [part.name for each in asked for part in each.parts(False)]
    if twice := {name for name in names if names.count(name) > 1}:
        raise PvaeError(
            f"estimators: {' and '.join(sorted(twice))} would be computed twice and stored under "
            "one name. Evaluate once for each."
        )
    return asked


def refuse_options(
    arguments: dict[str, Any], evaluate: Callable[..., Any], *programs: Program
) -> None:
    """Refuses an argument of `evaluate` that is an option of the shell, or misspelt.

    Args:
        arguments: What `evaluate` hands on to the programs, by name.
        evaluate: `pvae.evaluate`, for the names of its own arguments.
        *programs: The pair. A name that one of them takes is left to it.

    Raises:
        PvaeError: Says what to write instead.
    """
    for name in arguments:
        if any(_takes(program, name) for program in programs):
            continue
        options = {
            each: inspect.signature(each.from_options).parameters for each in find_estimators()
        }
        if any(name in names for names in options.values()):
            found = [
                kind.from_options(**{n: arguments[n] for n in names if n in arguments})
                for kind, names in options.items() if arguments.keys() & names.keys()
            ]  # fmt: skip
            asked = ", ".join(_call(each) for each in found if each is not None)
            raise PvaeError(
                f"evaluate has no argument {name!r}: that is an option of the shell. In Python, "
                f"list the estimators that you want, as in estimators=[{asked or '…'}], after "
                "`from pvae import estimators`."
            )
        own = inspect.signature(evaluate).parameters
        if near := difflib.get_close_matches(name, own, n=1, cutoff=0.8):
            raise PvaeError(f"evaluate has no argument {name!r}. Did you mean {near[0]}?")


def _takes(program: Program, name: str) -> bool:
    if isinstance(program, AutoGuide):  # it takes what its model takes
        return False
    call = program.forward if isinstance(program, nn.Module) else program
    try:
        parameters = inspect.signature(call).parameters.values()
    except (TypeError, ValueError):  # a builtin
        return True
    return any(p.name == name or p.kind is p.VAR_KEYWORD for p in parameters)


def _call(estimator: Estimator) -> str:
    """Returns the call that makes an estimator, without the defaults."""
    words = [
        f"{value!r}" if field.name == "num_data" else f"{field.name}={value!r}"
        for field in dataclasses.fields(estimator)
        if (value := getattr(estimator, field.name)) != field.default
        and not isinstance(value, Estimator)
    ]
    return f"estimators.{type(estimator).__name__}({', '.join(words)})"


def make_plan(asked: Sequence[Estimator], task: Task) -> dict[str, tuple[Estimator, Task]]:
    """Returns the estimators that run by name, in order, each with its data.

    An estimator that several others need runs once, on the largest number of data.
    """
    size = len(task.data)

    def sized(each: Estimator) -> Estimator:
        wanted = size if each.num_data is None or task.sampler.bound else each.num_data
        return dataclasses.replace(each, num_data=min(wanted, size))

    asked, found = [sized(each) for each in asked], dict[str, Estimator]()
    for each in (one for estimator in asked for one in estimator.plan(asked, task)):
        if each.name not in found or found[each.name].num_data < each.num_data:
            found[each.name] = each
    order = np.random.default_rng(task.seed).permutation(size)
    return {
        each.name: (each, dataclasses.replace(task, positions=np.sort(order[: each.num_data])))
        for each in sorted(found.values(), key=lambda each: each.finding.order)
    }


def settings_of(estimator: Estimator, task: Task) -> dict[str, Any]:
    """Returns what an estimator's numbers depend on beside the pair, the data and the seed."""
    return {"num_data": len(task.positions), **estimator.options(task)}


def is_due(estimator: Estimator, task: Task) -> bool:
    """Whether an estimator has to run: no finding of its options on as many data is known."""
    there = task.known.settings.get(estimator.name, {}) if task.known else {}
    own = settings_of(estimator, task)
    num_data = own["num_data"]
    return there.get("num_data", 0) < num_data or there | {"num_data": num_data} != own
