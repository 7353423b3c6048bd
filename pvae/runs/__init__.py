"""A run as a folder: its config, and its pair built again.

Imports `training`, `pair`, `runtime` and `errors`.
"""

from pvae.runs.config import (
    GIVEN,
    build_pair,
    full_name,
    load_yaml,
    names_of,
    one_line,
    parameters,
    read_config,
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
    "full_name",
    "load",
    "load_yaml",
    "names_of",
    "one_line",
    "parameters",
    "read_config",
    "read_history",
    "resolve",
    "shared",
    "trusted",
    "typed",
]
