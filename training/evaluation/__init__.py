"""Evaluation of stored models, and of INT8 against FP32: measures, statistics and tables."""
