"""Runs that are disturbed on purpose, see run.py."""

import os

# Before numpy and torch are imported: the process that forks must have one thread.
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"
