"""The README's code runs, and the options that it names exist."""

import re
import shlex
from pathlib import Path

import pytest

from pvae.cli.command_line import parse

README = Path(__file__).parent.parent / "README.md"


@pytest.fixture(scope="module")
def blocks():
    return re.findall(r"```(\w+)\n(.*?)```", README.read_text(), flags=re.DOTALL)


def test_the_first_pair_trains_as_the_readme_says(blocks, tmp_path, monkeypatch, capsys):
    from pvae.cli.main import main

    file, script, _, steps = (code for language, code in blocks if language == "python")
    (tmp_path / "first.py").write_text(file)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    quick = script.replace("epochs=100", "epochs=2").replace("num_samples=5000", "num_samples=20")
    assert quick.count("epochs=2") == quick.count("num_samples=20") == 1
    names: dict = {}
    exec(compile(quick, "README.md", "exec"), names)
    assert "L_20" in capsys.readouterr().out
    exec(compile(steps.replace('"compiled"', '"eager"'), "README.md", "exec"), names)
    assert 0 < names["loss"] < 92 * 64
    command = next(c for _, c in blocks if c.startswith("pvae run --model first.py"))
    argv = command.split()[1:]
    argv[argv.index("--epochs") + 1] = "2"
    assert main([*argv, "--num_samples", "20", "--progress", "false"]) == 0
    assert (tmp_path / "runs" / "digits-Model-1" / "report.html").exists()


def test_the_likelihoods_train_as_the_readme_says(blocks, tmp_path, monkeypatch):
    from pvae.cli.main import main

    head = next(code for _, code in blocks if "class Laplace(Head)" in code)
    (tmp_path / "laplace.py").write_text(head)
    monkeypatch.chdir(tmp_path)
    commands = next(
        code for _, code in blocks if "laplace.py:Laplace" in code and "pvae run" in code
    )
    for i, command in enumerate(commands.splitlines()):
        argv = command.replace("pvae run", "train").split()
        assert main([*argv, "--epochs", "1", "--out", f"{i}", "--progress", "false"]) == 0
    assert i == 1


def test_every_option_is_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = README.read_text()
    named = set(re.findall(r"`(?:pvae run )?(--[\w.]+(?: [^`]+)?)`", text))
    assert {"--data mnist", "--seed 1", "--model.network conv --guide.network conv"} <= named
    for option in named:
        if option.startswith(("--help", "--config", "--resume", "--trust")):
            continue
        option += "" if " " in option else " 0"
        argv = shlex.split(option.replace("--device auto", "--device cpu").replace("NAME", "mnist"))
        config, _ = parse("run", argv)
        assert config["model"]["class_path"] == "pvae.models.VAE"
