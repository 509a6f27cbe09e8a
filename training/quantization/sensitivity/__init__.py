"""The loss of quality by quantizing single layers, and the choice of layers that stay float."""
