"""The benchmark suite: `python -m benchmarks --help`, and README.md in this folder."""
