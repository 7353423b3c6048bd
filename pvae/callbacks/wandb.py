"""WandB: a run of Weights & Biases."""

from typing import Any

from numpy.typing import NDArray

from pvae.callbacks.logger import Logger
from pvae.training import Training

__all__ = ["WandB"]


class WandB(Logger):
    """Writes a run of Weights & Biases, with the settings as its config.

    In the shell this is `--logger wandb`. `WANDB_MODE=offline` or `mode="offline"` needs neither
    network nor login; `wandb sync` uploads such a run later.

    Args:
        every: As for `Logger`.
        **options: Arguments of `wandb.init`, such as `project` (default: pvae), `name` (default:
            the name of the run folder) and `mode`.

    Raises:
        PvaeError: If wandb is not installed.

    Example:
        >>> import pvae
        >>> logger = WandB(project="digits", mode="offline")  # doctest: +SKIP
        >>> pvae.fit(model, guide, "digits", callbacks=[logger])  # doctest: +SKIP
    """

    package, name = "wandb", "wandb"

    def __init__(self, every: int | None = None, **options: Any) -> None:
        super().__init__(every)
        self.options = options
        self._run: Any = None

    def open(self, training: Training, kept: dict[str, Any]) -> None:
        """Starts a run, or continues the one with the kept id."""
        options = {"project": "pvae", "config": dict(training.settings)}
        if training.out is not None:
            options |= {"name": training.out.resolve().name, "dir": str(training.out)}
        if "run" in kept:
            options |= {"id": kept["run"], "resume": "allow"}
        self._run = self.tool.init(**options | self.options)
        kept["run"] = str(self._run.id)

    def write(self, values: dict[str, float], step: int) -> None:
        """Writes numbers by name."""
        self._run.log(dict(values), step=step)

    def picture(self, name: str, pixels: NDArray[Any], step: int) -> None:
        """Writes a picture, uint8 [H, W, 3]."""
        self._run.log({name: self.tool.Image(pixels)}, step=step)

    def close(self, complete: bool) -> None:
        """Ends the run."""
        if self._run is not None:
            self._run.finish(exit_code=0 if complete else 1)
            self._run = None
