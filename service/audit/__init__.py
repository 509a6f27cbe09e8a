"""The audit log: who had which X-ray segmented by which model, in lines that prove each other."""
