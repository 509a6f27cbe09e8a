"""How much quality each layer costs when it alone is quantized, and which ones stay float."""
