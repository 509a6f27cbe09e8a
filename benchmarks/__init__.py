"""Commands that print every figure of the documentation; README.md lists them."""
