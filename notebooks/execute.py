"""Runs notebooks from top to bottom and stores them with their output.

    python notebooks/execute.py                # all
    python notebooks/execute.py 01 12          # some
    python notebooks/execute.py 03 --small     # in the form of the tests; stores nothing

A notebook says in its cell tagged "parameters" how large its run is. The tests add the lines that
this cell's metadata have under "small". Warnings are printed here and not stored, because they
depend on the machine.
"""

import argparse
import copy
import sys
import time
from pathlib import Path

import nbclient
import nbformat
from nbformat import NotebookNode

FOLDER = Path(__file__).parent


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """Returns the cells that run."""
    return [c for c in notebook.cells if c.cell_type == "code" and c.source.strip()]


def small(notebook: NotebookNode) -> NotebookNode:
    """Returns the notebook with the sizes that the tests give it."""
    fresh = copy.deepcopy(notebook)
    for cell in code_cells(fresh):
        if "parameters" in cell.metadata.get("tags", []):
            cell.source += "\n" + cell.metadata["small"]
    return fresh


def execute(notebook: NotebookNode, folder: Path, kernel: str = "python3") -> NotebookNode:
    """Runs the cells in a folder, and returns the notebook as it would be stored."""
    fresh = copy.deepcopy(notebook)
    for cell in code_cells(fresh):
        cell.outputs, cell.execution_count = [], None
    nbclient.NotebookClient(
        fresh,
        kernel_name=kernel,
        timeout=None,
        record_timing=False,
        resources={"metadata": {"path": str(folder)}},
    ).execute()
    return fresh


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help="numbers or names; by default all")
    parser.add_argument("--small", action="store_true", help="as the tests do; stores nothing")
    options = parser.parse_args()
    for path in sorted(FOLDER.glob("*.ipynb")):
        if options.names and not any(path.stem.startswith(name) for name in options.names):
            continue
        stored = nbformat.read(path, as_version=4)
        start = time.perf_counter()
        fresh = execute(small(stored) if options.small else stored, FOLDER)
        print(f"{path.stem}: {time.perf_counter() - start:.0f} s", flush=True)
        for cell in code_cells(fresh):
            for output in cell.outputs:
                if output.get("name") == "stderr":
                    print(output.text, file=sys.stderr)
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
        fresh.metadata.kernelspec = stored.metadata.kernelspec
        if not options.small:
            nbformat.write(fresh, path)


if __name__ == "__main__":
    main()
