"""The quality head: what kind of picture an X-ray is, learned from changed X-rays and others."""
