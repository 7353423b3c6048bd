"""Blocks of work: whose they are, which of two files is right, and who shares them out."""

import json
import os
import subprocess
import sys

import asking
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from runtime.test_files import HOLD, take_in_a_thread

import pvae
from pvae import PvaeError
from pvae.cli.main import main
from pvae.evaluation.work import Work
from pvae.runtime.device import processes
from pvae.runtime.files import locked
from pvae.training.checkpoint import read_checkpoint


def model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
        pyro.sample("x", dist.Normal(0.5 * z, 1.0), obs=x)


def guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.4 * x, 0.9))


X = torch.randn(100, generator=torch.Generator().manual_seed(0))


def evaluate(x=X, **options):
    options = {"num_samples": 20, "prior_samples": 0, "surgery": False, "progress": False} | options
    return asking.evaluate(model, guide, x, **options)


def killed(monkeypatch, after, **options):
    """An evaluation that ends like one that is killed after so many blocks."""
    write, blocks = Work._write, []

    def count(self, path, arrays):
        write(self, path, arrays)
        blocks.append(path)
        if len(blocks) == after:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Work, "_write", count)
        with pytest.raises(KeyboardInterrupt):
            evaluate(**options)
    return blocks


@pytest.mark.parametrize("other", [{"seed": 1}, {"num_samples": 21}, {"x": X + 1.0}])
def test_blocks_of_another_evaluation_are_never_taken(tmp_path, monkeypatch, other):
    killed(monkeypatch, 3, out=tmp_path)
    folder = tmp_path / "evaluation.partial"
    blocks = {path.name: path.read_bytes() for path in folder.glob("*.npz")}
    assert len(blocks) == 3
    killed(monkeypatch, 1, out=tmp_path, **other)
    for name, content in blocks.items():  # as though both had worked there at once
        (folder / name).write_bytes(content)
    np.testing.assert_array_equal(evaluate(out=tmp_path, **other).log_px, evaluate(**other).log_px)


@pytest.mark.parametrize("other", ["key", "settings", "positions", "name", "none"])
def test_a_block_is_of_one_key_settings_and_positions(tmp_path, other):
    calls = []

    def compute(block):
        calls.append(block)
        return {"x": block}

    for again in (False, True):
        another = other if again else None
        with Work(tmp_path, {"seed": int(another == "key")}, progress=False) as work:
            work.settings = {"num_chains": 1 + (another == "settings")}
            block = np.arange(3) + (another == "positions")
            (found,) = work.map("b" if another == "name" else "a", [block], compute)
        np.testing.assert_array_equal(found["x"], block)
    assert len(calls) == 1 + (other != "none")


def test_what_was_killed_goes_on_with_its_own_blocks(tmp_path, monkeypatch):
    first = killed(monkeypatch, 2, out=tmp_path)
    again = killed(monkeypatch, 1, out=tmp_path)
    assert not {*first} & {*again}, "what was kept is not computed again"
    np.testing.assert_array_equal(evaluate(out=tmp_path).log_px, evaluate().log_px)


@pytest.mark.parametrize("json_was", ["missing", "stale", "damaged", "half", "right"])
def test_the_summary_is_the_evaluations(tmp_path, json_was):
    path = tmp_path / "evaluation.json"
    evaluate(out=tmp_path, num_samples=10)
    stale = path.read_text()
    with pytest.warns(UserWarning, match="is replaced"):
        whole = evaluate(out=tmp_path, prior_samples=5)
    right = path.read_text()
    assert json.loads(right) == json.loads(json.dumps(whole.summary())) != json.loads(stale)
    if json_was == "missing":
        path.unlink()
    else:
        text = {"stale": stale, "damaged": "\0" * 9, "half": right[:50], "right": right}[json_was]
        path.write_text(text)
    before = path.stat().st_ino if path.exists() else None
    evaluate(out=tmp_path, prior_samples=5)
    assert path.read_text() == right
    assert (path.stat().st_ino == before) == (json_was == "right")


