"""`pvae evaluate` and `pvae report`: what they make again, add to and refuse."""

import pytest
import yaml
from shell import QUICK, SMALL, names, numbers

import pvae
import pvae.evaluation
from pvae.cli import main
from pvae.cli.folder import RUN_FILES


def test_evaluate_and_report_make_their_files_again(run, finished, capsys):
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
def test_a_run_without_a_checkpoint_names_the_command_that_makes_it(run, capsys, command):
    (run / "checkpoint.pt").unlink()
    assert main([command, str(run)]) == 1
    assert f"`pvae train --resume {run}` makes it" in capsys.readouterr().err
    assert main([command]) == 2
    named = {"evaluate": "RUN: must be given", "report": "Name the folder of an evaluated run"}
    assert named[command] in capsys.readouterr().err
    assert main([command, str(run), "--num_sample", "3"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_an_evaluation_is_added_to_from_the_shell(here, capsys):
    assert main(["run", *SMALL, *QUICK, "--out", "a", "--num_samples", "[3, 20]"]) == 0
    before = (here / "a" / "evaluation.nc").stat().st_mtime_ns
    more = ["--ais", "3", "--num_temperatures", "5", "--num_chains", "4", "--progress", "false"]
    assert main(["evaluate", "a", *more]) == 0
    assert "AIS from the prior" in capsys.readouterr().out
    assert (here / "a" / "evaluation.nc").stat().st_mtime_ns > before
    assert main(["report", "a"]) == 0
    assert "AIS from the prior" in (here / "a" / "report.html").read_text()
    # The number of samples and AIS need not be given again.
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
    # The config has all of these options.
    config = yaml.safe_load((here / "a" / "config.yaml").read_text())
    assert (config["ais"], config["bdmc"], config["gap"], config["num_chains"]) == (3, 2, 2, 2)
    assert (config["seed"], config["num_samples"]) == (0, [3, 20])
    none = ["--ais", "0", "--bdmc=0", "--gap=0", "--quadrature=false"]
    with pytest.warns(UserWarning, match="is replaced, and its other results are lost"):
        assert main(["evaluate", "a", "--seed", "1", *none]) == 0
    assert yaml.safe_load((here / "a" / "config.yaml").read_text())["seed"] == 0  # the training's


def test_a_killed_evaluation_continues_although_an_older_one_exists(here, monkeypatch):
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


def test_wrong_numbers_are_refused_before_anything_is_written(here, capsys):
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
    assert "a/config.yaml is a file: name the run's folder." in capsys.readouterr().err
