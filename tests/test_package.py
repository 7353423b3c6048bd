"""The package as such: lazy, documented names, no change to Pyro or torch on import."""

import ast
import pkgutil
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import lazy_loader
import pyro
import pytest
import yaml

import pvae

ROOT = Path(__file__).parents[1]


def _run(script: str) -> str:
    command = [sys.executable, "-c", textwrap.dedent(script)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_every_public_name_is_there():
    for name in pvae.__all__:
        assert getattr(pvae, name) is not None
    assert callable(pvae.write_report)
    assert set(pvae.__all__) <= set(dir(pvae))
    assert issubclass(pvae.objectives.IWAE_ELBO, pyro.infer.ELBO)
    with pytest.raises(AttributeError, match="no_such_name"):
        pvae.no_such_name  # noqa: B018


def test_the_table_for_editors_is_the_one_that_names_are_loaded_from():
    tree = ast.parse(Path(pvae.__file__).with_suffix(".pyi").read_text("utf-8"))
    (listed,) = (node.value for node in tree.body if isinstance(node, ast.Assign))
    assert sorted(ast.literal_eval(listed)) == sorted(pvae.__all__)


def test_the_version_is_in_one_place_and_the_citation_repeats_it():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    assert "version" not in project["project"]
    attribute = project["tool"]["setuptools"]["dynamic"]["version"]["attr"]
    assert pkgutil.resolve_name(attribute) == pvae.__version__
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == pvae.__version__


def test_import_is_lazy_and_changes_nothing_in_pyro_or_torch():
    assert _run("import sys, pvae; print('torch' in sys.modules)") == "False"
    script = """
        import os, pyro, torch, matplotlib
        def state():
            return (pyro.settings.get(), list(pyro.get_param_store().keys()),
                    torch.get_default_dtype(), torch.get_rng_state().tolist(),
                    torch.distributions.Distribution._validate_args, torch.get_num_threads(),
                    list(pyro.poutine.runtime._PYRO_STACK),
                    matplotlib.get_backend(), torch.is_grad_enabled())
        before = state()
        os.chdir("/")  # models and guides are in the package, not in the current folder
        import pvae, pvae.models, pvae.guides
        for name in pvae.__all__:
            getattr(pvae, name)
        import pvae.cli, pvae.runs, pvae.report, pvae.training, pvae.diagnosis
        print(state() == before)
    """
    assert _run(script) == "True"


def test_scikit_learns_digits_are_read_without_scikit_learn():
    seen = "print([name in sys.modules for name in ('sklearn', 'scipy')])"  # two seconds
    assert _run(f"import sys, pvae; pvae.data.load('digits'); {seen}") == "[False, False]"


def test_models_and_guides_install_inside_the_package():
    assert pvae.models.__name__ == "pvae.models"
    assert pvae.models.VAE.__module__ == "pvae.models.vae"


def test_a_checkout_holds_all_of_pvae_whatever_is_installed():
    names = ("pvae", "pvae.models", "pvae.guides")
    libraries = Path(lazy_loader.__file__).parents[1]
    script = f"""
        import sys
        from importlib.util import find_spec
        sys.path[:0], sys.path[-1:] = [{str(ROOT)!r}], [{str(libraries)!r}]
        print(*(find_spec(name).origin for name in {names}), sep="\\n")
    """
    command = [sys.executable, "-S", "-c", textwrap.dedent(script)]
    found = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert [Path(path).parent for path in found] == [ROOT.joinpath(*n.split(".")) for n in names]
    assert [Path(sys.modules[name].__file__).resolve() for name in names] == [
        Path(path).resolve() for path in found
    ]
