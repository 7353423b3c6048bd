"""diagnose(): explains what is wrong with a pair.

Imports `training`, `objectives`, `importance`, `pair`, `drawing`, `runtime` and `errors`.
"""

from pvae.diagnosis.diagnose import Diagnosis, diagnose

__all__ = ["Diagnosis", "diagnose"]
