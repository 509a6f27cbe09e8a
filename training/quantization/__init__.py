"""Fake quantization, what it errs by, and which layers had better stay float."""
