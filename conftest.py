"""What all tests share."""

import os
import shutil
import sys

import pytest

# Child processes import this checkout as well, whichever one is installed.
os.environ["PYTHONPATH"] = os.path.dirname(os.path.abspath(__file__))

if "PYTEST_XDIST_WORKER" in os.environ:
    # One thread each: on two cores, two processes of two threads are far slower.
    os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture
def compiler():
    """Skips a test that compiles where there is nothing to compile with."""
    if not (shutil.which("g++") or shutil.which("clang++")):
        pytest.skip("there is no C++ compiler, which PyTorch's own needs on a CPU")


@pytest.fixture
def unvalidated():
    """Runs Pyro without its checks of values."""
    import pyro

    with pyro.validation_enabled(False):
        yield


@pytest.fixture
def uncompiled(monkeypatch):
    """Runs graphs as they were recorded, in place of what the compiler makes of them.

    Returns:
        The graphs that were recorded, as they come.
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
    """Forgets what calls outside of pvae have left in Pyro's store, under names that others use."""
    yield
    if "pyro" in sys.modules:
        sys.modules["pyro"].clear_param_store()
