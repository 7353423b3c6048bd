"""evaluate() with the options of the shell, `ais=20, num_chains=4`, and what goes with it."""

import dataclasses
import inspect
from unittest import mock

import numpy as np
import torch

import pvae
from pvae.estimators import Gap
from pvae.evaluation import Task
from pvae.evaluation.estimators import find_estimators, pilot
from pvae.evaluation.work import Work
from pvae.pair.tensors import TensorSplit


def evaluate(*args, hasty=False, **options):
    """Returns `pvae.evaluate(*args, **others, estimators=[...])`.

    Args:
        hasty: Step sizes of annealing after one step of warm-up, and gaps after ten gradients: for
            tests that ask only whether there are numbers.
    """
    asked, taken = [], set()
    for kind in find_estimators():
        names = inspect.signature(kind.from_options).parameters.keys() & options.keys()
        asked.append(kind.from_options(**{name: options[name] for name in names}))
        taken |= names
    others = {name: value for name, value in options.items() if name not in taken}
    asked = [each for each in asked if each is not None]
    if not hasty:
        return pvae.evaluate(*args, **others, estimators=asked)
    gap = {"num_steps": 10}
    asked = [dataclasses.replace(e, **gap) if isinstance(e, Gap) else e for e in asked]
    with mock.patch.object(pilot, "_WARMUP", 1):
        return pvae.evaluate(*args, **others, estimators=asked)


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
