"""What `fit` can do beside training: loggers, and pictures each few epochs.

A tracking tool is imported when its callback is made, and not before. Early stopping is `patience`
of `pvae.fit`; averaged parameters, gradient accumulation and schedules are its arguments `average`,
`accumulate` and `schedule`.

Imports `training`, `predictive`, `data`, `pair`, `runtime` and `errors`.
"""

from pvae.callbacks.logger import Logger
from pvae.callbacks.mlflow import MLflow
from pvae.callbacks.pictures import Pictures
from pvae.callbacks.tensorboard import TensorBoard
from pvae.callbacks.wandb import WandB
from pvae.training import Callback, Training

__all__ = [
    "FOLDERS",
    "LOGGERS",
    "Callback",
    "Logger",
    "MLflow",
    "Pictures",
    "TensorBoard",
    "Training",
    "WandB",
]

LOGGERS = {"tensorboard": TensorBoard, "wandb": WandB, "mlflow": MLflow}
"""The loggers that the shell knows, by name."""

FOLDERS = ("tensorboard", "wandb", "pictures")
"""What callbacks write into a run folder."""
