"""Benchmarks that train: methods, sizes, speed."""
