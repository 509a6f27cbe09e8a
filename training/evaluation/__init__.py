"""How good is a stored model, and is INT8 as good as FP32? Measures, statistics and tables."""
