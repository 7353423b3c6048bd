"""The shell, called as a person calls it; in this process where that makes no difference."""

import functools
import json
import shutil
import subprocess
import sys

import pytest
import yaml

import pvae
import pvae.evaluation
from pvae.cli import options
from pvae.cli.main import RUN_FILES, main
from pvae.objectives import IWAE_ELBO

SMALL = ["--model.hidden_dims", "[16]", "--guide.hidden_dims", "[16]", "--model.latent_dim", "3"]
QUICK = ["--epochs", "2", "--num_samples", "20", "--progress", "false"]

PAIR = '''
import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import nn


class Model(PyroModule):
    """A model of a user's, whose latent_dim has no default and no type."""

    def __init__(self, event_shape, latent_dim, bias: float = 0.0):
        super().__init__()
        self.event_shape, self.latent_dim, self.bias = event_shape, latent_dim, bias
        self.net = nn.Linear(latent_dim, event_shape[-1] ** 2)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(self.latent_dim), 1.0).to_event(1))
            f = (self.net(z) + self.bias).reshape(*z.shape[:-1], *self.event_shape)
            pyro.sample("x", dist.Bernoulli(logits=f).to_event(3), obs=x)


class Guide(PyroModule):
    def __init__(self, event_shape, latent_dim: int = 5):
        super().__init__()
        self.net = nn.Linear(event_shape[-1] ** 2, 2 * latent_dim)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            loc, raw = self.net(x.flatten(-3)).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, raw.exp()).to_event(1))


class Fixed(Guide):
    def __init__(self, event_shape):
        super().__init__(event_shape, 4)


class Broken(nn.Module):
    def __init__(self):
        raise RuntimeError("a bug of the user's")


decoder, encoder = nn.Linear(2, 64), nn.Linear(64, 4)


def model(x):
    pyro.module("decoder", decoder)
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x.flatten(-3))


def guide(x):
    pyro.module("encoder", encoder)
    with pyro.plate("data", len(x)):
        loc, raw = encoder(x.flatten(-3)).chunk(2, -1)
        pyro.sample("z", dist.Normal(loc, raw.exp()).to_event(1))
'''


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


@pytest.fixture(scope="module")
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


def names(folder):
    return {path.name for path in folder.iterdir()}


def numbers(folder):
    return json.loads((folder / "evaluation.json").read_text())


def stored(folder):
    return yaml.safe_load((folder / "config.yaml").read_text())


def parsed(*argv):
    return options.parse("run", list(argv))[0]


def shell(*argv):
    return subprocess.run(
        [sys.executable, "-m", "pvae", *argv], capture_output=True, text=True, timeout=300
    )


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_import_nothing_heavy(option):
    program = (
        "import sys; from pvae.cli import main; code = main(sys.argv[1:]);"
        "heavy = {'torch', 'pyro', 'numpy', 'jsonargparse', 'yaml'} & sys.modules.keys();"
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, option], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: pvae" if option == "--help" else "pvae 0.")


def test_python_m_pvae_and_its_exit_codes():
    done = shell("--version")
    assert (done.returncode, done.stdout) == (0, f"pvae {pvae.__version__}\n")
    done = shell("rnu")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "pvae: error: there is no command rnu. Did you mean run?\n"
    done = shell("report", "nowhere")
    assert done.returncode == 1
    assert done.stderr.startswith("pvae: error: there is no nowhere")
    assert done.stderr.count("\n") == 1


def test_no_command_shows_the_help_and_fails(capsys):
    assert main([]) == 2
    assert "pvae COMMAND" in capsys.readouterr().err


def test_run_leaves_six_files_and_prints_the_table_and_the_report(here, capsys):
    assert main(["run", *SMALL, *QUICK, "--out", "out"]) == 0
    assert names(here / "out") == set(RUN_FILES)
    said = capsys.readouterr().out
    assert pvae.Evaluation.load("out").table() in said
    assert "report: out/report.html" in said


