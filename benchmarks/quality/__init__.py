"""Benchmarks of the quality of masks: inexact boxes, unusual X-rays, disagreeing annotators."""
