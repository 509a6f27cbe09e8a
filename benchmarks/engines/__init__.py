"""Executing stored models: this engine beside others, exactness, full size, GPU kernels."""
