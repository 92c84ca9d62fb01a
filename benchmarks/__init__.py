"""Measures minidl, alone or against PyTorch: `python -m benchmarks --help`."""