def test_without_any_option_digits_vae_and_mean_field():
    config = parsed()
    assert config["model"]["class_path"] == "pvae.models.VAE"
    assert config["guide"]["class_path"] == "pvae.guides.MeanField"
    assert config["data"]["source"] == "digits"
    assert config["seed"] == 0


def test_the_default_folder_is_the_first_free_one(here):
    (here / "runs" / "digits-VAE-1").mkdir(parents=True)
    assert main(["train", *SMALL, *QUICK]) == 0
    assert names(here / "runs") == {"digits-VAE-1", "digits-VAE-2"}
    assert names(here / "runs" / "digits-VAE-2") == {"config.yaml", "checkpoint.pt", "history.csv"}


def test_a_config_repeats_the_run(finished, here):
    config = stored(finished)
    assert config["model"]["init_args"]["event_shape"] == [1, 8, 8]
    assert config["guide"]["init_args"]["latent_dim"] == 3
    assert config["pvae"] == pvae.__version__
    assert not config.keys() & {"out", "resume", "overwrite", "config"}
    assert str(finished.parent) not in (finished / "config.yaml").read_text()
    again = ["run", "--config", str(finished / "config.yaml"), "--progress", "false"]
    assert main([*again, "--out", "again"]) == 0
    assert stored(here / "again") == config
    assert numbers(here / "again") == numbers(finished)
    assert main([*again, "--out", "other", "--seed", "4"]) == 0
    other, before = numbers(here / "other"), numbers(finished)
    assert other["elbo"] != before["elbo"]
    assert other["data"]["hash"] == before["data"]["hash"], "runs of all seeds can be compared"
    assert main([*again, "--out", "drawn", "--data.seed", "4"]) == 0
    assert numbers(here / "drawn")["data"]["hash"] != before["data"]["hash"]


def test_the_sizes_of_several_codes_are_shared_too(here):
    pair = ["--model", "HierarchicalVAE", "--guide", "BottomUp"]
    hidden = ["--model.hidden_dims", "[[8],[8],[8]]", "--guide.hidden_dims", "[[8],[8],[8]]"]
    config = parsed(*pair, *hidden, "--model.latent_dims", "[4,3,2]")
    assert config["guide"]["init_args"]["latent_dims"] == [4, 3, 2]
    config = parsed(*pair, "--guide.latent_dims", "[6,5]", "--model.latent_dims", "[6,4]")
    assert config["guide"]["init_args"]["latent_dims"] == [6, 5]


def test_the_command_line_goes_before_the_config(finished, here):
    config = ["--config", str(finished)]
    changed = parsed(*config, "--epochs", "7", "--guide.latent_dim", "6", "--num-samples=9")
    assert (changed["epochs"], changed["num_samples"], changed["seed"]) == (7, 9, 3)
    assert changed["model"]["init_args"]["latent_dim"] == 6
    assert changed["guide"]["init_args"]["latent_dim"] == 6
    assert changed["model"]["init_args"]["hidden_dims"] == [16]
    (here / "pair.py").write_text(PAIR)
    other = parsed(*config, "--guide", "pair.py:Guide", "--data", "mnist")
    assert other["guide"] == {"class_path": "pair.py:Guide", "init_args": {"latent_dim": 3}}
    assert "event_shape" not in other["model"]["init_args"], "the new data's shape comes later"


def test_a_config_by_hand_may_be_partial(here):
    (here / "my.yaml").write_text("model: VAE\ndata: mnist\nguide:\n  init_args: {latent_dim: 4}\n")
    config = parsed("--config", "my.yaml", "--data.observation", "threshold")
    assert config["data"]["source"] == "mnist"
    assert config["data"]["observation"] == "threshold"
    assert config["model"]["init_args"]["latent_dim"] == 4
    (here / "my.yaml").write_text("lr: 1e-3\noptim: {class_path: torch.optim.SGD}\n")
    assert parsed("--config", "my.yaml")["lr"] == 1e-3


