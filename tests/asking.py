"""evaluate() with the options of the shell, `ais=20, num_chains=4`, and what goes with it."""

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


def assert_same(a, b):
    """Two evaluations have the same numbers, bit for bit."""
    for name in ("elbo", "log_px", "psis", "khat", "kl", "log_px_se", "elbo_analytic"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
    assert a.summary() == b.summary()
    assert a.findings.keys() == b.findings.keys()
    for name, found in a.findings.items():
        for key, value in vars(found).items():
            np.testing.assert_array_equal(value, getattr(b.findings[name], key), f"{name} {key}")
