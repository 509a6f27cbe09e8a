"""Which optimizer moves which weight, at which rate, and the running mean of the weights."""
