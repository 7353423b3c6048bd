"""Stochastic variational inference: SVI, fit, checkpoints, optimisers.

Imports `objectives`, `importance`, `compile`, `pair`, `nn`, `data`, `distributions`, `drawing`,
`runtime` and `errors`.
"""

from pvae.training.checkpoint import pair_state, read_checkpoint, restore_pair
from pvae.training.fit import fit
from pvae.training.hooks import Callback, Training
from pvae.training.initialise import glorot
from pvae.training.not_finite import what_is_not_finite
from pvae.training.record import config_of_pair, write_config
from pvae.training.source import FOLDER, beside, keep_source, with_class, with_own_source
from pvae.training.stages import freeze, warm_start
from pvae.training.svi import SVI
from pvae.training.weights import WEIGHTS, is_saved, read_state, write_weights

__all__ = [
    "FOLDER",
    "SVI",
    "WEIGHTS",
    "Callback",
    "Training",
    "beside",
    "config_of_pair",
    "fit",
    "freeze",
    "glorot",
    "is_saved",
    "keep_source",
    "pair_state",
    "read_checkpoint",
    "read_state",
    "restore_pair",
    "warm_start",
    "what_is_not_finite",
    "with_class",
    "with_own_source",
    "write_config",
    "write_weights",
]
