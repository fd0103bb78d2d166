"""Benchmarks: `python -m bench` lists them, `python -m bench NAME` runs one (docs/benchmarks.md has what they gave).

Each is a module with a docstring whose first line says what it measures, `run(options)` and, where it has options of
its own, `add_options(parser)`. This file imports nothing: parts of the package also run where there is no PyTorch.
"""
