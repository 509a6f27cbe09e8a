"""Measurements that train: which method, which size, how fast."""