@pytest.mark.parametrize(
    ("argv", "lr"),
    [
        (["--optim", "AdamW", "--optim.weight_decay", "0.01", "--lr", "0.02"], 0.02),
        (["--lr", "0.02", "--optim", "AdamW", "--optim.weight_decay", "0.01"], 0.02),
        (["--optim=AdamW", "--optim.lr", "0.1", "--optim.weight_decay=0.01"], 0.1),
    ],
)
def test_lr_is_the_named_optimisers_too(argv, lr, here):
    config = parsed(*argv)
    assert config["optim"]["class_path"] == "torch.optim.AdamW"
    assert config["optim"]["init_args"]["weight_decay"] == 0.01
    assert config["optim"]["init_args"]["lr"] == lr
    (here / "again.yaml").write_text(yaml.safe_dump(config))
    assert parsed("--config", "again.yaml") == config
    assert parsed("--config", "again.yaml", "--lr", "0.5")["optim"]["init_args"]["lr"] == 0.5
    other = parsed("--config", "again.yaml", "--optim", "SGD")["optim"]["init_args"]
    assert other["weight_decay"] == 0, "a newly named optimiser begins with its own defaults"


@pytest.mark.parametrize(
    ("argv", "num"),
    [
        (["--loss", "IWAE_ELBO", "--num_particles", "50"], 50),
        (["--num_particles=50", "--loss=DReG_ELBO"], 50),
        (["--loss", "IWAE_ELBO", "--loss.num_particles", "5"], 5),
        (["--loss", "IWAE_ELBO"], 1),
    ],
)
def test_num_particles_is_the_named_objectives_too(argv, num, here):
    config = parsed(*argv)
    assert config["loss"]["init_args"]["num_particles"] == config["num_particles"] == num
    (here / "again.yaml").write_text(yaml.safe_dump(config))
    assert parsed("--config", "again.yaml") == config
    assert parsed("--config", "again.yaml", "--num_particles", "7")["num_particles"] == 7
    del config["num_particles"]
    (here / "again.yaml").write_text(yaml.safe_dump(config))
    assert parsed("--config", "again.yaml")["num_particles"] == num


def test_objectives_have_options(here):
    config = parsed("--loss", "Beta_ELBO", "--loss.beta", "4", "--num_particles", "2")
    assert config["loss"]["init_args"] == {"beta": 4.0, "num_particles": 2, "plate": None}
    (here / "again.yaml").write_text(yaml.safe_dump(config))
    assert parsed("--config", "again.yaml") == config
    with pytest.raises(options.UsageError, match="'bta' is not accepted"):
        parsed("--loss", "Beta_ELBO", "--loss.bta", "4")


def test_an_objective_of_the_shell_trains_with_its_particles(here, monkeypatch, capsys):
    seen, loss = [], IWAE_ELBO.loss_and_grads

    def spy(self, *args):
        seen.append(self.num_particles)
        return loss(self, *args)

    monkeypatch.setattr(IWAE_ELBO, "loss_and_grads", spy)
    argv = ["--loss", "IWAE_ELBO", "--num_particles", "3", "--epochs", "1", "--out", "run"]
    assert main(["train", *argv, "--progress", "false"]) == 0
    assert set(seen) == {3}
    assert main(["train", "--loss", "IWAE_ELBO", "--epochs", "1", "--out", "other"]) == 1
    assert "with num_particles=1 there is one" in capsys.readouterr().err


def test_a_network_is_given_as_a_class_path():
    decoder = ["--model.decoder", "pvae.nn.MLP", "--model.decoder.init_args.in_shape", "[3]"]
    config = parsed("--model.latent_dim=3", *decoder, "--model.decoder.out_shape", "[1, 8, 8]")
    model, _ = pvae.runs.build_pair(config, (1, 8, 8))
    assert type(model.decoder) is pvae.nn.MLP
    assert model.decoder.out_shape == (1, 8, 8)


