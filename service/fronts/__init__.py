"""Fronts: processes that hold callers' connections, in front of the serving process."""
