"""Measurements of the served model: speed, and masks that do not depend on the load."""
