"""Benchmarks: each prints a table of ratios taken in one run, and writes JSON. `python -m benchmarks.<name> --help`."""
