"""The running service measured from outside: latency, rates under load, and identical masks."""
