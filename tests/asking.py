"""evaluate() with estimators asked for as in the shell: `ais=20, num_chains=4, surgery=False`."""

import inspect

import numpy as np
import torch

import pvae
from pvae.evaluation import Task
from pvae.evaluation.estimators import find_estimators
from pvae.evaluation.work import Work
from pvae.pair.tensors import TensorSplit


def evaluate(*args, **options):
    """Returns `pvae.evaluate(*args, **others, estimators=[...])`."""
    asked, taken = [], set()
    for kind in find_estimators():
        names = inspect.signature(kind.from_options).parameters.keys() & options.keys()
        asked.append(kind.from_options(**{name: options[name] for name in names}))
        taken |= names
    others = {name: value for name, value in options.items() if name not in taken}
    return pvae.evaluate(*args, **others, estimators=[each for each in asked if each is not None])


def task(sampler, batch, positions=None, *, seed=0, known=None):
    """Returns what an estimator is handed, for data on the CPU."""
    data = TensorSplit(batch)
    positions = np.arange(len(data)) if positions is None else positions
    work = Work(None, {}, False)
    return Task(sampler, data, positions, known, work, torch.device("cpu"), seed)
