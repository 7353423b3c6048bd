"""`pvae run` and `pvae train`: the run folder, repeated, overwritten and resumed runs."""

import functools

import numpy as np
import pytest
from shell import PAIR, QUICK, SMALL, names, numbers, shell, stored

import pvae
import pvae.evaluation
from pvae.cli import main
from pvae.cli.folder import RUN_FILES


def test_run_leaves_six_files_and_prints_the_table_and_the_report(here, capsys):
    assert main(["run", *SMALL, *QUICK, "--out", "out"]) == 0
    assert names(here / "out") == set(RUN_FILES)
    said = capsys.readouterr().out
    assert pvae.Evaluation.load("out").table() in said
    assert "report: out/report.html" in said


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
    argv = ["run", "--model", "pair.py:model", "--guide", "pair.py:guide", *QUICK]
    assert main([*argv, "--out", "a"]) == 0
    # In another process, because a process runs the file, which draws its networks, only once.
    done = shell(*argv, "--out", "b")
    assert done.returncode == 0, done.stderr
    assert names(here / "a") == {*RUN_FILES, "source"}
    assert numbers(here / "a") == numbers(here / "b")


def test_a_folder_with_a_run_is_kept_without_overwrite(run, capsys):
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
    assert main([*argv, "--out", "stopped"]) == 130
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
    assert f"{option} cannot be used with --resume" in capsys.readouterr().err
    assert (run / "config.yaml").read_text() == before


def test_a_longer_training_is_announced_once(run, capsys):
    argv = ["train", "--resume", str(run), "--epochs", "3", "--progress", "false"]
    with pytest.warns(UserWarning, match="2 epochs") as said:
        assert main(argv) == 0
    assert len(said) == 1
    assert "epochs" not in capsys.readouterr().out
    assert stored(run)["epochs"] == 3


def test_a_folder_that_is_overwritten_loses_its_half_done_evaluation(here):
    import numpy as np

    from pvae.evaluation.work import Work, half_done

    assert main(["train", *SMALL, *QUICK, "--out", "a"]) == 0
    with Work(here / "a", {}, False) as work:
        work.map("x", [np.arange(2)], lambda block: {"x": block})
    assert half_done("a") == 1
    assert main(["train", *SMALL, *QUICK, "--out", "a", "--overwrite"]) == 0
    assert half_done("a") is None


def test_given_labels_reach_the_pair_and_the_report_has_a_row_for_each(here, capsys):
    pair = ["--model", "ConditionalVAE", "--guide", "ConditionalMeanField", "--given", "y"]
    assert main(["run", *pair, *QUICK, "--out", "run"]) == 0
    assert numbers(here / "run")["data"]["density"] == "p(x | y)"
    assert stored(here / "run")["data"]["labels"] is True
    page = (here / "run" / "report.html").read_text()
    assert "Each row is given one label, from the top: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9." in page
    assert "On this page, log p(x) stands for log p(x | y)." in page
    assert main(["check", *pair[1::2][:2], "--given", "y"]) == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--given", "y"], "--given y: VAE takes nothing beside x."),
        (["--given", "c"], "--given c: the data digits have no such field; they have x, y."),
        (
            ["--model", "ConditionalVAE", "--guide", "ConditionalMeanField"],
            "the shell --given y",
        ),
    ],
)
def test_what_cannot_be_given_is_named(here, capsys, options, said):
    assert main(["train", *options, *QUICK]) != 0
    assert said in capsys.readouterr().err


def test_partly_labelled_data_in_the_shell(here, capsys):
    pair = ["--model", "M2", "--guide", "LabelThenCode", "--data.labelled", "50"]
    mixed = ["--data.labelled_share", "0.25", "--loss", "SemiSupervised_ELBO", "--loss.alpha", "3"]
    assert main(["run", *pair, *mixed, *QUICK, "--out", "run"]) == 0
    assert "labels by q(y|x): error" in capsys.readouterr().out
    assert numbers(here / "run")["classifier"]["num_classes"] == 10
    assert stored(here / "run")["data"]["labelled"] == 50
    assert "Classification by q(y|x)" in (here / "run" / "report.html").read_text()
    assert main(["train", "--resume", "run"]) == 0
    assert main(["train", *pair, "--data.labelled", "5", *QUICK]) == 1
    assert "some would be without a single label. Give 10 or more" in capsys.readouterr().err


def test_frames_of_videos_in_the_shell(here, capsys):
    draw = np.random.RandomState(0)
    np.save("videos.npy", draw.randint(0, 2, (60, 4, 1, 8, 8)).astype(np.uint8))
    data = ["--data", "videos.npy", "--data.frames", "next", "--data.window", "3"]
    pair = ["--model", "NextFrames", "--guide", "FramesMeanField", "--model.latent_dim", "2"]
    quick = [*QUICK, "--given", "still"]
    assert main(["run", *data, *pair, *quick, "--out", "run"]) == 0
    assert numbers(here / "run")["data"]["density"] == "p(x | still)"
    config = stored(here / "run")
    assert config["model"]["init_args"]["event_shape"] == [2, 1, 8, 8]
    assert (config["data"]["frames"], config["data"]["window"]) == ("next", 3)
    assert "log p(x) stands for log p(x | still)" in (here / "run" / "report.html").read_text()
    assert main(["train", *data[:2], *pair, *QUICK, "--out", "whole"]) == 1
    assert "no still was given" in capsys.readouterr().err
