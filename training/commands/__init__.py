"""Commands of ``python -m training`` in modules of their own: arguments and what they print."""
