"""Figures of the package, measured: what `reverie bench` runs."""
