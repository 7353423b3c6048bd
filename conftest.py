"""Tests in parallel processes have one thread each: on two cores, two of two are far slower."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"