RUN = "--model.hidden_dims [4] --guide.hidden_dims [4] --model.latent_dim 2 --progress false"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "r"
    assert main(["train", *RUN.split(), "--epochs", "1", "--out", str(folder)]) == 0
    return folder


def test_a_folder_in_use_is_left_alone(run, capsys):
    files = {path.name: path.read_bytes() for path in run.iterdir()}
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, run], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "mine\n"
        capsys.readouterr()
        for command in (
            ["evaluate", run, "--num_samples", "10", "--progress", "false"],
            ["train", *RUN.split(), "--epochs", "1", "--seed", "1", "--overwrite", "--out", run],
            ["train", "--resume", run],
        ):
            assert main([str(part) for part in command]) == 1
            assert f"in use by process {process.pid}" in capsys.readouterr().err
        for call in (evaluate, lambda **to: pvae.fit(model, guide, X, batch_size=50, **to)):
            with pytest.raises(PvaeError, match=f"in use by process {process.pid}"):
                call(out=run)
    finally:
        process.kill()
        process.wait()
    (run / ".lock").unlink()
    assert {path.name: path.read_bytes() for path in run.iterdir()} == files


def test_of_two_trainings_into_one_folder_the_second_is_refused(tmp_path, monkeypatch, capsys):
    # The first takes the folder while the second loads its data.
    from pvae.cli import train as shell

    out, argv = tmp_path / "r", ["train", *RUN.split(), "--epochs", "1", "--out"]
    load = shell.load_data

    def meanwhile(config, **options):
        if config["seed"] == 2:
            assert main([*argv, str(out), "--seed", "1"]) == 0
        return load(config, **options)

    monkeypatch.setattr(shell, "load_data", meanwhile)
    assert main([*argv, str(out), "--seed", "2"]) == 1
    assert "has a run already" in capsys.readouterr().err
    assert "seed: 1" in (out / "config.yaml").read_text()
    assert read_checkpoint(out / "checkpoint.pt")["settings"]["seed"] == 1
    assert not (out / ".lock").exists()


def test_a_run_that_is_resumed_is_locked_before_it_is_looked_at(run, monkeypatch):
    # Else another process may lengthen it between what is read of it and what is trained.
    from pvae.cli import train as shell

    load, said = shell.load_data, []

    def meanwhile(config, **options):
        said.append(take_in_a_thread(run))
        return load(config, **options)

    monkeypatch.setattr(shell, "load_data", meanwhile)
    assert main(["train", "--resume", str(run)]) == 0
    assert f"in use by process {os.getpid()}" in said[0]
    assert take_in_a_thread(run) == "taken"


def test_a_pair_that_cannot_be_trained_leaves_no_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "r"
    code = main(["train", *RUN.split(), "--guide.latent_dim", "3", "--out", str(out)])
    assert (code, out.exists()) == (1, False)
    said = capsys.readouterr()
    assert f"run folder: {out}" in said.out, "it was made"
    assert "Site 'z': the guide's Normal has event shape (3,)" in said.err


def test_the_report_writes_the_summary_too(run, capsys):
    options = ["--num_samples", "10", "--prior_samples", "0", "--surgery", "false"]
    assert main(["evaluate", str(run), *options, "--progress", "false"]) == 0
    right = (run / "evaluation.json").read_text()
    (run / "evaluation.json").unlink()
    assert main(["report", str(run)]) == 0
    assert (run / "evaluation.json").read_text() == right


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "ascii"])
def test_a_terminal_without_these_letters_gets_the_table(encoding, monkeypatch):
    import io

    from pvae.cli import listing as shell

    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding, errors="strict"))
    monkeypatch.setattr(shell, "list_names", lambda argv: print("k̂ ± χ²"))
    assert main(["list"]) == 0
    sys.stdout.flush()
    plus = "±" if encoding != "ascii" else "?"
    assert raw.getvalue().decode(encoding).startswith(f"k? {plus} ?")


