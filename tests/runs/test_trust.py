"""What an untrusted config may name, and that it runs no other code."""

import os

import pytest
import torch
import yaml

import pvae
from pvae import PvaeError
from pvae.cli.main import main
from pvae.runs import check_trust, load_yaml, read_config, resolve, trusted

RUN = "--model.hidden_dims [4] --guide.hidden_dims [4] --model.latent_dim 2 --progress false"
EVIL = "import os\nos.makedirs('code was run', exist_ok=True)\nfrom pvae.models import VAE as M\n"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "r"
    assert main(["train", *RUN.split(), "--epochs", "1", "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch, whole):
    import shutil

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    shutil.copytree(whole, "r")
    (tmp_path / "pvae_test_evil.py").write_text(EVIL)
    return tmp_path


def popen(**more):
    args = ["mkdir", "code was run"]
    return {"class_path": "subprocess.Popen", "init_args": {"args": args}, **more}


MODEL = {"class_path": "pvae.models.VAE", "init_args": {"event_shape": [1, 8, 8]}}
CONFIGS = {
    "model": {"model": popen()},
    "guide": {"guide": popen()},
    "optimiser": {"optim": popen()},
    "loss": {"loss": popen()},
    "schedule": {"schedule": "os.mkdir"},
    "network": {"model": {**MODEL, "init_args": {"decoder": popen()}}},
    "deep": {"model": {**MODEL, "init_args": {"decoder": popen(init_args={"a": [popen()]})}}},
    "quoted": {"model": {**MODEL, "init_args": {"decoder": yaml.safe_dump(popen())}}},
    "twice quoted": {"optim": repr(" subprocess.Popen # ")},
    "file": {"model": {"class_path": "pvae_test_evil.py:M"}},
    "module": {"model": {"class_path": "pvae_test_evil.M"}},
    "nested module": {"optim": {"class_path": "pvae_test_evil.M"}},
    "torch": {"model": {"class_path": "torch.hub.load"}},
    "through torch": {"optim": {"class_path": "torch.os.mkdir"}},
    "torch's own": {"loss": {"class_path": "torch.utils.data.DataLoader"}},
    "pvae": {"schedule": "pvae.cli.new.new"},
    "hidden": {"model": {"class_path": "pvae.__main__.M"}},
}


@pytest.mark.parametrize("what", CONFIGS)
def test_a_config_from_elsewhere_runs_no_code(here, what, capsys):
    path = here / "r" / "config.yaml"
    config = yaml.safe_load(path.read_text()) | CONFIGS[what]
    path.write_text(yaml.safe_dump(config))
    for command in (
        ["train", "--resume", "r"],
        ["run", "--config", "r", "--out", "s"],
        ["evaluate", "r"],
        ["report", "r"],
        ["check", "--config", "r/config.yaml"],
    ):
        assert main(command) == 1
        said = capsys.readouterr().err
        assert "Using the config runs that code" in said
        assert "--trust" in said
    with pytest.raises(PvaeError, match="trust=True"):
        pvae.load("r")
    assert sorted(os.listdir()) == ["pvae_test_evil.py", "r"]


def test_what_was_typed_or_trusted_is_run(here, capsys):
    path = here / "r" / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["model"]["class_path"] = "pvae_test_evil.py:M"
    path.write_text(yaml.safe_dump(config))
    again = ["train", "--config", "r", "--epochs", "1", "--out"]
    assert main([*again, "a"]) == 1
    assert main([*again, "a", "--model", "VAE"]) == 0, "it is replaced"
    assert not os.path.exists("code was run")
    assert main([*again, "b", "--model", "pvae_test_evil.py:M"]) == 0
    assert os.path.isdir("code was run")
    assert "`pvae evaluate b --trust`" in capsys.readouterr().out
    assert main([*again, "c", "--trust"]) == 0
    assert "trust" not in load_yaml("c")
    os.rmdir("code was run")
    os.remove("pvae_test_evil.py")
    assert main(["train", "--resume", "c"]) == 1, "the run's own copy is code as well"
    assert not os.path.exists("code was run")
    assert main(["train", "--resume", "c", "--trust"]) == 0
    assert os.path.isdir("code was run")
    model, _ = pvae.load("c", trust=True)
    assert isinstance(model, pvae.models.VAE)


def test_what_the_library_has_needs_no_trust():
    inner = {"class_path": "torch.nn.Linear", "init_args": {"in_features": 2, "out_features": 2}}
    config = {
        "model": {"class_path": "pvae.models.VAE", "init_args": {"decoder": inner}},
        "optim": {"class_path": "torch.optim.AdamW", "init_args": {"lr": "0.5", "eps": "1.e-3"}},
        "loss": {"class_path": "pyro.infer.TraceGraph_ELBO"},
        "prior": "torch.distributions.Normal",
        "schedule": "cosine",
        "device": "cuda:1",
    }
    check_trust(config, "here")
    assert trusted(config)
    check_trust({"optim": "torch.optim.Adamm"}, "here")  # the import reports unknown names
    for name in dir(pvae.models):
        if name in pvae.models.__all__:
            check_trust(f"pvae.models.{name}", "here")


def test_a_pair_is_of_programs(here):
    with pytest.raises(PvaeError, match=r"subprocess\.Popen is a class whose objects cannot be"):
        resolve("subprocess.Popen", "models")
    assert resolve("torch.nn.Linear", "models") is torch.nn.Linear
    assert main(["train", "--model", "subprocess.Popen", "--out", "x"]) == 1
    assert not os.path.exists("x")


@pytest.mark.parametrize(
    "text",
    [
        "[" * 5000,
        "a: " + "[" * 200 + "]" * 200,
        "a: &a [*a]",
        "a0: &a0 [1]\n" + "".join(f"a{i}: &a{i} [{f'*a{i - 1}, ' * 9}]\n" for i in range(1, 30)),
        "a: !!python/object/apply:os.system [true]",
        "a: 2001-99-99",
        "a: !!int ''",
        "? [a]\n: 1",
    ],
    ids=["open", "deep", "itself", "bomb", "tag", "date", "int", "key"],
)
def test_yaml_that_is_no_config_is_one_message(here, text, capsys):
    (here / "c.yaml").write_text(text)
    assert main(["train", "--config", "c.yaml", "--out", "s"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("pvae: error: ")
    assert said.count("\n") == 1
    assert not os.path.exists("s")


@pytest.mark.parametrize(
    "odd",
    [
        {"seed": "x"}, {"seed": -1}, {"seed": None}, {"seed": True}, {"model": 3},
        {"model": {"class_path": [1]}},
        {"guide": {"class_path": "pvae.guides.MeanField", "init_args": [1]}}, {"data": "digits"},
    ],
)  # fmt: skip
def test_a_config_that_is_read_but_not_ours_is_one_message(here, odd):
    path = here / "r" / "config.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | odd))
    (key,) = odd
    message = "seed=.* is not valid" if key == "seed" else f"incomplete: {key} is missing or not"
    with pytest.raises(PvaeError, match=message):
        read_config("r")
    with pytest.raises(PvaeError, match=message):
        pvae.load("r")
