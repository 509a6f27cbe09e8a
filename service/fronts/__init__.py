"""Several processes that hold callers' connections, before the one that serves them."""
