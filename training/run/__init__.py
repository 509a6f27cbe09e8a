"""One training run: assembly, steps, validation, log, stopping and resumption."""
