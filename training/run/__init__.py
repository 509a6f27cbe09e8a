"""One training run: put together, stepped, validated, logged, stopped and resumed."""
