"""How a stored model is executed fast: fused kernels, their fallback, and what checks them."""
