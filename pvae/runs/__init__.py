"""A run as a folder: its config, and its pair built again.

Imports `training`, `pair`, `runtime` and `errors`.
"""

from pvae.runs.config import (
    GIVEN,
    build_pair,
    from_file,
    full_name,
    in_file,
    load_yaml,
    names_of,
    one_line,
    parameters,
    read_config,
    renamed,
    resolve,
    shared,
    typed,
)
from pvae.runs.folder import load, read_history
from pvae.runs.trust import check_trust, trusted

__all__ = [
    "GIVEN",
    "build_pair",
    "check_trust",
    "from_file",
    "full_name",
    "in_file",
    "load",
    "load_yaml",
    "names_of",
    "one_line",
    "parameters",
    "read_config",
    "read_history",
    "renamed",
    "resolve",
    "shared",
    "trusted",
    "typed",
]
