"""A run as a folder: reads its config and history, builds its pair again, saves a pair to share.

Imports `training`, `evaluation`, `predictive`, `pair`, `data`, `distributions`, `drawing`,
`runtime` and `errors`.
"""

from pvae.runs.build import GIVEN, build_pair, one_line, parameters, typed
from pvae.runs.codes import codes, read_codes
from pvae.runs.config import load_yaml, names_of, read_config, renamed
from pvae.runs.folder import load, read_history, read_made
from pvae.runs.names import from_file, full_name, in_file, resolve, shared
from pvae.runs.saving import EXPORTED, save
from pvae.runs.trust import check_trust, trusted

__all__ = [
    "EXPORTED",
    "GIVEN",
    "build_pair",
    "check_trust",
    "codes",
    "from_file",
    "full_name",
    "in_file",
    "load",
    "load_yaml",
    "names_of",
    "one_line",
    "parameters",
    "read_codes",
    "read_config",
    "read_history",
    "read_made",
    "renamed",
    "resolve",
    "save",
    "shared",
    "trusted",
    "typed",
]
