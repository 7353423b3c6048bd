"""What the shell makes of a command line and a config file."""

import pytest
import yaml
from shell import PAIR, names, parsed

import pvae
import pvae.evaluation
from pvae.cli import main
from pvae.cli.usage import UsageError
from pvae.objectives import IWAE_ELBO


def test_without_any_option_digits_vae_and_mean_field():
    config = parsed()
    assert config["model"]["class_path"] == "pvae.models.VAE"
    assert config["guide"]["class_path"] == "pvae.guides.MeanField"
    assert config["data"]["source"] == "digits"
    assert config["seed"] == 0


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
    with pytest.raises(UsageError, match="'bta' is not accepted"):
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
    assert "with num_particles=1 there is only one" in capsys.readouterr().err


def test_a_network_is_given_as_a_class_path():
    decoder = ["--model.decoder", "pvae.nn.MLP", "--model.decoder.init_args.in_shape", "[3]"]
    config = parsed("--model.latent_dim=3", *decoder, "--model.decoder.out_shape", "[1, 8, 8]")
    model, _ = pvae.runs.build_pair(config, (1, 8, 8))
    assert type(model.decoder) is pvae.nn.MLP
    assert model.decoder.out_shape == (1, 8, 8)


def test_the_help_of_run_has_the_options_of_the_chosen_class(here, capsys):
    (here / "pair.py").write_text(PAIR)
    with pytest.raises(SystemExit) as end:
        main(["run", "--model", "pair.py:Model", "--help"])
    assert end.value.code == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "--model.bias" in said
    assert "--model.hidden_dims" not in said
    assert "This runs the code" in said
    assert "AdaptiveAvgPool3d" not in said, "a list of all modules helps no one"


def test_the_help_of_check_and_of_a_head_reads_well(capsys):
    for argv, said in (
        (["check", "--help"], "usage: pvae check [MODEL GUIDE] [OPTIONS]"),
        (["run", "--model.likelihood.help", "Gaussian"], "For real x: x ~ N(f, s²)"),
        (["run", "--help"], "(type: float | 'learned' | 'network')"),
    ):
        with pytest.raises(SystemExit):
            main(argv)
        text = capsys.readouterr().out
        assert said in " ".join(text.split())
        assert "null" not in text
        assert "known subclasses" not in text


def test_a_head_has_no_option_name(capsys):
    """PyroModule's constructor has an argument of this name."""
    with pytest.raises(SystemExit):
        main(["run", "--model.likelihood.help", "Poisson"])
    assert "--model.likelihood.name" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["--epoch", "3"], 2, "There is no option --epoch. Did you mean --epochs?"),
        (["--model.latent-dims", "3"], 2, "There is no option --model.latent_dims. Did you mean"),
        (["--zzzz"], 2, "There is no option --zzzz. `pvae run --help` lists them."),
        (["stray"], 2, "unrecognized arguments: stray"),
        (["--epochs"], 2, "--epochs: expected one argument"),
        (["--epochs", "many"], 2, "--epochs: Expected an int. Got value: many"),
        (["--seed", "x"], 2, "--seed: invalid int value: 'x'"),
        (["--optim", "Adan"], 2, "--optim: there is no class Adan"),
        (["--optim", "AdamW", "--optim.decay", "1"], 2, "Option 'decay' is not accepted"),
        (["--model.network", "dens"], 2, "--model.network: Expected one of 'dense', 'conv'"),
        (["--data.observation", "gray"], 2, "--data.observation: Expected one of 'dynamic'"),
        (["--model", "VEA"], 1, "There is no model called VEA. Did you mean VAEAC or VAE?"),
        (["--guide", "MeanFeild"], 1, "Did you mean MeanField?"),
        (["--model", "no.py:Model"], 1, "There is no file no.py"),
        (
            ["--model", "pair.py:Model", "--guide", "pair.py:guide"],
            1,
            "--model.latent_dim: must be",
        ),
        (["--data", "digist"], 1, "Did you mean digits?"),
        (["--config", "no.yaml"], 1, "There is no no.yaml"),
        (["--config", "pair.py"], 1, "pair.py is damaged or not a config"),
        (["--config", "typo.yaml"], 2, "--epoch: there is no such option"),
        (["--config", "nested.yaml"], 2, "--model.latent: there is no such option"),
        (
            ["--config", "list.yaml"],
            1,
            "model: a name, or a mapping with class_path, is expected",
        ),
        (["--config", "seed.yaml"], 1, "seed='x' is not valid: give an integer"),
        (["--out", "pair.py"], 1, "Cannot use pair.py as a run folder: Not a directory"),
        (["--out", "pair.py/run"], 1, "Cannot make pair.py/run: Not a directory"),
        (["--resume", "."], 1, "has no config.yaml"),
        (["--resume", "nowhere"], 1, "There is no nowhere"),
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
