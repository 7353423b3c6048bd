"""The notebooks run from top to bottom, and are stored as they ran."""

import importlib.util
import json
import re
import sys
from pathlib import Path

import nbclient
import nbformat
import pytest

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))

_spec = importlib.util.spec_from_file_location("execute_notebooks", FOLDER / "execute.py")
script = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(script)
code_cells, small = script.code_cells, script.small

# A root folder or a drive, where a path can begin: not in "a/b", "://" or a LaTeX command.
ABSOLUTE = re.compile(r"(?<![\w.:/\\~-])(/(?:\w[\w.+-]*/)+[\w.+-]+|[A-Z]:\\\w+|~/\w+)|file://")


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    """A kernel of the interpreter that runs the tests, whatever kernels are installed."""
    folder = tmp_path / "jupyter" / "kernels" / "pvae-tests"
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = {"argv": command, "display_name": "pvae tests", "language": "python"}
    (folder / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.delenv("MPLBACKEND", raising=False)  # the kernel would draw with it, unseen
    return "pvae-tests"


def execute(notebook, kernel, folder):
    folder.mkdir(exist_ok=True)
    return script.execute(notebook, folder, kernel)


def kinds(cell):
    """What a reader sees under a cell; warnings depend on the machine."""
    seen = set()
    for output in cell.outputs:
        if output.output_type == "stream":
            seen |= {output.name} - {"stderr"}
        else:
            seen |= set(output.get("data", {output.output_type: None}))
    return seen


def stored_texts(notebook):
    """Everything in a notebook that a person reads, with where it stands."""
    for i, cell in enumerate(notebook.cells):
        yield f"cell {i}", cell.source
        yield f"metadata of cell {i}", json.dumps(cell.metadata)
        for output in cell.get("outputs", []):
            if output.output_type == "stream":
                yield f"output of cell {i}", output.text
            elif output.output_type == "error":
                yield f"error of cell {i}", "\n".join([output.evalue, *output.traceback])
            for kind, value in output.get("data", {}).items():
                if not kind.startswith("image/") or kind == "image/svg+xml":
                    yield f"output of cell {i}", value if isinstance(value, str) else str(value)
    yield "metadata", json.dumps(notebook.metadata)


def notebook_of(*sources):
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(s) for s in sources])


def test_there_is_a_notebook():
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_and_is_stored_with_its_output(path, kernel, tmp_path):
    stored = nbformat.read(path, as_version=4)
    nbformat.validate(stored)
    fresh = execute(small(stored), kernel, tmp_path / "empty")
    for before, after in zip(code_cells(stored), code_cells(fresh), strict=True):
        assert not any(
            o.output_type == "error" or o.get("name") == "stderr" for o in before.outputs
        ), before.source
        assert kinds(before) == kinds(after), before.source


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_was_executed_in_order(path):
    stored = nbformat.read(path, as_version=4)
    counts = [cell.execution_count for cell in code_cells(stored)]
    assert counts == list(range(1, len(counts) + 1))
    assert any("image/png" in kinds(cell) for cell in code_cells(stored))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_holds_nothing_of_the_machine_it_ran_on(path):
    stored = nbformat.read(path, as_version=4)
    for where, text in stored_texts(stored):
        assert not (found := ABSOLUTE.search(text)), f"{where}: {found.group()}"
    assert not any("execution" in cell.metadata for cell in stored.cells), "execution times"
    assert stored.metadata.kernelspec.name == "python3"


def test_the_small_form_changes_sizes_that_the_notebook_has():
    notebook = notebook_of("EPOCHS = 100", "print(EPOCHS)")
    notebook.cells[0].metadata = {"tags": ["parameters"], "small": "EPOCHS = 2"}
    assert small(notebook).cells[0].source == "EPOCHS = 100\nEPOCHS = 2"
    assert notebook.cells[0].source == "EPOCHS = 100"
    for path in NOTEBOOKS:
        for cell in code_cells(nbformat.read(path, as_version=4)):
            if "small" in cell.metadata:
                assert "parameters" in cell.metadata["tags"], path
                sizes = re.findall(r"^(\w+) *=", cell.metadata["small"], re.M)
                assert sizes
                assert all(re.search(rf"^{name} *=", cell.source, re.M) for name in sizes), path


def test_a_cell_that_breaks_is_an_error(kernel, tmp_path):
    with pytest.raises(nbclient.exceptions.CellExecutionError, match="ZeroDivisionError"):
        execute(notebook_of("import pvae", "1 / 0"), kernel, tmp_path / "empty")


def test_the_kernel_is_this_interpreter_in_an_empty_folder(kernel, tmp_path):
    fresh = execute(
        notebook_of("import os, sys", "print(sys.executable); print(os.listdir())"),
        kernel,
        tmp_path / "empty",
    )
    assert fresh.cells[1].outputs[0].text.splitlines() == [sys.executable, "[]"]


@pytest.mark.parametrize(
    "text",
    [
        "/home/someone/pvae/loop.py:3: UserWarning",
        "failed (at /tmp/ipykernel_1/2.py:7): ValueError",
        "'/usr/lib'",
        r"C:\Users\someone",
        "~/data",
        "file://x",
    ],
)
def test_an_absolute_path_is_found(text):
    assert ABSOLUTE.search(text)


@pytest.mark.parametrize(
    "text",
    [
        r"$\tfrac1K/2$",
        "input/output",
        "1300/64 steps",
        "https://arxiv.org/abs/1312.6114",
        "[0, 1)/2",
        "image/png",
        "p(x)/q(z)/2",
    ],
)
def test_what_is_no_path_is_left_alone(text):
    assert not ABSOLUTE.search(text)
