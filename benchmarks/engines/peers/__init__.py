"""Alternatives to this project's engine, each with the same two calls."""
