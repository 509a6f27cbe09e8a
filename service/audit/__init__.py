"""The audit log: who had which X-ray segmented by which model, as a chain of sealed lines."""
