"""Faults on purpose: see `run`."""
