"""What quantization changes: weights, activations, and where in the image masks differ."""
