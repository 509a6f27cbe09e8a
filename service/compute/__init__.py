"""From an accepted request to its masks: the waiting room, the worker, the model, readiness."""
