"""Benchmarks of executing stored models: engines, exactness, full size, GPU kernels."""
