"""Optimizers and rates of the groups of weights, and the running mean of the weights."""
