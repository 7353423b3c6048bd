"""Commands, help, exit codes."""

import os
import subprocess
import sys

import pytest
from shell import shell

import pvae
import pvae.evaluation
from pvae.cli import main


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


@pytest.mark.parametrize(
    ("own", "expected"),
    [({}, "3000"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None"), ({"GOMP_SPINCOUNT": "7"}, "7")],
)
def test_threads_that_wait_sleep_soon_unless_the_user_chooses(own, expected):
    program = (
        "import os, sys; from pvae.cli import main; main(['--version']);"
        "assert 'torch' not in sys.modules; print(os.environ.get('GOMP_SPINCOUNT'))"
    )
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    env = {name: value for name, value in os.environ.items() if name not in names}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, env=env | own
    )
    assert done.stdout.split()[-1] == expected


def test_python_m_pvae_and_its_exit_codes(capsys):
    done = shell("--version")
    assert (done.returncode, done.stdout) == (0, f"pvae {pvae.__version__}\n")
    done = shell("rnu")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "pvae: error: There is no command rnu. Did you mean run?\n"
    assert main(["report", "nowhere"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("pvae: error: There is no nowhere")
    assert said.count("\n") == 1


def test_no_command_shows_the_help_and_fails(capsys):
    assert main([]) == 2
    assert "pvae COMMAND" in capsys.readouterr().err


def test_list_has_a_line_for_each_name(capsys):
    assert main(["list"]) == 0
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    listed = {line[0] for line in lines if len(line) == 2}
    for known in (pvae.models.__all__, pvae.guides.__all__, pvae.data.names()):
        assert set(known) <= listed
    assert [line[1] for line in lines if "scikit-learn" in line[-1]] == [
        "scikit-learn's digits, dynamic",
        "videos of two of scikit-learn's digits, 16×16, dynamic",
    ]


def test_a_pipe_that_closes_is_no_error(here):
    done = subprocess.run(
        f"{sys.executable} -m pvae list | head -c 1", shell=True, capture_output=True, text=True
    )
    assert done.stderr == ""
