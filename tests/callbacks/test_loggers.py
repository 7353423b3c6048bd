"""Loggers, with stand-ins for the tools: rows, settings, pictures, resumed runs, missing tools."""

import sys
import types

import numpy as np
import pytest
import torch
from small import quick_fit, small_pair

from pvae import PvaeError
from pvae.callbacks import Callback, Logger, MLflow, Pictures, TensorBoard, WandB

X = torch.randint(0, 2, (40, 1, 8, 8), generator=torch.Generator().manual_seed(0)).float()
SIZES = {"batch_size": 16, "epochs": 4}  # three steps in an epoch


class Tool:
    """Stands in for the three tools, and notes what they are given."""

    def __init__(self):
        self.opened, self.scalars, self.pictures, self.closed, self.params = [], [], [], [], {}

    # torch.utils.tensorboard
    def SummaryWriter(self, folder, **options):
        self.opened.append((folder, options))
        return types.SimpleNamespace(
            add_scalar=lambda name, value, step: self.scalars.append((name, value, step)),
            add_text=lambda name, text, step: self.params.update({name: text}),
            add_image=lambda name, x, step, dataformats: self.pictures.append((x, step)),
            close=lambda: self.closed.append(True),
        )

    # wandb
    def init(self, **options):
        self.opened.append(options)
        self.params.update(options["config"])
        return types.SimpleNamespace(
            id=options.get("id", "abc"),
            log=lambda values, step: self.scalars.extend((n, v, step) for n, v in values.items()),
            finish=lambda exit_code: self.closed.append(exit_code == 0),
        )

    def Image(self, pixels):
        return pixels

    # mlflow
    def MlflowClient(self, tracking_uri):
        self.opened.append(tracking_uri)
        return types.SimpleNamespace(
            get_experiment_by_name=lambda name: None,
            create_experiment=lambda name: name,
            create_run=lambda place, run_name: types.SimpleNamespace(
                info=types.SimpleNamespace(run_id="abc")
            ),
            update_run=lambda run, status: self.opened.append((run, status)),
            log_param=lambda run, name, value: self.params.update({name: value}),
            log_metric=lambda run, n, v, step: self.scalars.append((n, v, step)),
            set_terminated=lambda run, status: self.closed.append(status == "FINISHED"),
        )


@pytest.fixture
def tool(monkeypatch):
    made = Tool()
    for name in ("torch.utils.tensorboard", "wandb", "mlflow"):
        monkeypatch.setitem(sys.modules, name, made)
    return made


class FailsAfter(Callback):
    def __init__(self, epoch):
        self.after = epoch

    def epoch(self, training):
        if training.epoch == self.after:
            raise RuntimeError("a bug")


@pytest.mark.parametrize("kind", [TensorBoard, WandB, MLflow])
def test_every_row_is_written_once_also_in_a_resumed_run(tool, tmp_path, kind):
    out = {"out": tmp_path / "run", **SIZES}
    with pytest.raises(PvaeError, match="FailsAfter"):  # before the logger has written the row
        quick_fit(small_pair(), X, callbacks=[FailsAfter(2), kind()], **out)
    assert tool.closed == [kind is TensorBoard]
    fit = quick_fit(small_pair(), X, callbacks=[kind()], resume=True, **out)
    expected = [(n, v, 3 * (i + 1)) for i, row in enumerate(fit.history) for n, v in row.items()]
    assert tool.scalars == expected
    assert tool.closed[1:] == [True]
    assert len(tool.opened) == 2 + (kind is MLflow)
    if kind is TensorBoard:
        folder = str(tmp_path / "run" / "tensorboard")
        assert tool.opened == [(folder, {}), (folder, {"purge_step": 7})]
        assert "| batch_size | 16 |" in tool.params["settings"]
    elif kind is WandB:
        assert (tool.opened[0]["name"], tool.opened[0]["project"]) == ("run", "pvae")
        assert tool.opened[1]["id"] == "abc"
        assert tool.params["batch_size"] == 16
    else:
        assert tool.opened[2] == ("abc", "RUNNING")
        assert {"data hash", "models x"} <= tool.params.keys()


def test_a_logger_writes_each_nth_step_too(tool, tmp_path):
    logger = TensorBoard(tmp_path, every=2)
    fit = quick_fit(small_pair(), X, batch_size=16, epochs=2, callbacks=[logger])
    steps = [(value, step) for name, value, step in tool.scalars if name == "step_elbo"]
    assert [step for _, step in steps] == [2, 4, 6]
    assert all(value == pytest.approx(fit.history[0]["elbo"], abs=3) for value, _ in steps)


@pytest.mark.parametrize(
    ("kind", "extra"), [(TensorBoard, "tensorboard"), (WandB, "wandb"), (MLflow, "mlflow")]
)
def test_a_missing_tool_is_said_with_the_extra_to_install(monkeypatch, kind, extra):
    monkeypatch.setitem(sys.modules, kind.package, None)
    with pytest.raises(PvaeError, match=rf"{kind.__name__} needs {extra}.*'pvae\[{extra}\]'"):
        kind()


def test_tensorboard_without_a_folder_is_said(tool):
    with pytest.raises(PvaeError, match=r"TensorBoard failed in `start`\. There is no folder"):
        quick_fit(small_pair(), X, callbacks=[TensorBoard()])


def test_pictures_are_shown_in_a_logger_and_written(tool, tmp_path):
    from PIL import Image

    logger = TensorBoard(tmp_path / "log")
    grid = Pictures(every=3, size=5, logger=logger)
    quick_fit(small_pair(), X, callbacks=[logger, grid], out=tmp_path / "run", **SIZES)
    ((pixels, step),) = tool.pictures
    assert step == 9
    assert pixels.shape == (3 * 34, 5 * 34, 3), "rows of cells of 32 pixels in a frame"
    first = X[0, 0].repeat_interleave(4, 0).repeat_interleave(4, 1) * 255
    assert np.array_equal(pixels[1:33, 1:33, 0], first.numpy())
    written = tmp_path / "run" / "pictures" / "epoch-0003.png"
    assert np.array_equal(np.asarray(Image.open(written)), pixels)
    assert [path.name for path in written.parent.iterdir()] == [written.name]


def test_pictures_of_what_is_no_image_are_refused(tmp_path):
    from small import Decoder, Encoder

    with pytest.raises(PvaeError, match=r"Pictures failed in `start`\. .*shape \[4\]"):
        quick_fit((Decoder(), Encoder()), torch.randn(8, 4), callbacks=[Pictures(folder=tmp_path)])
    with pytest.raises(PvaeError, match="There is no folder"):
        quick_fit(small_pair(), X, callbacks=[Pictures()])


def test_the_loggers_of_the_shell_have_names():
    from pvae.callbacks import LOGGERS

    assert all(issubclass(kind, Logger) and kind.name == name for name, kind in LOGGERS.items())
