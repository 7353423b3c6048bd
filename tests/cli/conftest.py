"""A current folder of its own for each test, and a finished run."""

import shutil
import sys

import pytest
from shell import QUICK, SMALL

from pvae.cli import main


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A run folder that `pvae run` made; not to be written to."""
    out = tmp_path_factory.mktemp("runs") / "finished"
    assert main(["run", *SMALL, *QUICK, "--seed", "3", "--out", str(out)]) == 0
    return out


@pytest.fixture
def run(finished, here):
    """A copy of that run folder in the current folder."""
    shutil.copytree(finished, here / "run")
    return here / "run"