def test_a_users_file_and_a_process_that_has_not_seen_it(here):
    (here / "pair.py").write_text(PAIR)
    pair = ["--model", "pair.py:Model", "--guide", "./pair.py:Guide", "--model.bias", "0.1"]
    assert main(["run", *pair, "--guide.latent_dim", "4", *QUICK, "--out", "run"]) == 0
    config = stored(here / "run")
    assert config["model"]["class_path"] == "pair.py:Model", "as it was given"
    assert config["model"]["init_args"] == {"event_shape": [1, 8, 8], "latent_dim": 4, "bias": 0.1}
    assert names(here / "run") == {*RUN_FILES, "source"}
    before = numbers(here / "run")
    assert main(["train", *pair[:3], "pair.py:Fixed", "--model.latent_dim=4", *QUICK]) == 0
    done = shell("evaluate", "run", "--progress", "false", "--trust")
    assert done.returncode == 0, done.stderr
    assert "`pvae report run --trust`" in done.stdout
    assert numbers(here / "run") == before


def test_a_users_functions_repeat_too(here):
    (here / "pair.py").write_text(PAIR)
    # In processes of their own: the file draws its networks when it is run, which is once.
    for out in ("a", "b"):
        argv = ["run", "--model", "pair.py:model", "--guide", "pair.py:guide", *QUICK]
        done = shell(*argv, "--out", out)
        assert done.returncode == 0, done.stderr
    assert names(here / "a") == {*RUN_FILES, "source"}
    assert numbers(here / "a") == numbers(here / "b")


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["--epoch", "3"], 2, "there is no option --epoch. Did you mean --epochs?"),
        (["--model.latent-dims", "3"], 2, "there is no option --model.latent_dims. Did you mean"),
        (["--zzzz"], 2, "there is no option --zzzz. `pvae run --help` lists them."),
        (["stray"], 2, "unrecognized arguments: stray"),
        (["--epochs"], 2, "--epochs: expected one argument"),
        (["--epochs", "many"], 2, "--epochs: Expected an int. Got value: many"),
        (["--seed", "x"], 2, "--seed: invalid int value: 'x'"),
        (["--optim", "Adan"], 2, "--optim: there is no class Adan"),
        (["--optim", "AdamW", "--optim.decay", "1"], 2, "Option 'decay' is not accepted"),
        (["--model.network", "dens"], 2, "--model.network: Expected one of 'dense', 'conv'"),
        (["--data.observation", "gray"], 2, "--data.observation: Expected one of 'dynamic'"),
        (["--model", "VEA"], 1, "there is no model called VEA. Did you mean VAE?"),
        (["--guide", "MeanFeild"], 1, "Did you mean MeanField?"),
        (["--model", "no.py:Model"], 1, "there is no file no.py"),
        (
            ["--model", "pair.py:Model", "--guide", "pair.py:guide"],
            1,
            "--model.latent_dim: must be",
        ),
        (["--data", "digist"], 1, "Did you mean digits?"),
        (["--config", "no.yaml"], 1, "there is no no.yaml"),
        (["--config", "pair.py"], 1, "pair.py is damaged or no config"),
        (["--config", "typo.yaml"], 2, "--epoch: there is no such option"),
        (["--config", "nested.yaml"], 2, "--model.latent: there is no such option"),
        (["--config", "list.yaml"], 1, "model: the config has ['VAE'] where options are expected"),
        (["--config", "seed.yaml"], 1, "seed: expected an integer, and the config has 'x'"),
        (["--out", "pair.py"], 1, "cannot use pair.py as a run folder: Not a directory"),
        (["--out", "pair.py/run"], 1, "cannot make pair.py/run: Not a directory"),
        (["--resume", "."], 1, "has no config.yaml"),
        (["--resume", "nowhere"], 1, "there is no nowhere"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(here, capsys, argv, code, message):
    (here / "pair.py").write_text(PAIR)
    (here / "typo.yaml").write_text("epoch: 3\n")
    (here / "list.yaml").write_text("model: [VAE]\n")
    (here / "seed.yaml").write_text("seed: x\n")
    (here / "nested.yaml").write_text("model: {init_args: {latent: 3}}\n")
    before = names(here)
    assert main(["run", *argv]) == code
    said = capsys.readouterr().err
    assert said.startswith("pvae: error: ")
    assert message in said
    assert said.count("\n") == 1
    assert names(here) - {"__pycache__"} == before


def test_a_bug_of_the_users_is_one_line(here, capsys):
    (here / "pair.py").write_text(PAIR)
    assert main(["run", "--model", "pair.py:Broken"]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "RuntimeError: a bug of the user's" in said
    assert "pair.py:" in said
    assert names(here) - {"__pycache__"} == {"pair.py"}


def test_a_folder_with_a_run_is_kept_unless_told(run, capsys):
    (run / "notes.txt").write_text("mine")
    before = stored(run)
    assert main(["train", *SMALL, *QUICK, "--out", str(run)]) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert stored(run) == before
    assert main(["train", "--model", "VEA", "--out", str(run), "--overwrite"]) == 1
    assert (run / "report.html").exists(), "nothing is removed before all is well"
    assert main(["train", *SMALL, *QUICK, "--out", str(run), "--overwrite"]) == 0
    assert names(run) == {"config.yaml", "checkpoint.pt", "history.csv", "notes.txt"}
    assert stored(run)["seed"] == 0


def test_overwrite_never_touches_a_folder_without_a_run(here, capsys):
    (here / "thesis").mkdir()
    (here / "thesis" / "chapter.tex").write_text("mine")
    assert main(["train", *SMALL, "--out", "thesis", "--overwrite"]) == 1
    assert "thesis has content, but no run" in capsys.readouterr().err
    assert names(here / "thesis") == {"chapter.tex"}


def test_an_empty_folder_is_used_and_a_nested_one_made(here):
    (here / "empty").mkdir()
    assert main(["train", *SMALL, *QUICK, "--out", "empty"]) == 0
    assert main(["train", *SMALL, *QUICK, "--out", "a/b/c"]) == 0
    assert (here / "a/b/c/checkpoint.pt").exists()


def test_resume_before_the_first_checkpoint_gives_the_same_numbers(run, finished):
    for name in set(RUN_FILES) - {"config.yaml"}:
        (run / name).unlink()
    assert main(["run", "--resume", str(run), "--progress", "false"]) == 0
    assert names(run) == set(RUN_FILES)
    assert numbers(run) == numbers(finished)
    assert stored(run) == stored(finished)


def test_an_interrupted_run_is_resumed_to_the_same_numbers(here):
    (here / "rates.py").write_text(
        "import pathlib, signal\n"
        "def interrupted(share):\n"
        "    if share > 0.7 and pathlib.Path('interrupt').exists():\n"
        "        pathlib.Path('interrupt').unlink()\n"
        "        signal.raise_signal(signal.SIGINT)\n"
        "    return 1 - share\n"
    )
    argv = ["run", *SMALL, *QUICK, "--schedule", "rates.interrupted", "--lr", "0.01"]
    (here / "interrupt").touch()
    stopped = shell(*argv, "--out", "stopped")
    assert stopped.returncode == 130
    assert "Traceback" not in stopped.stderr
    assert names(here / "stopped") == {"config.yaml", "checkpoint.pt", "history.csv"}
    assert main([*argv, "--out", "whole"]) == 0
    assert main(["run", "--resume", "stopped", "--trust", "--progress", "false"]) == 0
    assert names(here / "stopped") == set(RUN_FILES)
    assert numbers(here / "stopped") == numbers(here / "whole")


def test_an_interrupted_evaluation_says_how_to_go_on(here, monkeypatch, capsys):
    @functools.wraps(pvae.evaluate)
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pvae, "evaluate", interrupted)
        assert main(["run", *SMALL, *QUICK, "--out", "run"]) == 130
    said = capsys.readouterr().err
    assert "`pvae evaluate run`, then `pvae report run`" in said
    assert main(["evaluate", "run", "--progress", "false"]) == 0
    assert main(["report", "run"]) == 0
    assert names(here / "run") == set(RUN_FILES)


@pytest.mark.parametrize("option", ["--lr", "--model", "--seed", "--out", "--data.validation"])
def test_resume_continues_a_run_as_it_began(run, capsys, option):
    before = (run / "config.yaml").read_text()
    assert main(["run", "--resume", str(run), option, "3"]) == 2
    assert f"{option} cannot go with --resume" in capsys.readouterr().err
    assert (run / "config.yaml").read_text() == before


def test_evaluate_and_report_remake_what_they_make(run, finished, capsys):
    (run / "evaluation.json").unlink()
    (run / "evaluation.nc").unlink()
    (run / "report.html").unlink()
    assert main(["report", str(run)]) == 1
    assert f"`pvae evaluate {run}` makes it" in capsys.readouterr().err
    assert main(["evaluate", str(run), "--progress", "false"]) == 0
    assert numbers(run) == numbers(finished), "the config's num_samples and seed are the defaults"
    assert pvae.Evaluation.load(run).table() in capsys.readouterr().out
    assert main(["evaluate", "--num-samples", "7", "--seed=1", str(run), "--progress=false"]) == 0
    assert (numbers(run)["num_samples"], numbers(run)["seed"]) == (7, 1)
    assert numbers(run)["data"] == numbers(finished)["data"], "the data has a seed of its own"
    assert main(["report", str(run)]) == 0
    assert names(run) == set(RUN_FILES)


@pytest.mark.parametrize("command", ["evaluate", "report"])
def test_a_run_without_a_checkpoint_says_what_makes_it(run, capsys, command):
    (run / "checkpoint.pt").unlink()
    assert main([command, str(run)]) == 1
    assert f"`pvae train --resume {run}` makes it" in capsys.readouterr().err
    assert main([command]) == 2
    assert "RUN: must be given" in capsys.readouterr().err
    assert main([command, str(run), "--num_sample", "3"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_list_has_a_line_for_each_name(capsys):
    assert main(["list"]) == 0
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    listed = {line[0] for line in lines if len(line) == 2}
    for known in (pvae.models.__all__, pvae.guides.__all__, pvae.data.names()):
        assert set(known) <= listed


def test_the_help_of_run_has_the_options_of_the_chosen_class(here, capsys):
    (here / "pair.py").write_text(PAIR)
    with pytest.raises(SystemExit) as end:
        main(["run", "--model", "pair.py:Model", "--help"])
    assert end.value.code == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "--model.bias" in said
    assert "--model.hidden_dims" not in said
    assert "and so run its code" in said
    assert "AdaptiveAvgPool3d" not in said, "a list of all modules helps no one"


def test_the_help_of_check_and_of_a_head_reads_well(capsys):
    for argv, said in (
        (["check", "--help"], "usage: pvae check [MODEL GUIDE] [OPTIONS]"),
        (["run", "--model.likelihood.help", "Gaussian"], "For real x: x ~ N(f, s²)"),
    ):
        with pytest.raises(SystemExit):
            main(argv)
        assert said in capsys.readouterr().out


def test_a_folder_that_is_overwritten_loses_its_half_done_evaluation(here):
    import numpy as np

    from pvae.evaluation.work import Work, half_done

    assert main(["train", *SMALL, *QUICK, "--out", "a"]) == 0
    with Work(here / "a", {}, False) as work:
        work.map("x", [np.arange(2)], lambda block: {"x": block})
    assert half_done("a") == 1
    assert main(["train", *SMALL, *QUICK, "--out", "a", "--overwrite"]) == 0
    assert half_done("a") is None


def test_training_under_torchrun_is_refused(here, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["run", *SMALL, *QUICK, "--out", "a"]) == 2
    assert "trains in one process" in capsys.readouterr().err
    assert not (here / "a").exists()


def test_an_evaluation_is_added_to_from_the_shell(here, capsys):
    assert main(["run", *SMALL, *QUICK, "--out", "a", "--num_samples", "[3, 20]"]) == 0
    before = (here / "a" / "evaluation.nc").stat().st_mtime_ns
    more = ["--ais", "3", "--num_temperatures", "5", "--num_chains", "4", "--progress", "false"]
    assert main(["evaluate", "a", *more]) == 0
    assert "AIS from the prior" in capsys.readouterr().out
    assert (here / "a" / "evaluation.nc").stat().st_mtime_ns > before
    assert main(["report", "a"]) == 0
    assert "AIS from the prior" in (here / "a" / "report.html").read_text()
    # It is added to as it is: without being told again of how many samples it is, or of AIS.
    quick = ["--num_temperatures", "3", "--num_chains", "2", "--num_leapfrog", "1"]
    asked = ["--quadrature", "true", "--bdmc", "2", "--gap", "2", "--memory", "1", *quick]
    with pytest.warns(UserWarning, match="Quadrature was left out") as said:  # three dimensions
        assert main(["evaluate", "a", *asked, "--strategy", "plate", "--device", "cpu"]) == 0
    assert not [w for w in said if "is replaced" in str(w.message)]
    found = pvae.Evaluation.load("a")
    assert list(found.bounds) == [3, 20]
    assert set(found.findings) >= {"ais_prior", "bdmc", "gap", "prior", "surgery"}
    assert found.settings["bdmc"]["num_leapfrog"] == 1
    assert len(found.findings["ais_prior"]) == 3
    # The config repeats all of it.
    config = yaml.safe_load((here / "a" / "config.yaml").read_text())
    assert (config["ais"], config["bdmc"], config["gap"], config["num_chains"]) == (3, 2, 2, 2)
    assert (config["seed"], config["num_samples"]) == (0, [3, 20])
    none = ["--ais", "0", "--bdmc=0", "--gap=0", "--quadrature=false"]
    with pytest.warns(UserWarning, match="is replaced, and what it had beside the bounds is lost"):
        assert main(["evaluate", "a", "--seed", "1", *none]) == 0
    assert yaml.safe_load((here / "a" / "config.yaml").read_text())["seed"] == 0  # the training's


def test_what_was_killed_is_gone_on_with_though_something_older_is_there(here, monkeypatch):
    from pvae.evaluation.work import Work, half_done

    assert main(["run", *SMALL, *QUICK, "--out", "a", "--num_samples", "[3, 20]"]) == 0
    write, written = Work._write, []

    def kill_after_one(self, *args):
        if written:
            raise KeyboardInterrupt
        written.append(1)
        write(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Work, "_write", kill_after_one)
        with pytest.warns(UserWarning, match="is replaced"):
            assert main(["evaluate", "a", "--num_samples", "[3, 40]", "--progress", "false"]) != 0
    assert half_done("a") == 1
    with pytest.warns(UserWarning, match="is replaced"):
        assert main(["evaluate", "a", "--progress", "false"]) == 0
    assert list(pvae.Evaluation.load("a").bounds) == [3, 40]
    assert half_done("a") is None


def test_numbers_that_make_no_sense_are_refused_before_anything_is_done(here, capsys):
    assert main(["train", *SMALL, *QUICK, "--out", "a"]) == 0
    before = (here / "a" / "config.yaml").read_bytes()
    capsys.readouterr()
    least_one = ("--num_samples", "--num_chains", "--num_temperatures", "--num_leapfrog")
    wrong = dict.fromkeys(least_one, "0")
    wrong |= dict.fromkeys(("--ais", "--bdmc", "--gap", "--prior_samples", "--seed"), "-1")
    for option, value in (wrong | {"--memory": "0"}).items():
        for command in (["run", *SMALL, *QUICK, "--out", "b"], ["evaluate", "a"]):
            assert main([*command, f"{option}={value}"]) == 2, (command, option)
            said = capsys.readouterr().err
            assert said.count("\n") == 1
            assert option.lstrip("-") in said
    assert main(["run", *SMALL, *QUICK, "--out", "b", "--num_samples", "[5, 5]"]) == 2
    assert "at least 1 and increase" in capsys.readouterr().err
    assert not (here / "b").exists()
    assert (here / "a" / "config.yaml").read_bytes() == before
    assert main(["evaluate", "a/config.yaml"]) == 1
    assert "a/config.yaml is a file: name the run's folder" in capsys.readouterr().err


def test_a_pipe_that_closes_is_no_error(here):
    done = subprocess.run(
        f"{sys.executable} -m pvae list | head -c 1", shell=True, capture_output=True, text=True
    )
    assert done.stderr == ""
