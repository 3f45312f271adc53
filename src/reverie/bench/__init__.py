"""Figures of the package, measured: what `reverie bench` runs."""

from reverie.bench.choose import CHOOSE
from reverie.bench.coverage import coverage_jobs
from reverie.bench.coverage_page import coverage_page, coverage_table
from reverie.bench.distill import DISTILL
from reverie.bench.dream import DREAM
from reverie.bench.main_job import MAIN_JOB

__all__ = ["BENCHES", "DETAILS", "PAGES", "RESUMABLE"]

BENCHES = {"choose": CHOOSE, "coverage": coverage_jobs(), "distill": DISTILL, "dream": DREAM, "main-job": MAIN_JOB}

RESUMABLE = {"coverage": coverage_jobs}
"""Benchmark -> its jobs, for a folder that keeps what was measured."""

DETAILS = {"coverage": coverage_table}
"""Benchmark -> a table of what its folder holds."""

PAGES = {"coverage": coverage_page}
"""Benchmark -> its page of the documents, from its folder and its JSON object."""
