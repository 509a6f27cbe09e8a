"""Fake quantization, its error, and which layers stay float."""
