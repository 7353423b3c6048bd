"""Fixtures of all tests."""

import os
import shutil
import sys

import pytest

# Child processes import this checkout, not an installed one.
os.environ["PYTHONPATH"] = os.path.dirname(os.path.abspath(__file__))

if "PYTEST_XDIST_WORKER" in os.environ:
    # One thread for each process: two processes of two threads on two cores are far slower.
    os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture
def compiler():
    """Skips a test that compiles if there is no C++ compiler."""
    if not (shutil.which("g++") or shutil.which("clang++")):
        pytest.skip("torch.compile needs a C++ compiler on a CPU, and there is none")


@pytest.fixture
def unvalidated():
    """Runs Pyro without its checks of values."""
    import pyro

    with pyro.validation_enabled(False):
        yield


@pytest.fixture
def uncompiled(monkeypatch):
    """Runs recorded graphs without compiling them.

    Returns:
        A list that receives each recorded graph.
    """
    import torch

    recorded = []

    def compile(program, inputs, options):
        recorded.append(program)
        return program

    monkeypatch.setattr(torch._inductor, "compile", compile)
    return recorded


@pytest.fixture(autouse=True)
def empty_param_store():
    """Empties Pyro's parameter store, which calls outside of pvae fill, after each test."""
    yield
    if "pyro" in sys.modules:
        sys.modules["pyro"].clear_param_store()
