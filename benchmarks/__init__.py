"""Figures of this project beside its peers and the bare transport: `python -m benchmarks --help`."""
