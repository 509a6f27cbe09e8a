"""Import of the reference work's checkpoint (arXiv 2604.01167) into our own model."""
