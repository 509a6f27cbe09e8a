"""The running service measured from outside: latency, load, and masks that do not depend on it."""
