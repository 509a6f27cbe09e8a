"""Faster training, or training in less memory: processes, graphs, compiling, bfloat16."""
