"""The checkpoint of the reference work (arXiv 2604.01167), read into our own model."""
