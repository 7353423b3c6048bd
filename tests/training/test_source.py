"""A run of one's own file can be read from anywhere; one that Python trained, from the shell."""

import re
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from small import quick_fit, same_state, state_of

import pvae
from pvae import PvaeError
from pvae.cli.main import main
from pvae.nn.made_from import arguments

MODEL = """
import pyro, torch, pyro.distributions as dist
from pyro.nn import PyroModule
from nets import WIDTH


class Model(PyroModule):
    def __init__(self, latent_dim: int = 2):
        super().__init__()
        self.latent_dim = latent_dim
        self.decoder = torch.nn.Sequential(
            torch.nn.Linear(latent_dim, WIDTH), torch.nn.ReLU(), torch.nn.Linear(WIDTH, 64)
        )

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(self.latent_dim), 1.0).to_event(1))
            logits = self.decoder(z).unflatten(-1, (1, 8, 8))
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(3), obs=x)


class Guide(PyroModule):
    def __init__(self, latent_dim: int = 2):
        super().__init__()
        self.latent_dim = latent_dim
        self.encoder = torch.nn.Linear(64, 2 * latent_dim)

    def forward(self, x):
        loc, raw = self.encoder(x.flatten(-3)).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, raw.exp()).to_event(1))
"""
PAIR = ["--model", "own.py:Model", "--guide", "own.py:Guide"]
QUICK = ["--progress", "false"]
EVALUATE = ["--num_samples", "20", "--prior_samples", "0", "--surgery", "false", "--trust", *QUICK]


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """A run of own.py, which imports nets.py beside it."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(home)
    (home / "own.py").write_text(MODEL)
    (home / "nets.py").write_text("WIDTH = 9\n")
    assert main(["train", *PAIR, "--epochs", "2", "--out", "run", *QUICK]) == 0
    return home


def test_a_run_is_evaluated_and_reported_from_another_folder(trained, tmp_path, monkeypatch):
    run = trained / "run"
    names = sorted(str(p.relative_to(run)) for p in run.rglob("*.py"))
    assert names == ["source/nets.py", "source/own.py"]
    assert yaml.safe_load((run / "config.yaml").read_text())["model"]["class_path"] == (
        "own.py:Model"
    )
    (tmp_path / "elsewhere").mkdir()
    run = run.rename(tmp_path / "elsewhere" / "moved")
    (trained / "own.py").unlink()
    (trained / "nets.py").unlink()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["evaluate", "moved", *EVALUATE]) == 0
    assert main(["report", "moved", "--trust"]) == 0
    assert (run / "report.html").stat().st_size > 10_000
    assert yaml.safe_load((run / "config.yaml").read_text())["model"]["class_path"] == (
        "own.py:Model"
    )
    assert main(["train", "--resume", "moved", "--epochs", "3", "--trust", *QUICK]) == 0
    assert len((run / "history.csv").read_text().splitlines()) == 4
    again = ["--config", "moved", "--epochs", "1", "--out", "again", "--trust", *QUICK]
    assert main(["train", *again]) == 0


def test_the_code_that_was_trained_is_used_and_a_change_is_said(trained, monkeypatch):
    model, guide = pvae.load("run", trust=True)
    before = state_of((model, guide))
    (trained / "own.py").write_text(MODEL.replace("torch.nn.ReLU()", "torch.nn.Tanh()"))
    (trained / "nets.py").write_text("WIDTH = 10\n")
    with pytest.warns(UserWarning, match=r"own\.py has changed since run was trained.*own copy"):
        model, guide = pvae.load("run", trust=True)
    assert same_state(before, state_of((model, guide)))
    assert isinstance(model.decoder[1], torch.nn.ReLU)
    assert model.decoder[0].out_features == 9


def test_without_trust_a_copy_is_not_run(trained, capsys):
    assert main(["evaluate", "run", "--num_samples", "5"]) == 1
    assert "--trust" in capsys.readouterr().err


HEAD = """
import pyro.distributions as dist
from pvae.distributions import Head
from widths import WIDTH


class Laplace(Head):
    def __init__(self, scale: float = 1.0):
        super().__init__()
        self.scale = scale * WIDTH

    def forward(self, f):
        return dist.Laplace(f, self.scale).to_event(self.event_dim)
