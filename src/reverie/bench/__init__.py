"""Figures of the package, measured: what `reverie bench` runs."""

from reverie.bench.main_job import MAIN_JOB

__all__ = ["BENCHES"]

BENCHES = {"main-job": MAIN_JOB}
