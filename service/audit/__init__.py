"""The audit log: caller, X-ray, model and answer of each request, in a chain of sealed lines."""