"""


def test_a_head_of_ones_own_belongs_to_its_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(HEAD)
    (tmp_path / "widths.py").write_text("WIDTH = 0.5\n")
    own = ["--model.likelihood", "own.py:Laplace", "--model.likelihood.scale", "0.6"]
    small = ["--model.hidden_dims", "[4]", "--guide.hidden_dims", "[4]", "--epochs", "1", *QUICK]
    grey = ["--data.observation", "dequantize"]
    assert main(["train", *own, *small, *grey, "--out", "run"]) == 0
    head = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["model"]["init_args"]
    assert head["likelihood"] == {"class_path": "own.py:Laplace", "init_args": {"scale": 0.6}}
    kept = sorted(path.name for path in (tmp_path / "run" / "source").glob("*.py"))
    assert kept == ["own.py", "widths.py"]
    capsys.readouterr()
    assert main(["evaluate", "run", "--num_samples", "5"]) == 1
    assert "names own.py:Laplace" in capsys.readouterr().err
    (tmp_path / "own.py").unlink()
    (tmp_path / "widths.py").unlink()
    model, _ = pvae.load("run", trust=True)
    p = model.likelihood(torch.zeros(1, 20))
    assert p.base_dist.scale[0, 0, 0, 0] == pytest.approx(0.3)
    assert main(["evaluate", "run", *EVALUATE]) == 0
    assert main(["train", "--resume", "run", "--epochs", "2", "--trust", *QUICK]) == 0
    assert main(["train", "--config", "run", "--trust", "--out", "again", *QUICK]) == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["own.py:Laplac"], r"no Laplac in own\.py\. Did you mean Laplace"),
        (["own.py:Laplace", "--model.likelihood.scal", "1"], r"own\.py:Laplace.*'scal' is not"),
        (["own.py:dist"], "not correspond to a subclass of Head"),
        (["missing.py:Laplace"], r"no file missing\.py"),
        (["cauchy"], "Expected one of 'bernoulli'"),
    ],
    ids=str,
)
def test_a_head_that_is_none(options, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(HEAD)
    (tmp_path / "widths.py").write_text("WIDTH = 0.5\n")
    assert main(["train", "--model.likelihood", *options, "--out", "run"]) in (1, 2)
    assert re.search(said, capsys.readouterr().err)
    assert not (tmp_path / "run").exists()


def test_a_run_that_is_lengthened_keeps_its_schedule(trained):
    with pytest.warns(UserWarning, match=r"2 epochs.*4.*schedule.*4 epochs"):
        assert main(["train", "--resume", "run", "--epochs", "4", "--trust", *QUICK]) == 0
    assert yaml.safe_load((trained / "run" / "config.yaml").read_text())["epochs"] == 4
    history = [row["epoch"] for row in pvae.runs.folder.read_history(trained / "run")]
    assert history == [1, 2, 3, 4]


def test_a_run_of_python_is_evaluated_and_reported_by_the_shell(tmp_path):
    digits = pvae.data.load("digits", validation=100)
    made = {
        "vae": lambda: (
            pvae.models.VAE((1, 8, 8), 3, hidden_dims=(7,)),
            pvae.guides.MeanField((1, 8, 8), latent_dim=3, hidden_dims=(5,)),
        ),
        "vamp": lambda: _vamp(),
        "head": lambda: (
            pvae.models.VAE((1, 8, 8), 3, likelihood=pvae.distributions.heads.Binomial(17)),
            pvae.guides.MeanField((1, 8, 8), latent_dim=3),
        ),
    }
    for name, make in made.items():
        pair, run = make(), tmp_path / name
        pvae.fit(*pair, digits, epochs=1, lr=0.01, out=run, progress=False)
        model, guide = pvae.load(run)
        assert same_state(state_of(pair), state_of((model, guide)))
        assert main(["evaluate", str(run), *EVALUATE]) == 0
        assert main(["report", str(run)]) == 0
        config = yaml.safe_load((run / "config.yaml").read_text())
        assert config["data"]["validation"] == 100
        assert config["lr"] == 0.01


def test_numbers_of_numpy_are_in_the_config(tmp_path):
    size = np.int64(3)
    pair = pvae.models.VAE((1, 8, 8), size), pvae.guides.MeanField((1, 8, 8), size)
    options = {"lr": np.float64(0.25), "clip_norm": np.float32(0.5), "epochs": 1}
    quick_fit(pair, pvae.data.load("digits"), **options, out=tmp_path)
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert (config["lr"], config["clip_norm"]) == (0.25, 0.5)
    assert config["model"]["init_args"]["latent_dim"] == 3


def _vamp():
    model = pvae.models.VampPriorVAE((1, 8, 8), 2, num_pseudo_inputs=4, hidden_dims=[6])
    return model, pvae.guides.SharedEncoder(model)


def test_what_python_alone_can_make_has_no_config(tmp_path):
    digits = pvae.data.load("digits")
    tensors = digits.train.tensors()[0]
    pair = _vamp()
    quick_fit(pair, tensors, out=tmp_path / "tensors")

    class Local(pvae.models.VAE):
        pass

    pair = Local((1, 8, 8), 2), pvae.guides.MeanField((1, 8, 8), 2)
    quick_fit(pair, digits, out=tmp_path / "local")
    own = pvae.models.VAE((1, 8, 8), 2, decoder=torch.nn.Linear(2, 64)), pair[1]
    quick_fit(own, digits, out=tmp_path / "own")
    for run in ("tensors", "local", "own"):
        assert not (tmp_path / run / "config.yaml").exists()
    with pytest.raises(PvaeError, match=r"Build the pair and call pvae\.load"):
        pvae.load(tmp_path / "local")


def test_arguments_of_an_object():
    guide = pvae.guides.MeanField((1, 8, 8), latent_dim=3, hidden_dims=(5,))
    assert arguments(guide) == {"event_shape": (1, 8, 8), "latent_dim": 3, "hidden_dims": (5,)}
    model = pvae.models.MixturePriorVAE((1, 8, 8), num_components=3, likelihood="gaussian")
    assert arguments(model)["likelihood"] == "gaussian"
    assert arguments(torch.nn.Linear(2, 3))["in_features"] == 2
    assert arguments(torch.nn.Sequential(torch.nn.ReLU())) is None


BROKEN = {
    "an argument": ("x = 1\nclass Model:\n    def __call__(self): pass\n    def __init__(self):\n"
                    "        undefined_name(3)\n", r"own\.py:5\).*NameError.*undefined_name"),
    "the file": ("import pyro\nfoo = 1 / 0\n", r"own\.py.*\(at .*own\.py:2\): ZeroDivisionError"),
    "the syntax": ("def f(:\n", r"own\.py.*\(at .*own\.py:1\): SyntaxError"),
    "an import": ("import no_such_module_of_mine\n", r"own\.py:1\).*no_such_module_of_mine"),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_errors_in_ones_own_file_are_one_line(what, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text, said = BROKEN[what]
    (tmp_path / "own.py").write_text(text)
    assert main(["train", "--model", "own.py:Model", "--epochs", "1", "--out", "run"]) == 1
    error = capsys.readouterr().err
    assert re.search(said, error), error
    assert "Traceback" not in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ["--loss", "IWAE_ELBO", "--num_particles", "0"],
            "num_particles=0 is not valid: at least one",
        ),
        (["--model.network", "conv", "--model.channels", "[]"], r"channels=\(\): convolutions"),
        (["--loss", "Beta_ELBO", "--loss.num_particles", "-1"], "num_particles=-1"),
    ],
)
def test_a_folder_is_made_when_the_objects_are(options, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", *options, "--epochs", "1", "--out", "run"]) in (1, 2)
    error = capsys.readouterr().err
    assert re.search(said, error), error
    assert "Traceback" not in error
    assert not (tmp_path / "run").exists()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        small = ["--model.hidden_dims", "[4]", "--guide.hidden_dims", "[4]"]
        assert main(["train", *small, "--epochs", "1", "--out", "run", *QUICK]) == 0


def test_two_folders_have_a_file_of_the_same_name(tmp_path, monkeypatch):
    for name, width in (("first", 5), ("second", 6)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "own.py").write_text(MODEL)
        (tmp_path / name / "nets.py").write_text(f"WIDTH = {width}\n")
    for name, width in (("first", 5), ("second", 6)):
        monkeypatch.chdir(tmp_path / name)
        assert main(["train", *PAIR, "--epochs", "1", "--out", "run", *QUICK]) == 0
        kept = sorted(path.name for path in (tmp_path / name / "run" / "source").glob("*.py"))
        assert kept == ["nets.py", "own.py"]
        assert f"WIDTH = {width}" in (tmp_path / name / "run" / "source" / "nets.py").read_text()
        assert pvae.load("run", trust=True)[0].decoder[0].out_features == width


def test_a_module_of_another_folder_stays_where_it_is_not_replaced(tmp_path, monkeypatch):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "nets.py").write_text("WIDTH = 5\n")
    (tmp_path / "first" / "own.py").write_text(MODEL)
    (tmp_path / "second" / "own.py").write_text(
        MODEL.replace("from nets import WIDTH", "WIDTH = 6")
    )
    for name in ("first", "second"):
        monkeypatch.chdir(tmp_path / name)
        assert main(["train", *PAIR, "--epochs", "1", "--out", "run", *QUICK]) == 0
    assert Path(sys.modules["nets"].__file__).parent.name == "first"


def test_a_file_of_ones_own_that_hides_the_one_beside_is_refused(tmp_path, monkeypatch, capsys):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "own.py").write_text(MODEL)
    (tmp_path / "theirs" / "nets.py").write_text("WIDTH = 5\n")
    (tmp_path / "nets.py").write_text("WIDTH = 6\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    pair = ["--model", "theirs/own.py:Model", "--guide", "theirs/own.py:Guide"]
    assert main(["train", *pair, "--epochs", "1", *QUICK]) == 1
    said = capsys.readouterr().err
    assert re.search(r"theirs/own\.py imports nets from .*another nets beside it\. Rename", said)
