"""Measures minidl against PyTorch: `python -m benchmarks --help`."""
