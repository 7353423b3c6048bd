"""The site: `make docs` builds it into build/docs, offline, and a warning is an error."""

import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

from pvae.version import __version__  # noqa: E402

project = "pvae"
author = "The pvae developers"
copyright = author
version = release = __version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "site_extension",
]
exclude_patterns = ["description.md", "**/.ipynb_checkpoints"]
# Pages that are kept elsewhere in the repository.
for folder in ("notebooks", "benchmarks/results"):
    shutil.copytree(ROOT / folder, ROOT / "docs" / Path(folder).name, dirs_exist_ok=True)
templates_path = ["_templates"]

# Docstrings: `name` in single backticks is code, and a link where it is the name of something.
default_role = "py:obj"
autosummary_ignore_module_all = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True

# Pages: Markdown, with $equations$; notebooks are shown as they are stored, and not run.
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
nb_execution_mode = "off"
nb_merge_streams = True
suppress_warnings = ["myst.header"]  # a result table may start with a smaller heading
html_math_renderer = "mathml"

html_theme = "furo"
html_title = "pvae"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
