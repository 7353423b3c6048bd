"""MLflow: a run of an MLflow experiment."""

import re
from typing import Any

from numpy.typing import NDArray

from pvae.callbacks.logger import Logger
from pvae.training import Training

__all__ = ["MLflow"]


class MLflow(Logger):
    """Writes a run of MLflow, with the settings as its parameters.

    In the shell this is `--logger mlflow`. MLflow's own active run and settings do not change.

    Args:
        experiment: Name of the experiment; it is made if there is none.
        tracking_uri: Where MLflow keeps runs; None is its default, which the environment variable
            `MLFLOW_TRACKING_URI` sets.
        every: As for `Logger`.

    Raises:
        PvaeError: If MLflow is not installed.

    Example:
        >>> import pvae
        >>> logger = MLflow(tracking_uri="sqlite:///mlflow.db")  # doctest: +SKIP
        >>> pvae.fit(model, guide, "digits", callbacks=[logger])  # doctest: +SKIP
    """

    package, name = "mlflow", "mlflow"

    def __init__(
        self,
        experiment: str = "pvae",
        tracking_uri: str | None = None,
        every: int | None = None,
    ) -> None:
        super().__init__(every)
        self.experiment, self.tracking_uri = experiment, tracking_uri
        self._client: Any = None
        self._run = ""

    def open(self, training: Training, kept: dict[str, Any]) -> None:
        """Starts a run, or continues the one with the kept id."""
        client = self.tool.MlflowClient(self.tracking_uri)
        if "run" in kept:
            client.update_run(kept["run"], status="RUNNING")
        else:
            found = client.get_experiment_by_name(self.experiment)
            place = found.experiment_id if found else client.create_experiment(self.experiment)
            name = None if training.out is None else training.out.resolve().name
            kept["run"] = str(client.create_run(place, run_name=name).info.run_id)
            for key, value in training.settings.items():
                # MLflow takes letters, digits, spaces and some signs in names.
                client.log_param(kept["run"], re.sub(r"[^\w\-. /:]", "", key), str(value)[:500])
        self._client, self._run = client, kept["run"]

    def write(self, values: dict[str, float], step: int) -> None:
        """Writes numbers by name."""
        for name, value in values.items():
            self._client.log_metric(self._run, name, value, step=step)

    def picture(self, name: str, pixels: NDArray[Any], step: int) -> None:
        """Writes a picture, uint8 [H, W, 3]."""
        self._client.log_image(self._run, pixels, key=name, step=step)

    def close(self, complete: bool) -> None:
        """Ends the run."""
        if self._client is not None:
            self._client.set_terminated(self._run, "FINISHED" if complete else "FAILED")
            self._client = None
