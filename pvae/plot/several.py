"""Several results in one figure: bounds of evaluations, inference gaps, and trainings."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pvae.drawing import draw_bounds, draw_trainings, onto, rows_of
from pvae.errors import PvaeError
from pvae.plot.arrays import bars

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["bounds", "gaps", "training"]


def bounds(evaluations: Mapping[str, Any], ax: "Axes | None" = None) -> "Axes":
    """Draws the mean bound L_K of several evaluations against K, and their ELBOs as dashed lines.

    The bands are ±1 standard error over the data. Evaluations on the same data share most of it:
    `pvae.compare` gives the error of a difference.

    Args:
        evaluations: By name, what `pvae.evaluate` returns.
        ax: matplotlib axes to draw onto; None makes a figure.

    Raises:
        PvaeError: If an evaluation has no bound.

    Example:
        >>> import pvae, torch
        >>> model, guide = pvae.models.PPCA((4,), 1), pvae.guides.LinearGaussian((4,), 1)
        >>> evaluation = pvae.evaluate(model, guide, torch.rand(5, 4), num_samples=10)
        >>> bounds({"PPCA": evaluation}).get_xlabel()
        'samples K'
    """
    summaries = {name: each.summary() for name, each in _named(evaluations, "evaluate").items()}
    for name, summary in summaries.items():
        if not rows_of(summary):
            raise PvaeError(f"The evaluation {name!r} has no finite bound to draw.")
    ax, look = onto(ax)
    draw_bounds(ax, summaries, look=look)
    return ax


def gaps(evaluations: Mapping[str, Any], ax: "Axes | None" = None) -> "Axes":
    """Draws the inference gaps of several evaluations: amortisation, and approximation on top.

    Args:
        evaluations: By name, what `pvae.evaluate(..., estimators=[Gap(50)])` returns.
        ax: matplotlib axes to draw onto; None makes a figure.

    Raises:
        PvaeError: If an evaluation has no inference gap, or one is not of the guide's own family.

    Example:
        >>> import pvae, torch
        >>> model, guide = pvae.models.PPCA((4,), 1), pvae.guides.LinearGaussian((4,), 1)
        >>> ais = pvae.estimators.AIS(2, num_chains=2, num_temperatures=9)
        >>> wanted = [pvae.estimators.Gap(2, ais)]
        >>> found = pvae.evaluate(model, guide, torch.rand(5, 4), num_samples=10, estimators=wanted)
        >>> gaps({"PPCA": found}).get_ylabel()
        'log p(x) − ELBO, nats per datum'
    """
    values, errors = {}, {}
    for name, evaluation in _named(evaluations, "evaluate").items():
        found = evaluation.findings.get("gap")
        if found is None:
            raise PvaeError(
                f"The evaluation {name!r} has no inference gap. Add it with "
                "pvae.evaluate(..., estimators=[pvae.estimators.Gap(50)]), or in the shell with "
                "--gap 50."
            )
        parts, _, _ = found.parts(found.summary(evaluation))
        values[name] = {part: value for part, value, _ in parts}
        errors[name] = {part: se or 0.0 for part, _, se in parts}
    return bars(values, errors, up="log p(x) − ELBO, nats per datum", ax=ax)


def training(fits: Mapping[str, Any], ax: "Axes | None" = None) -> "Axes":
    """Draws the objective of several trainings over their epochs, in nats per datum.

    Solid lines are of the validation data, dashed ones of the training data. Objectives other
    than the ELBO are no bounds on the same quantity; the validation lines are always the ELBO.

    Args:
        fits: By name, what `pvae.fit` returns, or its history.
        ax: matplotlib axes to draw onto; None makes a figure.

    Raises:
        PvaeError: If a history has no finite objective.

    Example:
        >>> history = [{"epoch": 1, "elbo": -30.0}, {"epoch": 2, "elbo": -25.0}]
        >>> len(training({"VAE": history}).lines)
        1
    """
    histories: dict[str, Sequence[dict[str, Any]]] = {
        name: getattr(each, "history", each) for name, each in _named(fits, "fit").items()
    }
    for name, history in histories.items():
        if not any(math.isfinite(float(row["elbo"])) for row in history):
            raise PvaeError(f"The training {name!r} has no finite objective to draw.")
    ax, look = onto(ax)
    draw_trainings(ax, histories, look=look)
    return ax


def _named(results: Any, function: str) -> dict[str, Any]:
    """Returns results by name; refuses what has no names."""
    if not isinstance(results, Mapping) or not results:
        raise PvaeError(
            f"Give results of pvae.{function} by name, as in {{'IAF': result}}; a single result "
            f"has {'plot()' if function == 'fit' else 'plot_bounds() and others'} of its own."
        )
    return {str(name): each for name, each in results.items()}
