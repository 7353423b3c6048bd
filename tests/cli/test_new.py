"""`pvae new` writes a pair that runs without changes, and that docs/howto/own_pair.md edits."""

import errno
import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import pvae
from pvae import PvaeError
from pvae.cli.main import main
from pvae.cli.new import new

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "own_pair.md"
WALK = PAGE.read_text().split("## Your own likelihood")[0]
PROTOCOL = PAGE.parents[1] / "start" / "protocol.md"


@pytest.mark.filterwarnings("error::UserWarning")
def test_the_written_test_passes_as_it_is(here, monkeypatch):
    assert main(["new", "ring"]) == 0
    monkeypatch.syspath_prepend(here)
    (written,) = here.glob("test_*.py")
    module = importlib.import_module(written.stem)
    try:
        (test,) = (value for name, value in vars(module).items() if name.startswith("test"))
        test()
    finally:
        for name in ("test_ring", "ring_model", "ring_guide"):
            sys.modules.pop(name, None)


def test_the_commands_that_new_names_run(here, capsys):
    assert main(["new", "my_ring", "--out", "sub"]) == 0
    said = capsys.readouterr().out
    check, run = (shlex.split(line)[1:] for line in said.splitlines() if "  pvae " in line)
    assert check == [
        "check",
        "sub/my_ring_model.py:MyRingModel",
        "sub/my_ring_guide.py:MyRingGuide",
    ]
    assert main(check) == 0
    assert "no fault found" in capsys.readouterr().out
    assert main([*run, "--epochs", "1", "--num_samples", "5", "--progress", "false"]) == 0
    assert (here / "runs" / "digits-MyRingModel-1" / "report.html").exists()


@pytest.mark.parametrize("name", ["3d", "my-vae", "", "class", "a.b", "../up"])
def test_a_name_that_is_not_an_identifier(name, here):
    with pytest.raises(PvaeError, match="not a Python identifier"):
        new(name)
    assert not [*here.iterdir()]


@pytest.mark.parametrize("file", ["ring_model.py", "ring_guide.py", "test_ring.py"])
def test_nothing_is_overwritten(file, here, capsys):
    (here / file).write_text("mine")
    assert main(["new", "ring"]) == 1
    assert f"{file} exists already" in capsys.readouterr().err
    assert [(p.name, p.read_text()) for p in here.iterdir()] == [(file, "mine")]


def test_a_folder_that_is_a_file_or_full(here, capsys, monkeypatch):
    usual = Path.open

    def full(path, mode="r", *args, **options):
        if mode == "x":
            raise OSError(errno.ENOSPC, "No space left on device")
        return usual(path, mode, *args, **options)

    (here / "taken").write_text("")
    assert main(["new", "ring", "--out", "taken"]) == 1
    assert "Name another folder with --out" in capsys.readouterr().err
    (here / "full").mkdir()
    monkeypatch.setattr(Path, "open", full)
    assert main(["new", "ring", "--out", "full"]) == 1
    assert "No space left" in capsys.readouterr().err
    assert main(["new"]) == 2
    assert "NAME: must be given" in capsys.readouterr().err


def _edit(path, diff):
    """Changes a file as a diff without line numbers says; returns how many lines are new."""
    text, old, fresh = path.read_text(), [], []
    for line in [*diff.splitlines(), " "]:
        if old and not line.startswith("+"):  # the lines so far are one place in the file
            before, after = "\n".join(old) + "\n", "\n".join(fresh) + "\n"
            assert text.count(before) == 1, before
            text, old, fresh = text.replace(before, after), [], []
        if line.strip():
            old += [line[1:]] * (line[0] in "- ")
            fresh += [line[1:]] * (line[0] in "+ ")
    path.write_text(text)
    return sum(line.startswith("+") for line in diff.splitlines())


def test_the_walk_of_the_page(here, capsys):
    blocks = re.findall(r"```(\w+)\n(.*?)```", WALK, flags=re.DOTALL)
    assert [language for language, _ in blocks] == ["sh", "diff", "sh"]
    made, diff, after = (text for _, text in blocks)
    create, check, test = made.splitlines()
    assert main(shlex.split(create)[1:]) == 0
    assert main(shlex.split(check)[1:]) == 0
    assert (here / shlex.split(test)[-1]).exists()

    assert _edit(here / "ring_model.py", diff) == 5
    other = here / "changed"  # a file is loaded once in a process
    other.mkdir()
    for file in ("ring_model.py", "ring_guide.py"):
        (here / file).rename(other / file)
    check, run = (
        shlex.split(line.replace("ring_", "changed/ring_"))[1:] for line in after.splitlines()
    )
    capsys.readouterr()
    assert main(check) == 0
    said = capsys.readouterr().out
    assert "model: observed x ~ Normal" in said
    assert "note" not in said
    run[run.index("--epochs") + 1] = "4"
    assert main([*run, "--num_samples", "20", "--progress", "false"]) == 0
    trained = pvae.Evaluation.load("runs/ring")
    assert trained.elbo.mean() > float(re.search(r"ELBO (-?[\d.]+)", said)[1]) + 5
    model, _ = pvae.load("runs/ring", trust=True)
    assert 0 < model.scale.item() != pytest.approx(0.3, abs=1e-3)


def test_the_protocol_leads_to_a_report(here):
    """From own data and `pvae new` to the report, with fewer epochs and samples."""
    text = PROTOCOL.read_text()
    (data,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (diff,) = re.findall(r"```diff\n(.*?)```", text, re.DOTALL)
    exec(data, {})
    names = []
    for command in re.findall(r"^\$ pvae (.*)$", text, re.MULTILINE):
        name, *argv = shlex.split(re.sub(r"(--epochs|--ais) \d+", r"\1 2", command))
        argv += ["--num_samples", "20", "--progress", "false"] if name == "run" else []
        assert main([name, *argv]) == 0
        names.append(name)
        if name == "new":
            assert _edit(here / "wine_model.py", diff) == 5
    assert names == ["new", "check", "run"]
    assert (here / "runs" / "wine" / "report.html").exists()


def test_it_takes_no_torch(tmp_path):
    code = (
        "import sys; from pvae.cli import main; main(['new', 'ring']); "
        "assert 'torch' not in sys.modules and 'pyro' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
