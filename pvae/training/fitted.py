"""Fit: the result of fit(), its history and its figure."""

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pvae.drawing import card, draw_epochs, onto, text
from pvae.errors import PvaeError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Fit"]

_ROWS = 20


@dataclass(frozen=True, repr=False)
class Fit:
    """The result of `fit`.

    Attributes:
        history: One dict for each epoch: `epoch`, `elbo` (of the training data under the KL
            weight of that epoch, nats per datum; of another objective, its own value with its
            penalties), `learning_rate` (of its last step), `kl_weight`, and `validation_elbo` if a
            validation part is held out, the plain ELBO where the objective has penalties.
        loss: Name of the ELBO that was used.
        num_parameters: Number of trained values.
        best_epoch: The epoch whose parameters the pair has now.
        caveat: Why the model's density is not a likelihood of these data, else `None`.
        frozen: The parts that were not trained, because their parameters have
            `requires_grad=False`: modules and parameters by name, such as `"model.decoder"`.
        made: The `date` of its end, the `seconds` it took and the `device`.
    """

    history: list[dict[str, float]]
    loss: str
    num_parameters: int
    best_epoch: int
    caveat: str | None = None
    frozen: tuple[str, ...] = ()
    made: dict[str, Any] = field(default_factory=dict, compare=False)

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draws the objective of training and of validation data over the epochs, in nats.

        The first tenth of training lies below the frame if it would flatten the rest.
        `pvae.plot.training` draws several trainings onto one axes.

        Args:
            ax: matplotlib axes to draw onto; None makes a figure.

        Raises:
            PvaeError: If no epoch has a finite objective.
        """
        if not any(math.isfinite(row["elbo"]) for row in self.history):
            raise PvaeError("There is no finite objective to draw: no epoch was trained.")
        ax, look = onto(ax)
        draw_epochs(ax, self.history, look=look)
        return ax

    def _last(self) -> list[tuple[str, str]]:
        """Returns the numbers of the epoch whose parameters the pair has."""
        row = next((r for r in self.history if r["epoch"] == self.best_epoch), {})
        names = {"elbo": "objective", "validation_elbo": "validation ELBO"}
        return [(words, text.number(row[key])) for key, words in names.items() if key in row]

    def __repr__(self) -> str:
        last = "".join(f", {name} {value}" for name, value in self._last())
        epochs = text.plural(len(self.history), "epoch")
        return (
            f"<Fit: {epochs} of {self.loss}, the parameters of epoch {self.best_epoch}{last} nats "
            f"per datum, {self.num_parameters} parameters>"
        )

    def _repr_html_(self) -> str:
        """Returns the numbers of the epoch that was kept for a notebook, and its history."""
        rows = [(f"{name}, nats per datum", value) for name, value in self._last()]
        rows.append(("trained parameters", text.count(self.num_parameters)))
        if self.frozen:
            rows.append(("not trained", ", ".join(self.frozen)))
        title = (
            f"{text.plural(len(self.history), 'epoch')} of {self.loss}; the pair has the "
            f"parameters of epoch {self.best_epoch}"
        )
        # A long history would make a notebook large.
        step = max(1, math.ceil(len(self.history) / _ROWS))
        shown = self.history[::-step][::-1]
        names = list(self.history[-1]) if self.history else []
        lines = [names] + [[f"{row.get(n, math.nan):.5g}" for n in names] for row in shown]
        words = [f"The numbers are {self.caveat}."] if self.caveat else []
        some = "all" if len(shown) == len(self.history) else f"{len(shown)} of"
        details = [(f"{some} {text.plural(len(self.history), 'epoch')}", lines)] if shown else []
        return card(title, rows, words=words, details=details)
