"""The shell's options for training: initial parameters, empty values, wrong signs."""

import shutil

import pytest
import torch

from pvae.cli.main import main
from pvae.training.checkpoint import read_checkpoint

QUICK = ["--epochs", "2", "--progress", "false", "--data.validation", "1300"]


def weights(run):
    modules = read_checkpoint(run / "checkpoint.pt")["state"]["modules"]
    return {f"{m}.{n}": v for m, state in modules.items() for n, v in state.items()}


START_FROM = '''
import pvae


class Model(pvae.models.VAE):
    """Starts its output at the mean of the data, with noise of its own."""

    def start_from(self, x, *rest):
        import torch

        with torch.no_grad():
            self.set_output_bias(x)
            for parameter in self.parameters():
                parameter.add_(0.01 * torch.randn_like(parameter))
'''


@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize(
    "options",
    [
        ["--init", "glorot"],
        ["--model", "mine.py:Model"],
        ["--model", "mine.py:Model", "--init", "glorot", "--data.labels", "true"],
    ],
    ids=["glorot", "start_from", "both"],
)
def test_a_killed_run_starts_from_the_same_parameters(here, monkeypatch, options, steps):
    import pvae

    (here / "mine.py").write_text(START_FROM)
    if "true" in options:
        options = options[:4]
    small = ["--model.hidden_dims", "[8]", "--guide.hidden_dims", "[8]", "--model.latent_dim", "2"]
    argv = ["train", *QUICK, *small, *options]
    assert main([*argv, "--out", "whole"]) == 0

    class Killed(BaseException):
        pass

    real, taken = pvae.SVI.update, []

    def update(self, *batch):
        if len(taken) == steps:
            raise Killed
        taken.append(1)
        return real(self, *batch)

    with monkeypatch.context() as patch:
        patch.setattr(pvae.SVI, "update", update)
        with pytest.raises(Killed):
            main([*argv, "--out", "killed"])
    for lost in ((), ("checkpoint.pt", "history.csv")):  # killed before its first checkpoint, too
        shutil.rmtree(here / "run", ignore_errors=True)
        shutil.copytree(here / "killed", here / "run")
        for name in lost:
            (here / "run" / name).unlink(missing_ok=True)
        assert main(["train", "--resume", "run", "--trust", "--progress", "false"]) == 0
        whole, resumed = weights(here / "whole"), weights(here / "run")
        assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
        history = [(here / run / "history.csv").read_text() for run in ("whole", "run")]
        assert history[0] == history[1]


@pytest.mark.parametrize(
    "option", ["--data", "--model", "--guide", "--out", "--config", "--resume"]
)
def test_an_empty_value_is_refused(here, capsys, option):
    for argv in ([option, ""], [f"{option}="]):
        assert main(["train", *QUICK, *argv]) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"pvae: error: {option}: the value is empty")
        assert said.count("\n") == 1
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("part", ["data", "model", "guide"])
def test_an_empty_value_in_a_config_is_refused(here, capsys, part):
    (here / "my.yaml").write_text(f"{part}: ''\n")
    assert main(["train", *QUICK, "--config", "my.yaml"]) == 1
    assert f"{part}: a name, or a mapping with" in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv",
    [
        ["--kl_warmup", "-1"],
        ["--patience", "-1"],
        ["--patience", "0"],
        ["--epochs", "-1"],
        ["--batch_size", "-128"],
        ["--lr", "-0.001"],
        ["--lr", "nan"],
        ["--clip_norm", "0"],
        ["--loss", "Beta_ELBO", "--loss.beta", "-3"],
        ["--loss", "FreeBits_ELBO", "--loss.free_bits=-1"],
        ["--loss", "InfoVAE_ELBO", "--loss.mmd_weight=-1"],
    ],
    ids=" ".join,
)
def test_wrong_signs_are_one_line_and_leave_nothing(here, capsys, argv):
    assert main(["train", *QUICK, *argv, "--out", "run"]) in (1, 2)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert argv[-1].partition("=")[0].strip("-").rpartition(".")[2].split("=")[0] in said or (
        argv[-2].strip("-").rpartition(".")[2] in said
    )
    assert not (here / "run").exists()
