"""`--logger`: curves of a run, also of a resumed one, and a tool that is not installed."""

import sys
import types

import pytest
from shell import SMALL, stored

from pvae.cli import main

TRAIN = ["train", *SMALL, "--progress", "false", "--data.validation", "1400"]


@pytest.fixture
def written(monkeypatch):
    """Stands in for TensorBoard; returns what is written."""
    rows = []
    writer = types.SimpleNamespace(
        add_scalar=lambda name, value, step: rows.append((name, step)),
        add_text=lambda *text: None,
        close=lambda: rows.append("closed"),
    )
    tool = types.SimpleNamespace(SummaryWriter=lambda folder, **after: writer)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", tool)
    return rows


def test_a_run_and_its_continuation_are_logged(here, written):
    assert main([*TRAIN, "--epochs", "1", "--logger", "tensorboard", "--out", "run"]) == 0
    assert ("validation_elbo", 1) in written
    assert stored(here / "run")["logger"] == "tensorboard"
    assert main(["train", "--resume", "run", "--epochs", "2", "--progress", "false"]) == 0
    assert [row for row in written if row == "closed" or row[0] == "elbo"] == [
        ("elbo", 1), "closed", ("elbo", 2), "closed",
    ]  # fmt: skip


def test_what_is_not_installed_is_said_before_anything_is_made(here, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert main([*TRAIN, "--logger", "wandb", "--out", "run"]) == 1
    said = capsys.readouterr()
    assert said.err.startswith("pvae: error: WandB needs wandb, which is not installed")
    assert "pip install 'pvae[wandb]'" in said.err
    assert not (here / "run").exists()


def test_an_unknown_logger_is_refused(capsys):
    assert main([*TRAIN, "--logger", "comet"]) == 2
    assert "--logger" in capsys.readouterr().err


def test_a_schedule_by_class_has_its_options(here, capsys):
    argv = [*TRAIN, "--epochs", "3", "--schedule", "StepLR", "--lr", "0.01", "--out", "run"]
    assert main([*argv, "--schedule.step_size", "1"]) == 0
    lines = (here / "run" / "history.csv").read_text().splitlines()
    rates = [float(line.split(",")[2]) for line in lines[1:]]
    assert rates == pytest.approx([0.01, 0.001, 0.0001])
    assert main([*argv, "--overwrite"]) == 2
    assert "step_size" in capsys.readouterr().err
    assert main(["train", "--config", "run/config.yaml", "--out", "again"]) == 0, "it is trusted"
    assert (here / "again" / "history.csv").read_text().splitlines() == lines