@pytest.mark.parametrize(
    ("rank", "world", "expected"),
    [
        (None, None, (0, 1)),
        ("1", None, (0, 1)),
        ("3", None, (0, 1)),
        (None, "4", (0, 1)),
        ("0", "1", (0, 1)),
        ("3", "4", (3, 4)),
    ],
)
def test_processes_are_torchruns_or_this_one_alone(monkeypatch, rank, world, expected):
    for name, value in (("RANK", rank), ("WORLD_SIZE", world)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    assert processes() == expected
    if expected == (0, 1):
        assert len(evaluate()) == len(X)
        np.testing.assert_array_equal(evaluate().elbo, evaluate().elbo)


@pytest.mark.parametrize(("rank", "world"), [("2", "2"), ("-1", "2"), ("one", "2"), ("0", "")])
def test_ranks_that_cannot_be_are_named(monkeypatch, rank, world):
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", world)
    with pytest.raises(PvaeError, match=f"RANK={rank} and WORLD_SIZE={world}"):
        evaluate()


RANKS = """
import sys, torch, warnings
import torch.distributed as dist
import test_work as t
from pathlib import Path
rank, place = int(sys.argv[1]), Path(sys.argv[2])
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{place}/store", rank=rank, world_size=2)
cases = {
    "same": {}, "seed": {"seed": rank}, "data": {"x": t.X + rank},
    "samples": {"num_samples": 5 + rank},
    "chains": {"ais": 2, "num_chains": 4 + rank}, "estimators": {"prior_samples": 5 * rank},
    "folder": {"out": place / "run" if rank == 0 else None}, "again": {},
}
for name, options in cases.items():
    try:
        found = t.evaluate(**options)
        print(name, len(found), found.log_px.sum())
    except t.PvaeError as error:
        print(name, error)


def compute(block):
    if block[0] == 1:  # the second process's
        raise kind("stop here")
    return {"x": block}


for kind in (t.PvaeError, OSError):
    try:
        t.Work(None, {}, False).map("a", [t.np.arange(1), t.np.arange(1, 2)], compute)
    except Exception as error:
        print(kind.__name__, f"{type(error).__name__}: {error}")
"""


def test_processes_share_out_one_evaluation_or_refuse(tmp_path):
    env = os.environ | {"WORLD_SIZE": "2"}
    here = os.path.dirname(__file__)
    env["PYTHONPATH"] += os.pathsep + os.pathsep.join([here, os.path.dirname(here)])
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANKS, str(rank), tmp_path],
            env=env | {"RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    said = [
        dict(line.split(" ", 1) for line in process.communicate(timeout=300)[0].splitlines())
        for process in ranks
    ]
    alone = evaluate()
    for each in said:
        for name in ("same", "again", "folder"):
            assert each[name] == f"{len(X)} {alone.log_px.sum()}"
        for name, what in (
            ("seed", "seed"), ("data", "data"), ("samples", "num_samples"),
            ("chains", "estimators"), ("estimators", "estimators"),
        ):  # fmt: skip
            assert "do not evaluate the same" in each[name]
            assert f"another {what}" in each[name] or f"and another {what}" in each[name]
    # What one of them raises ends all. What is no PvaeError is a bug, and must not pass for a
    # property of the pair.
    assert said[1]["PvaeError"] == said[0]["PvaeError"] == "PvaeError: stop here"
    assert said[1]["OSError"] == "OSError: stop here"
    assert said[0]["OSError"] == "RuntimeError: OSError: stop here"


def test_a_lock_of_an_evaluation_ends_with_it(tmp_path):
    evaluate(out=tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["evaluation.json", "evaluation.nc"]
    with pytest.raises(PvaeError, match="seed"):
        evaluate(out=tmp_path, seed=-1)
    with locked(tmp_path):
        evaluate(out=tmp_path)
    assert not (tmp_path / ".lock").exists()
